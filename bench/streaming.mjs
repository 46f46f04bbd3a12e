// A 4 GiB model in 2 GiB of memory, from a disk of known speed: seconds per token of Spillway and of node-llama-cpp's
// memory map, against (bytes not resident) / (speed of the disk); then how near to that speed loading comes.
//   node bench/streaming.mjs [--rates 400,800,1600] [--tokens 4] [--repeats 1] [--layers N] [--memory MIB]
// Needs root, blkio cgroup v1, and RAM for the disk (12 GiB) and the loads; one such run at a time.
import { cp } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";
import { hasLlamaCpp, MODEL_OPTIONS, prepareModel, run } from "./lib/cases.mjs";
import { availableMemory, dropCaches, KnownDisk, whyNoKnownDisk } from "./lib/known-disk.mjs";
import { mib, round, table, writeResult } from "./lib/results.mjs";
import { STREAMING_OPTIONS, streamingCase, streamingRows, streamingSettings } from "./lib/streaming-case.mjs";

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const SKIPPED = 77; // what test programs exit with when they did not run

/** @typedef {import("./lib/cases.mjs").Model} Model */

/**
 * The model and its GGUF twin on the disk.
 * @param {KnownDisk} disk
 * @param {Model} model
 * @returns {Promise<Model>}
 */
async function copyTo(disk, model) {
  const copy = {
    ...model,
    checkpoint: path.join(disk.dir, "checkpoint"),
    gguf: path.join(disk.dir, "model.gguf"),
  };
  console.error("copying the model to the known disk ...");
  const needed = /\.(json|safetensors)$/; // a checkpoint from the Hub may hold the weights in other formats too
  const filter = (/** @type {string} */ file) => file === model.checkpoint || needed.test(file);
  await cp(model.checkpoint, copy.checkpoint, { recursive: true, filter });
  await cp(model.gguf, copy.gguf);
  return copy;
}

/**
 * Loading with everything resident and no limit of memory, as a share of the disk's speed.
 * @param {KnownDisk} disk
 * @param {Model} model
 * @param {number} mibPerSecond
 */
async function loading(disk, model, mibPerSecond) {
  const engines = /** @type {const} */ ({
    spillway: { "device-map": "cpu" },
    llama: { mmap: "false" }, // with a memory map loading reads nothing
  });
  /** @type {Record<string, { load_s: number, read_bytes: number, share_of_cap: number }>} */
  const result = {};
  for (const engine of /** @type {const} */ (["spillway", "llama"])) {
    if (engine === "llama" && !hasLlamaCpp()) continue;
    dropCaches();
    console.error(`${engine}, loading`);
    const options = { ...engines[engine], "prompt-tokens": 1, "new-tokens": 1 };
    const { load_s, load_read_bytes } = await run(engine, model, options, (command) => disk.within(command));
    const share_of_cap = load_read_bytes / MIB / load_s / mibPerSecond;
    result[engine] = { load_s, read_bytes: load_read_bytes, share_of_cap };
  }
  return result;
}

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
    const copy = await copyTo(disk, model);
    const cases = [];
    for (const rate of rates) {
      disk.rate(rate);
      console.error(`disk of ${rate} MiB/s`);
      const streaming = await streamingCase(disk, copy, settings, { mibPerSecond: rate });
      cases.push({ ...streaming, loading: await loading(disk, copy, rate) });
    }
    console.log(table(cases.flatMap(streamingRows)));
    console.log("\nloading, everything resident:");
    console.log(
      table(
        cases.flatMap(({ mib_per_s, loading }) =>
          Object.entries(loading).map(([engine, { load_s, read_bytes, share_of_cap }]) => ({
            "disk MiB/s": mib_per_s,
            engine: engine === "llama" ? "node-llama-cpp" : engine,
            "load s": round(load_s),
            "MiB read": mib(read_bytes),
            "share of cap %": round(100 * share_of_cap),
          })),
        ),
      ),
    );
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
