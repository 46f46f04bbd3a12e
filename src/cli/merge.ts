// spillway merge: writes a checkpoint that has an adapter added to its weights, so that it runs without one.

import type { Command } from "commander";
import { requireModelFolder } from "../formats/model-path.ts";
import { formatBytes, formatDuration } from "../memory/sizes.ts";
import type { WeightDType } from "../plan/options.ts"; // a name from outside is checked when the model is opened
import { tableLines } from "../report/table.ts";
import { shortPath } from "./installation.ts";
import { type Io, warn, writeJson, writeLines } from "./io.ts";
import { ProgressLine } from "./progress-line.ts";

interface MergeFlags {
  readonly dtype?: string;
  readonly quiet?: boolean;
  readonly json?: boolean;
}

const EXAMPLES = `
Examples:
  spillway merge ./Llama-3.2-1B ./my-adapter ./Llama-3.2-1B-merged
  spillway run ./Llama-3.2-1B --adapter ./my-adapter "Once upon a time"    (the same model, without merging)
`;

export function addMerge(program: Command, io: Io): void {
  program
    .command("merge")
    .description("write a checkpoint with an adapter merged into its weights")
    .argument("<base>", "directory of the checkpoint that the adapter is for")
    .argument("<adapter>", "directory of the PEFT LoRA adapter")
    .argument("<out>", "directory for the merged checkpoint; must not exist, or be empty")
    .option("--dtype <name>", "type of the merged weights: auto (the base's), float32, float16, bfloat16")
    .option("--quiet", "no progress")
    .option("--json", "one JSON document on stdout")
    .addHelpText("after", EXAMPLES)
    .action((base: string, adapter: string, out: string, flags: MergeFlags) =>
      merge(io, base, adapter, out, flags),
    );
}

async function merge(io: Io, base: string, adapter: string, out: string, flags: MergeFlags): Promise<void> {
  await requireModelFolder(base);
  const { mergeAdapter } = await import("../adapters/merge.ts");
  const line = flags.quiet ? undefined : new ProgressLine(io, undefined, { doing: "writing", done: "wrote" });
  const began = performance.now();
  try {
    const result = await mergeAdapter(base, adapter, out, {
      signal: io.signal,
      ...(flags.dtype !== undefined && { dtype: flags.dtype as WeightDType }),
      ...(line && {
        progress: (loaded: number, total: number) => {
          line.update({ status: loaded === total ? "done" : "progress", name: "", loaded, total });
        },
      }),
    });
    const seconds = (performance.now() - began) / 1000;
    warn(io, result.warnings);
    if (flags.json) return await writeJson(io, { ...result, seconds });
    const files = `${result.files.length} ${result.files.length === 1 ? "file" : "files"}`;
    const rows = [
      ["merged", shortPath(result.path)],
      ["weights", `${result.tensors} tensors in ${files}, ${formatBytes(result.bytes)}`],
      ["updates added", `${result.merged}`],
      ...(result.replaced > 0 ? [["parameters replaced", `${result.replaced}`]] : []),
      ...(result.untied.length > 0 ? [["no longer tied", result.untied.join(", ")]] : []),
      ...(result.left_out.length > 0 ? [["not copied", result.left_out.join(", ")]] : []),
      ["took", formatDuration(seconds)],
    ];
    await writeLines(io, tableLines(rows, ["left", "left"]));
  } finally {
    line?.end();
  }
}
