// The number of threads: each fixed number and the one Spillway chooses, on a quiet machine and beside a program that keeps
// one core busy; node-llama-cpp, left to itself, in the same runs.
//   node bench/threads.mjs [--models story,large,training] [--repeats 5] [--layers N] [--neighbours 0,1] [--training-layers N]
// Runs alternate (1, 2, ..., auto, node-llama-cpp, 1, 2, ...), each in a fresh process that first makes an unmeasured pass.
// Tokens per second are those of all tokens of a run, slow ones included.
import { spawn } from "node:child_process";
import os from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { hasLlamaCpp, prepareModel, run } from "./lib/cases.mjs";
import { round, spread, table, withRange, writeResult } from "./lib/results.mjs";
import { count } from "./lib/runner.mjs";
import { batchFile, batchShape, prepareTrainingModel, trainSpillway } from "./lib/training-case.mjs";

const { values } = parseArgs({
  options: {
    models: { type: "string", default: "story,large,training" },
    repeats: { type: "string", default: "5" },
    neighbours: { type: "string", default: "0,1" },
    layers: { type: "string" }, // of the large model
    "training-layers": { type: "string" },
    "training-tokens": { type: "string", default: "256" },
  },
});
const repeats = count(values, "repeats", 1);
const neighbours = values.neighbours.split(",").map((text) => count({ neighbours: text }, "neighbours", 0));

/** Fixed numbers: 1, 2, 4 ... and all cores. */
const cores = os.availableParallelism();
const fixed = [...new Set([...Array.from({ length: 10 }, (_, i) => 2 ** i).filter((n) => n < cores), cores])];

/** @typedef {{ threads?: { kind: string, threads: number, seconds: Record<number, number> }[] }} Used */
/** @typedef {{ speeds: Record<string, number>, used: Used["threads"] }} Sample tokens per second by what they are tokens of */
/** @typedef {{ name: string, compare: boolean, run: (threads: number | "auto" | "llama") => Promise<Sample> }} Case */

/** @param {string} name @param {import("./lib/cases.mjs").Model} model @param {Record<string, number>} settings @returns {Case} */
function inference(name, model, settings) {
  return {
    name,
    compare: hasLlamaCpp(),
    run: async (threads) => {
      const way =
        threads === "llama"
          ? run("llama", model, { ...settings, threads: "auto" })
          : run("spillway", model, { ...settings, threads, "device-map": "cpu" });
      const measured = /** @type {import("./lib/child.mjs").Run & Used} */ (await way);
      const { seconds_per_token, prefill_tokens_per_s } = measured;
      const seconds = seconds_per_token.reduce((a, b) => a + b, 0);
      const decode = seconds_per_token.length / seconds;
      return { speeds: { decode, prefill: prefill_tokens_per_s }, used: measured.threads };
    },
  };
}

/** @param {string} name @returns {Promise<Case>} */
async function prepare(name) {
  if (name === "story") {
    const checkpoint = fileURLToPath(new URL("../examples/story/model", import.meta.url));
    const model = await prepareModel({ preset: "", dtype: "", checkpoint });
    const settings = { "prompt-tokens": 64, "new-tokens": 400, "warmup-tokens": 64, context: 512 };
    return inference("story, 2.8 M parameters", model, settings);
  }
  if (name === "large") {
    const model = await prepareModel({ preset: "llama-4gib", dtype: "bf16", layers: values.layers });
    const settings = { "prompt-tokens": 256, "new-tokens": 48, "warmup-tokens": 256, context: 512 };
    return inference(model.name, model, settings);
  }
  if (name !== "training") throw new Error(`--models are story, large and training, not ${name}`);
  const model = await prepareTrainingModel({ shape: "llama-88m", layers: values["training-layers"] });
  const tokens = count(values, "training-tokens", 1);
  const batches = await batchFile(batchShape(tokens), model.config.vocab_size);
  const inRam = { optimizer: "cpu", weights: "cpu", gradients: "cpu", activations: "cpu" };
  return {
    name: `a training step, ${model.name}`,
    compare: false,
    run: async (threads) => {
      const options = { model: model.checkpoint, batches, steps: 3, "warmup-steps": 2, threads };
      const measured = await trainSpillway({ ...options, ...inRam });
      const { steps } = measured;
      const speed = (steps.length * measured.tokens) / steps.reduce((sum, { seconds }) => sum + seconds, 0);
      return { speeds: { training: speed }, used: /** @type {Used} */ (measured).threads };
    },
  };
}

/**
 * Runs something beside programs that keep a core busy each.
 * @template T
 * @param {number} programs
 * @param {() => Promise<T>} task
 */
async function beside(programs, task) {
  const busy = Array.from({ length: programs }, () =>
    spawn(process.execPath, ["-e", "for (;;);"], { stdio: "ignore" }),
  );
  const stop = () => {
    for (const child of busy) child.kill("SIGKILL");
  };
  process.once("exit", stop);
  try {
    return await task();
  } finally {
    stop();
    process.off("exit", stop);
  }
}

/** @param {Case} what @param {number} programs */
async function measure(what, programs) {
  /** @type {(number | "auto" | "llama")[]} */
  const ways = [...fixed, "auto", ...(what.compare ? /** @type {const} */ (["llama"]) : [])];
  /** @type {Map<number | string, Sample[]>} */
  const samples = new Map(ways.map((way) => [way, []]));
  for (let i = 0; i < repeats; i++) {
    for (const way of ways) {
      console.error(`${what.name}, ${programs} busy: ${way}, repeat ${i + 1} of ${repeats}`);
      samples.get(way)?.push(await beside(programs, () => what.run(way)));
    }
  }
  const of = (/** @type {number | string} */ way) => samples.get(way) ?? [];
  return Object.keys(of("auto")[0]?.speeds ?? {}).map((kind) => {
    const speed = (/** @type {number | string} */ way) =>
      spread(of(way).map(({ speeds }) => speeds[kind] ?? Number.NaN));
    const each = Object.fromEntries(ways.map((way) => [String(way), speed(way)]));
    const best = Math.max(...fixed.map((way) => speed(way).median));
    return {
      model: what.name,
      busy_programs: programs,
      kind,
      tokens_per_s: each,
      /** The chosen number's speed over the best fixed number's. */
      share_of_best: speed("auto").median / best,
      ...(what.compare && { over_llama: speed("auto").median / speed("llama").median }),
      used: of("auto").map(({ used }) => used),
    };
  });
}

const cases = [];
for (const name of values.models.split(",")) {
  const what = await prepare(name);
  for (const programs of neighbours) cases.push(...(await measure(what, programs)));
}
console.log(
  table(
    cases.map(({ model, busy_programs, kind, tokens_per_s, share_of_best, over_llama }) => ({
      model,
      "busy programs": busy_programs,
      "tokens/s of": kind,
      ...Object.fromEntries(Object.entries(tokens_per_s).map(([way, speed]) => [way, withRange(speed)])),
      "auto / best": round(share_of_best),
      "auto / llama": round(over_llama),
    })),
  ),
);
await writeResult("threads", { settings: { ...values, repeats, fixed }, cases });
