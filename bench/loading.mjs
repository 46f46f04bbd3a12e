// How near to the speed of the disk loading comes: everything resident, no limit of memory, the page cache empty.
//   node bench/loading.mjs [--rates 400,800,1600] [--repeats 5] [--layers N]
// Needs root, blkio cgroup v1, and RAM for the disk (9 GiB) and two models; one such run at a time. What is loaded goes
// into memory that the machine has handed out before (lib/warm-memory.mjs).
import { parseArgs } from "node:util";
import { copyTo, hasLlamaCpp, MODEL_OPTIONS, prepareModel, run } from "./lib/cases.mjs";
import { dropCaches, onKnownDisk, whyNoKnownDisk } from "./lib/known-disk.mjs";
import { mib, spread, table, withRange, writeResult } from "./lib/results.mjs";
import { count, counts } from "./lib/runner.mjs";
import { runUnless } from "./lib/skip.mjs";

const MIB = 2 ** 20;
const GIB = 2 ** 30;

/** @typedef {import("./lib/cases.mjs").Model} Model */

const ENGINES = /** @type {const} */ ([
  { engine: "spillway", own: { "device-map": "cpu" }, copies: 1 },
  // with a memory map loading reads nothing; what is read passes through the page cache
  { engine: "llama", own: { mmap: "false" }, copies: 2 },
]);

/**
 * @param {KnownDisk} disk
 * @param {Model} model
 * @param {number} mibPerSecond
 * @param {number} repeats
 */
async function loading(disk, model, mibPerSecond, repeats) {
  const engines = ENGINES.filter(({ engine }) => engine !== "llama" || hasLlamaCpp());
  /** @type {Record<string, { load_s: number, read_bytes: number, share_of_cap: number }[]>} */
  const runs = Object.fromEntries(engines.map(({ engine }) => [engine, []]));
  // Not alternating: each is held against the disk, and the machine is busy for a while with the memory of a process that
  // took another amount of it.
  for (const { engine, own, copies } of engines) {
    for (let i = 0; i < repeats; i++) {
      dropCaches();
      console.error(`${engine}, loading at ${mibPerSecond} MiB/s, repeat ${i + 1} of ${repeats}`);
      const warm = Math.ceil((copies * model.weightBytes) / MIB) + 256;
      const options = { ...own, "prompt-tokens": 1, "new-tokens": 1, "warm-mib": warm };
      const { load_s, load_read_bytes } = await run(engine, model, options, (command) =>
        disk.within(command),
      );
      const share_of_cap = load_read_bytes / MIB / load_s / mibPerSecond;
      runs[engine]?.push({ load_s, read_bytes: load_read_bytes, share_of_cap });
    }
  }
  const sides = Object.entries(runs).map(([engine, own]) => ({
    engine: engine === "llama" ? "node-llama-cpp" : engine,
    share_of_cap: spread(own.map((r) => r.share_of_cap)),
    load_s: spread(own.map((r) => r.load_s)),
    runs: own,
  }));
  return { mib_per_s: mibPerSecond, sides };
}

async function main() {
  const { values } = parseArgs({
    options: {
      ...MODEL_OPTIONS,
      rates: { type: "string", default: "400,800,1600" },
      repeats: { type: "string", default: "5" },
    },
  });
  const repeats = count(values, "repeats", 1);
  const rates = counts(values, "rates");

  const model = await prepareModel(values);
  const sizeGib = Math.ceil((2 * model.weightBytes * 1.02 + 64 * MIB) / GIB); // both copies
  const ramBytes = 2 * model.weightBytes + 2 * GIB;
  await onKnownDisk({ sizeGib, ramBytes, mibPerSecond: rates[0] ?? 0 }, async (disk) => {
    const copy = await copyTo(disk.dir, model);
    const cases = [];
    for (const rate of rates) {
      disk.rate(rate);
      cases.push(await loading(disk, copy, rate, repeats));
    }
    console.log(
      table(
        cases.flatMap(({ mib_per_s, sides }) =>
          sides.map(({ engine, load_s, share_of_cap, runs }) => ({
            "disk MiB/s": mib_per_s,
            engine,
            "load s": withRange(load_s),
            "MiB read": mib(runs[0]?.read_bytes),
            "share of cap": withRange(share_of_cap),
          })),
        ),
      ),
    );
    await writeResult("loading", { model: model.name, weight_bytes: model.weightBytes, repeats, cases });
  });
}

const reason = whyNoKnownDisk();
await runUnless(reason && `a disk of known speed ${reason}`, main);
