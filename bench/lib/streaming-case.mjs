// One streaming case: a model bigger than the memory limit, read from a given disk by each engine in turn, by Spillway
// both as it is and from a packed copy (made by the first run, before its first token).
import { rm } from "node:fs/promises";
import path from "node:path";
import { hasLlamaCpp, run } from "./cases.mjs";
import { dropCaches } from "./known-disk.mjs";
import { agreement, median, mib, round, spread, withRange } from "./results.mjs";
import { count } from "./runner.mjs";

const MIB = 2 ** 20;

/** @typedef {import("./child.mjs").Run} Run */
/** @typedef {"spillway" | "packed" | "llama"} Variant packed: Spillway with offload_packed */
/** @typedef {import("./cases.mjs").Model} Model */

/** Options of the benches that stream. */
export const STREAMING_OPTIONS = /** @type {const} */ ({
  memory: { type: "string", default: "2048" }, // MiB, of the whole process, page cache included
  tokens: { type: "string", default: "4" }, // decode steps per run
  repeats: { type: "string", default: "1" },
  "prompt-tokens": { type: "string", default: "16" },
});

/** Memory a Spillway process may use beside what its budget bounds: code, JavaScript heap, graph metadata. */
const OUTSIDE_BUDGET_MIB = 20;

/** @param {Record<string, string | undefined>} values parsed {@link STREAMING_OPTIONS} */
export function streamingSettings(values) {
  const memoryMib = count(values, "memory", OUTSIDE_BUDGET_MIB + 1);
  return {
    memoryMib,
    budgetMib: memoryMib - OUTSIDE_BUDGET_MIB,
    repeats: count(values, "repeats", 1),
    promptTokens: count(values, "prompt-tokens", 1),
    // the first new token comes from the prefill
    newTokens: count(values, "tokens", 1) + 1,
  };
}

/**
 * What a perfect streamer would take, which is (bytes not resident) / (speed of the disk), and how far off it is.
 * @param {number} seconds @param {number} predicted_s
 */
const prediction = (seconds, predicted_s) => ({
  predicted_s,
  deviation_percent: 100 * (seconds / predicted_s - 1),
});

/**
 * @param {Run[]} runs
 * @param {number | undefined} mibPerSecond speed of the disk, where it is known
 */
function summary(runs, mibPerSecond) {
  const seconds = spread(runs.flatMap((r) => r.seconds_per_token));
  const read = median(runs.flatMap((r) => r.read_bytes_per_token));
  const streamed = runs[0]?.streamed_bytes;
  return {
    seconds_per_token: seconds,
    read_bytes_per_token: read,
    disk_mib_per_s: read / MIB / seconds.median,
    prefill_s: median(runs.map((r) => r.prefill_s)),
    memory_cgroup_peak_bytes: Math.max(...runs.map((r) => r.memory_cgroup_peak_bytes ?? Number.NaN)),
    streamed_bytes: streamed,
    ...(streamed && mibPerSecond && prediction(seconds.median, streamed / MIB / mibPerSecond)),
  };
}

/**
 * Runs both engines in turn, with nothing in the page cache at the start of each run.
 * @param {import("./known-disk.mjs").Disk} disk
 * @param {Pick<Model, "checkpoint" | "gguf">} model on that disk
 * @param {ReturnType<typeof streamingSettings>} settings
 * @param {object} [options]
 * @param {number} [options.mibPerSecond] speed of the disk, where it is known
 * @param {() => void} [options.before] called before each run, after the caches were dropped
 */
export async function streamingCase(disk, model, settings, { mibPerSecond, before } = {}) {
  const { memoryMib, budgetMib, repeats, promptTokens, newTokens } = settings;
  const options = { "prompt-tokens": promptTokens, "new-tokens": newTokens };
  const packed = path.join(disk.dir, "packed");
  const variants = /** @type {const} */ ({
    spillway: { engine: "spillway", own: { "budget-mib": budgetMib } },
    packed: { engine: "spillway", own: { "budget-mib": budgetMib, packed } },
    ...(hasLlamaCpp() && { llama: { engine: "llama", own: { mmap: "true" } } }),
  });
  /** @type {Record<Variant, Run[]>} */
  const runs = { spillway: [], packed: [], llama: [] };
  try {
    for (let i = 0; i < repeats; i++) {
      for (const [name, { engine, own }] of Object.entries(variants)) {
        dropCaches();
        before?.();
        console.error(`${name}, ${memoryMib} MiB of memory, repeat ${i + 1} of ${repeats}`);
        runs[/** @type {Variant} */ (name)].push(
          await run(engine, model, { ...options, ...own }, (command) => disk.within(command, { memoryMib })),
        );
      }
    }
  } finally {
    await rm(packed, { recursive: true, force: true });
  }
  const compare = runs.llama.length > 0;
  const spillway = summary(runs.spillway, mibPerSecond);
  const unpacking = summary(runs.packed, mibPerSecond);
  const llama = compare ? summary(runs.llama, mibPerSecond) : undefined;
  const ratio = (/** @type {ReturnType<typeof summary>} */ own) =>
    llama && llama.seconds_per_token.median / own.seconds_per_token.median;
  return {
    mib_per_s: mibPerSecond,
    spillway,
    packed: unpacking,
    llama,
    /** node-llama-cpp's seconds per token over Spillway's: above 1 Spillway is faster */
    ratio: ratio(spillway),
    packed_ratio: ratio(unpacking),
    tokens_agree: agreement(runs.spillway[0]?.tokens, runs.llama[0]?.tokens),
    packed_tokens_agree: agreement(runs.spillway[0]?.tokens, runs.packed[0]?.tokens),
    runs,
  };
}

/** @param {Awaited<ReturnType<typeof streamingCase>>} result @returns {Record<string, string | number | undefined>[]} */
export function streamingRows(result) {
  const { mib_per_s, spillway, packed, llama, ratio, packed_ratio } = result;
  /** @param {string} engine @param {ReturnType<typeof summary>} side */
  const row = (engine, side) => ({
    "disk MiB/s": mib_per_s ?? "own",
    engine,
    "s per token": withRange(side.seconds_per_token),
    "predicted s": round(side.predicted_s),
    "deviation %": round(side.deviation_percent, 2),
    "MiB read per token": mib(side.read_bytes_per_token),
    "MiB/s": Math.round(side.disk_mib_per_s),
    "prefill s": round(side.prefill_s),
    "peak MiB": mib(side.memory_cgroup_peak_bytes),
  });
  return [
    { ...row("spillway", spillway), ratio: round(ratio), "same tokens": result.tokens_agree },
    {
      ...row("spillway, packed", packed),
      ratio: round(packed_ratio),
      "same tokens": result.packed_tokens_agree,
    },
    ...(llama ? [row("node-llama-cpp", llama)] : []),
  ];
}
