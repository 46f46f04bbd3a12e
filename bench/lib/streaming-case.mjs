// One streaming case: a model bigger than the memory limit, read from a given disk by each engine in turn.
import { hasLlamaCpp, run } from "./cases.mjs";
import { dropCaches } from "./known-disk.mjs";
import { agreement, median, mib, round, spread, withRange } from "./results.mjs";
import { count } from "./runner.mjs";

const MIB = 2 ** 20;

/** @typedef {import("./child.mjs").Run} Run */
/** @typedef {import("./cases.mjs").Engine} Engine */
/** @typedef {import("./cases.mjs").Model} Model */

/** Options of the benches that stream. */
export const STREAMING_OPTIONS = /** @type {const} */ ({
  memory: { type: "string", default: "2048" }, // MiB, of the whole process, page cache included
  tokens: { type: "string", default: "4" }, // decode steps per run
  repeats: { type: "string", default: "1" },
  "prompt-tokens": { type: "string", default: "16" },
});

/** Memory a Spillway process may use beside what its budget bounds: code, JavaScript heap, graph metadata. */
const OUTSIDE_BUDGET_MIB = 48;

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
  /** @type {Record<Engine, Run[]>} */
  const runs = { spillway: [], llama: [] };
  const compare = hasLlamaCpp();
  for (let i = 0; i < repeats; i++) {
    for (const engine of /** @type {Engine[]} */ (compare ? ["spillway", "llama"] : ["spillway"])) {
      dropCaches();
      before?.();
      console.error(`${engine}, ${memoryMib} MiB of memory, repeat ${i + 1} of ${repeats}`);
      const own = engine === "spillway" ? { "budget-mib": budgetMib } : { mmap: "true" };
      runs[engine].push(
        await run(engine, model, { ...options, ...own }, (command) => disk.within(command, { memoryMib })),
      );
    }
  }
  const spillway = summary(runs.spillway, mibPerSecond);
  const llama = compare ? summary(runs.llama, mibPerSecond) : undefined;
  return {
    mib_per_s: mibPerSecond,
    spillway,
    llama,
    /** node-llama-cpp's seconds per token over Spillway's: above 1 Spillway is faster */
    ratio: llama && llama.seconds_per_token.median / spillway.seconds_per_token.median,
    tokens_agree: agreement(runs.spillway[0]?.tokens, runs.llama[0]?.tokens),
    runs,
  };
}

/** @param {Awaited<ReturnType<typeof streamingCase>>} result @returns {Record<string, string | number | undefined>[]} */
export function streamingRows({ mib_per_s, spillway, llama, ratio, tokens_agree }) {
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
    { ...row("spillway", spillway), ratio: round(ratio), "same tokens": tokens_agree },
    ...(llama ? [row("node-llama-cpp", llama)] : []),
  ];
}
