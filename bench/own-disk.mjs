// The streaming case on the machine's own disk, whatever that is: what a user would see, with no speed to hold it against
// but that of a plain sequential read made between the runs.
//   node bench/own-disk.mjs [--tokens 4] [--repeats 3] [--layers N] [--memory MIB] [--checkpoint DIR]
import { spawnSync } from "node:child_process";
import path from "node:path";
import { parseArgs } from "node:util";
import { MODEL_OPTIONS, prepareModel } from "./lib/cases.mjs";
import { OwnDisk, whyNoLimits } from "./lib/known-disk.mjs";
import { spread, table, withRange, writeResult } from "./lib/results.mjs";
import { runUnless } from "./lib/skip.mjs";
import { STREAMING_OPTIONS, streamingCase, streamingRows, streamingSettings } from "./lib/streaming-case.mjs";

/**
 * MiB/s of one direct sequential read of up to 2 GiB: dd, one read of 8 MiB at a time.
 * @param {string} file
 */
function sequentialRead(file) {
  const from = performance.now();
  const { status, stderr } = spawnSync(
    "dd",
    [`if=${file}`, "of=/dev/null", "bs=8M", "count=256", "iflag=direct"],
    {
      encoding: "utf8",
    },
  );
  const bytes = Number(/^(\d+) bytes/m.exec(stderr)?.[1]);
  if (status !== 0 || !bytes) throw new Error(`dd could not read ${path.basename(file)} directly: ${stderr}`);
  return bytes / 2 ** 20 / ((performance.now() - from) / 1000);
}

async function main() {
  const { values } = parseArgs({
    options: { ...MODEL_OPTIONS, ...STREAMING_OPTIONS, repeats: { type: "string", default: "3" } },
  });
  const settings = streamingSettings(values);
  const model = await prepareModel(values);
  const disk = new OwnDisk(path.dirname(model.gguf));
  /** @type {number[]} */
  const speeds = [];
  const before = () => speeds.push(sequentialRead(model.gguf));
  const result = await streamingCase(disk, model, settings, { before });
  console.log(table(streamingRows(result)));
  console.log(`\na plain sequential read: ${withRange(spread(speeds))} MiB/s`);
  await writeResult("own-disk", {
    model: model.name,
    weight_bytes: model.weightBytes,
    settings,
    sequential_read_mib_per_s: speeds,
    ...result,
  });
}

const reason = whyNoLimits();
await runUnless(reason && `limiting the memory of a run ${reason}`, main);
