// Tokens per second of full training (forward, backward, AdamW) in Spillway and in PyTorch with transformers: the same
// checkpoint, batches, settings of AdamW and number of threads, on the CPU, everything in RAM.
//   node bench/training-torch.mjs [--python PATH] [--tokens 64,256,1024] [--repeats 3] [--steps 3] [--layers N] [--threads N]
//     [--shape llama-88m] [--checkpoint DIR]
// Runs alternate, each in a fresh process that first makes four unmeasured steps.
import { spawnSync } from "node:child_process";
import os from "node:os";
import { parseArgs } from "node:util";
import { median, mib, round, spread, table, withRange, writeResult } from "./lib/results.mjs";
import { count, counts } from "./lib/runner.mjs";
import { runUnless } from "./lib/skip.mjs";
import * as training from "./lib/training-case.mjs";

/** Who trains how. Spillway's bf16 keeps f32 master copies and moments, as PyTorch's autocast does. */
const WAYS = /** @type {const} */ ([
  { engine: "spillway", precision: "float32", dtype: "f32" },
  { engine: "pytorch", precision: "float32", dtype: "f32" },
  { engine: "spillway", precision: "bfloat16", dtype: "bf16" },
  { engine: "pytorch", precision: "autocast", dtype: "bf16" },
  { engine: "pytorch", precision: "bfloat16", dtype: "bf16" },
]);
/** Losses in f32 are sums in different orders: how far apart the first may be. */
const SAME_LOSS = 1e-3;

/** @typedef {import("./lib/training-case.mjs").TrainingRun} TrainingRun */
/** @typedef {typeof WAYS[number]} Way */

/** What is missing in this Python, or undefined. @param {string} python */
function whyNoTorch(python) {
  const { status, stderr, error } = spawnSync(python, ["-c", "import torch, transformers"], {
    encoding: "utf8",
  });
  if (status === 0) return undefined;
  return error?.message ?? stderr.trim().split("\n").at(-1);
}

/**
 * @param {Way} way
 * @param {string} python
 * @param {Record<string, string | number>} options
 */
function run({ engine, precision }, python, options) {
  if (engine === "pytorch")
    return training.runTraining([python, training.runnerFile("torch-training.py")], {
      ...options,
      precision,
    });
  const inRam = { optimizer: "cpu", weights: "cpu", gradients: "cpu", activations: "cpu" };
  return training.trainSpillway({ ...options, ...inRam, precision });
}

const tokensPerSecond = (/** @type {TrainingRun} */ { tokens, steps }) =>
  tokens / median(steps.map(({ seconds }) => seconds));

/** @param {{ tokens: number, model: training.TrainingModel, python: string, repeats: number, steps: number, threads: number }} o */
async function measure({ tokens, model, python, repeats, steps, threads }) {
  const batches = await training.batchFile(training.batchShape(tokens), model.config.vocab_size);
  const options = { model: model.checkpoint, batches, steps, threads };
  /** @type {Map<Way, TrainingRun[]>} */
  const runs = new Map(WAYS.map((way) => [way, []]));
  for (let repeat = 0; repeat < repeats; repeat++) {
    for (const way of WAYS) {
      console.error(`repeat ${repeat + 1} of ${repeats}: ${tokens} tokens, ${way.engine} ${way.precision}`);
      runs.get(way)?.push(await run(way, python, options));
    }
  }
  const own = (/** @type {string} */ dtype) => {
    const way = WAYS.find((one) => one.engine === "spillway" && one.dtype === dtype);
    return (way && runs.get(way)) ?? [];
  };
  const sides = WAYS.map((way) => {
    const made = runs.get(way) ?? [];
    const speeds = made.map(tokensPerSecond);
    return {
      ...way,
      version: made[0]?.version,
      tokens_per_s: spread(speeds),
      peak_rss_bytes: spread(made.map((one) => one.peak_rss_bytes)),
      first_loss: made[0]?.losses[0],
      last_loss: made[0]?.losses.at(-1),
      /** Spillway's speed over this engine's, repeat by repeat: above 1 Spillway is faster. */
      ...(way.engine === "pytorch" && {
        ratio: spread(own(way.dtype).map((one, i) => tokensPerSecond(one) / (speeds[i] ?? Number.NaN))),
      }),
    };
  });
  return { tokens, sides, runs: WAYS.map((way) => ({ ...way, runs: runs.get(way) })) };
}

/** @param {string} python */
async function main(python) {
  const repeats = count(values, "repeats", 1);
  const settings = { repeats, steps: count(values, "steps", 1), threads: count(values, "threads", 1) };
  const model = await training.prepareTrainingModel(values);
  const cases = [];
  for (const tokens of counts(values, "tokens"))
    cases.push(await measure({ tokens, model, python, ...settings }));
  console.log(
    table(
      cases.flatMap(({ tokens, sides }) =>
        sides.map((side) => ({
          tokens,
          engine: side.engine,
          precision: side.precision,
          "tokens/s": withRange(side.tokens_per_s),
          ratio: "ratio" in side ? withRange(side.ratio) : "",
          "peak RSS MiB": mib(side.peak_rss_bytes.median),
          "first loss": round(side.first_loss, 6),
          "last loss": round(side.last_loss, 6),
        })),
      ),
    ),
  );
  const same = cases.every(({ sides: [a, b] }) => {
    const [first = Number.NaN, other = Number.NaN] = [a?.first_loss, b?.first_loss];
    return Math.abs(first - other) <= SAME_LOSS * Math.abs(other);
  });
  console.log(same ? "\nthe same first loss in f32" : "\nTHE FIRST LOSSES IN F32 DIFFER");
  await writeResult("training-torch", { model: model.name, parameters: model.parameters, settings, cases });
  if (!same) process.exitCode = 1;
}

const { values } = parseArgs({
  options: {
    ...training.TRAINING_MODEL_OPTIONS,
    shape: { type: "string", default: "llama-88m" },
    python: { type: "string", default: "python3" },
    tokens: { type: "string", default: "64,256,1024" },
    repeats: { type: "string", default: "3" },
    steps: { type: "string", default: "3" },
    threads: { type: "string", default: String(os.availableParallelism()) },
  },
});
const reason = whyNoTorch(values.python);
await runUnless(
  reason &&
    `${values.python} has no PyTorch and transformers (${reason}); to make one that has:
  python3 -m venv bench/.work/torch && bench/.work/torch/bin/pip install torch transformers
  node bench/training-torch.mjs --python bench/.work/torch/bin/python`,
  () => main(values.python),
);
