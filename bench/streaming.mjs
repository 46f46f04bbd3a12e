// A 4 GiB model in 2 GiB of memory, from a disk of known speed: seconds per token of Spillway and of node-llama-cpp's
// memory map, against (bytes not resident) / (speed of the disk).
//   node bench/streaming.mjs [--rates 400,800,1600] [--tokens 4] [--repeats 1] [--layers N] [--memory MIB]
// Needs root, blkio cgroup v1, and RAM for the disk (12 GiB) and the loads; one such run at a time.
import { parseArgs } from "node:util";
import { copyTo, MODEL_OPTIONS, prepareModel } from "./lib/cases.mjs";
import { availableMemory, KnownDisk, whyNoKnownDisk } from "./lib/known-disk.mjs";
import { round, table, writeResult } from "./lib/results.mjs";
import { STREAMING_OPTIONS, streamingCase, streamingRows, streamingSettings } from "./lib/streaming-case.mjs";

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const SKIPPED = 77; // what test programs exit with when they did not run

async function main() {
  const { values } = parseArgs({
    options: { ...MODEL_OPTIONS, ...STREAMING_OPTIONS, rates: { type: "string", default: "400,800,1600" } },
  });
  const settings = streamingSettings(values);
  const rates = values.rates.split(",").map(Number);
  if (!rates.every((rate) => rate > 0)) throw new Error(`--rates is a list of MiB/s, not ${values.rates}`);

  const model = await prepareModel(values);
  // both copies and the packed one, 2 % of file system and room for the tokenizer; 12 GiB for the 4 GiB preset
  const sizeGib = Math.ceil((2.8 * model.weightBytes * 1.02 + 64 * MIB) / GIB);
  const needed = sizeGib * GIB + model.weightBytes + 2 * GIB;
  if (availableMemory() < needed)
    throw new Error(
      `needs ${round(needed / GIB)} GiB of free RAM, ${round(availableMemory() / GIB)} GiB are; try --layers`,
    );

  const disk = new KnownDisk({ sizeGib, mibPerSecond: rates[0] ?? 0 });
  try {
    const copy = await copyTo(disk.dir, model);
    const cases = [];
    for (const rate of rates) {
      disk.rate(rate);
      console.error(`disk of ${rate} MiB/s`);
      cases.push(await streamingCase(disk, copy, settings, { mibPerSecond: rate }));
    }
    console.log(table(cases.flatMap(streamingRows)));
    await writeResult("streaming", { model: model.name, weight_bytes: model.weightBytes, settings, cases });
  } finally {
    disk.down();
  }
}

const reason = whyNoKnownDisk();
if (reason) {
  console.error(`skipped: a disk of known speed ${reason}`);
  process.exitCode = SKIPPED;
} else await main();
