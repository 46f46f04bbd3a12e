// spillway inspect: what a checkpoint is, and what would be where, from its headers alone. Reads no weights.

import { type Command, InvalidArgumentError } from "commander";
import { AbortError, ConfigError, LibraryError, SpillwayError } from "../../base/errors.ts";
import { requireModelFolder } from "../../formats/model-path.ts";
import { parseSize } from "../../memory/sizes.ts";
import type { EngineOptions } from "../../runtime/open/prepare.ts";
import { closeDevices } from "../../runtime/open/prepared.ts";
import { ToldInJson } from "../exit-codes.ts";
import { type Io, note, styled, writeJson, writeLines } from "../io.ts";
import { addModelOptions, engineOptions, type ModelFlags } from "../model-options.ts";
import { checkpointSummary, type PlanSummary, planSummary } from "./inspect-summary.ts";
import { checkpointLines, planLines } from "./inspect-text.ts";

interface InspectFlags extends ModelFlags {
  readonly diskBandwidth?: number;
  readonly measure?: boolean;
}

export function addInspect(program: Command, io: Io): void {
  addModelOptions(
    program.command("inspect").description("say what a checkpoint is and where its bytes would go"),
  )
    .option("--disk-bandwidth <rate>", 'predict seconds per token for a disk of this speed, "1.7GiB/s"', rate)
    .option("--measure", "measure the disk the checkpoint is on and predict with that (about a second)")
    .action((model: string, flags: InspectFlags) => inspect(io, model, flags));
}

async function inspect(io: Io, dir: string, flags: InspectFlags): Promise<void> {
  const options = { ...(await engineOptions(flags)), signal: io.signal };
  await requireModelFolder(dir);
  const { readSkeleton } = await import("../../runtime/open/skeleton.ts");
  const skeleton = await readSkeleton(dir, { dtype: options.dtype, signal: io.signal });
  const checkpoint = checkpointSummary(skeleton);
  let plan: PlanSummary | undefined;
  let { warnings } = checkpoint;
  let refused: SpillwayError | undefined;
  try {
    ({ plan, warnings } = await planned(io, dir, options, flags));
  } catch (error) {
    // The checkpoint is worth showing where its plan is not to be had; a wrong option is not.
    if (!(error instanceof SpillwayError) || error instanceof ConfigError || error instanceof AbortError)
      throw error;
    refused = error;
  }
  if (flags.json) {
    const plan_error = refused ? { code: refused.code, message: refused.message } : null;
    await writeJson(io, { ...checkpoint, warnings, plan: plan ?? null, plan_error });
  } else {
    const lines = [
      ...checkpointLines({ ...checkpoint, warnings }),
      ...(plan ? ["", ...planLines(plan)] : []),
    ];
    await writeLines(io, lines);
  }
  // Without the library there is just no plan; anything else is what would happen to `run` too.
  if (refused instanceof LibraryError)
    note(io, `${styled(io.stderr, "yellow", "no plan:")} ${refused.message}`);
  else if (refused) throw new ToldInJson(refused.message, { cause: refused });
}

async function planned(
  io: Io,
  dir: string,
  options: EngineOptions,
  flags: InspectFlags,
): Promise<{ plan: PlanSummary; warnings: readonly string[] }> {
  const { prepare } = await import("../../runtime/open/prepare.ts");
  const prepared = await prepare(dir, options);
  try {
    let bandwidth = flags.diskBandwidth;
    if (flags.measure) {
      const { diskSpeed } = await import("../disk-speed.ts");
      const measured = await diskSpeed(
        prepared.checkpoint.files.map((f) => f.path),
        io.signal,
      );
      bandwidth = measured.bytesPerSecond;
    }
    return { plan: planSummary(prepared, bandwidth), warnings: prepared.notes };
  } finally {
    await closeDevices(prepared);
  }
}

/** Bytes per second: a size, with or without "/s". */
function rate(text: string): number {
  let bytes = 0;
  try {
    bytes = parseSize(text.replace(/\/s$/, ""), "--disk-bandwidth");
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
  if (bytes === 0) throw new InvalidArgumentError("Expected a rate above 0.");
  return bytes;
}
