// A 4 GiB model in 2 GiB of memory, from a disk of known speed: seconds per token of Spillway and of node-llama-cpp's
// memory map, against (bytes not resident) / (speed of the disk).
//   node bench/streaming.mjs [--rates 400,800,1600] [--tokens 4] [--repeats 1] [--layers N] [--memory MIB]
// Needs root, blkio cgroup v1, and RAM for the disk (12 GiB) and the loads; one such run at a time.
import { parseArgs } from "node:util";
import { copyTo, MODEL_OPTIONS, prepareModel } from "./lib/cases.mjs";
import { onKnownDisk, whyNoKnownDisk } from "./lib/known-disk.mjs";
import { table, writeResult } from "./lib/results.mjs";
import { counts } from "./lib/runner.mjs";
import { runUnless } from "./lib/skip.mjs";
import { STREAMING_OPTIONS, streamingCase, streamingRows, streamingSettings } from "./lib/streaming-case.mjs";

const MIB = 2 ** 20;
const GIB = 2 ** 30;

async function main() {
  const { values } = parseArgs({
    options: { ...MODEL_OPTIONS, ...STREAMING_OPTIONS, rates: { type: "string", default: "400,800,1600" } },
  });
  const settings = streamingSettings(values);
  const rates = counts(values, "rates");

  const model = await prepareModel(values);
  // both copies and the packed one, 2 % of file system and room for the tokenizer; 12 GiB for the 4 GiB preset
  const sizeGib = Math.ceil((2.8 * model.weightBytes * 1.02 + 64 * MIB) / GIB);
  const ramBytes = model.weightBytes + 2 * GIB;
  await onKnownDisk({ sizeGib, ramBytes, mibPerSecond: rates[0] ?? 0 }, async (disk) => {
    const copy = await copyTo(disk.dir, model);
    const cases = [];
    for (const rate of rates) {
      disk.rate(rate);
      console.error(`disk of ${rate} MiB/s`);
      cases.push(await streamingCase(disk, copy, settings, { mibPerSecond: rate }));
    }
    console.log(table(cases.flatMap(streamingRows)));
    await writeResult("streaming", { model: model.name, weight_bytes: model.weightBytes, settings, cases });
  });
}

const reason = whyNoKnownDisk();
await runUnless(reason && `a disk of known speed ${reason}`, main);
