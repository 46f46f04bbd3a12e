// What wide products outside the tensor library bring: Spillway with oneDNN and without, and node-llama-cpp, everything in RAM.
//   node bench/products.mjs [--dtype bf16,f32] [--layers N] [--repeats 5] [--sequences 16] [--checkpoint DIR]
// Prefill of 512 tokens, and sequences decoded together. Runs alternate, each in a fresh process that first makes one unmeasured
// pass. `spillway doctor` says how to install oneDNN.
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { hasLlamaCpp, MODEL_OPTIONS, prepareModel, run } from "./lib/cases.mjs";
import { runForJson } from "./lib/child.mjs";
import { spread, table, withRange, writeResult } from "./lib/results.mjs";
import { count } from "./lib/runner.mjs";

const { values } = parseArgs({
  options: {
    ...MODEL_OPTIONS,
    dtype: { type: "string", default: "bf16,f32" },
    repeats: { type: "string", default: "5" },
    sequences: { type: "string", default: "16" },
    threads: { type: "string" },
  },
});
const repeats = count(values, "repeats", 1);
const sequences = count(values, "sequences", 1);
const threads = values.threads && { threads: values.threads };
const PREFILL = { "prompt-tokens": 512, "new-tokens": 2, "warmup-tokens": 512, context: 1024, ...threads };
const BATCH = { "prompt-tokens": 16, "new-tokens": 8, context: 64, ...threads };

/** Runs a command without oneDNN. @param {string[]} command */
const without = (command) => ["env", "SPILLWAY_DNNL=off", ...command];

/** @param {import("./lib/cases.mjs").Model} model @param {(command: string[]) => string[]} within */
async function batch(model, within) {
  const runner = fileURLToPath(new URL("runners/spillway-batch.mjs", import.meta.url));
  const options = { model: model.checkpoint, sequences, ...BATCH };
  const command = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const result = await runForJson(within([process.execPath, runner, ...command]));
  return /** @type {{ tokens_per_s: number }} */ (/** @type {unknown} */ (result)).tokens_per_s;
}

/** @param {string} dtype */
async function measure(dtype) {
  const model = await prepareModel({ ...values, dtype });
  const compare = hasLlamaCpp();
  /** @type {Record<"with" | "without" | "llama", number[]>} */
  const prefill = { with: [], without: [], llama: [] };
  /** @type {Record<"with" | "without", number[]>} */
  const decode = { with: [], without: [] };
  const same = /** @param {string[]} command */ (command) => command;
  for (let i = 0; i < repeats; i++) {
    console.error(`${model.name}: repeat ${i + 1} of ${repeats}`);
    const settings = { ...PREFILL, "device-map": "cpu" };
    prefill.with.push((await run("spillway", model, settings)).prefill_tokens_per_s);
    if (compare) prefill.llama.push((await run("llama", model, PREFILL)).prefill_tokens_per_s);
    prefill.without.push((await run("spillway", model, settings, without)).prefill_tokens_per_s);
    decode.with.push(await batch(model, same));
    decode.without.push(await batch(model, without));
  }
  /** Repeat by repeat. @param {number[]} a @param {number[]} b */
  const ratio = (a, b) => spread(a.map((value, i) => value / (b[i] ?? Number.NaN)));
  return {
    model: model.name,
    prefill_tokens_per_s: {
      with: spread(prefill.with),
      without: spread(prefill.without),
      ...(compare && { llama: spread(prefill.llama) }),
    },
    decode_tokens_per_s: { with: spread(decode.with), without: spread(decode.without) },
    /** Above 1 oneDNN is faster. */
    ratios: {
      prefill_over_without: ratio(prefill.with, prefill.without),
      ...(compare && { prefill_over_llama: ratio(prefill.with, prefill.llama) }),
      decode_over_without: ratio(decode.with, decode.without),
    },
  };
}

const cases = [];
for (const dtype of values.dtype.split(",")) cases.push(await measure(dtype));
console.log(
  table(
    cases.map(({ model, prefill_tokens_per_s: prefill, decode_tokens_per_s: decode, ratios }) => ({
      model,
      "prefill tokens/s": withRange(prefill.with),
      "without oneDNN": withRange(prefill.without),
      ratio: withRange(ratios.prefill_over_without),
      "node-llama-cpp": withRange(prefill.llama),
      "ratio to it": withRange(ratios.prefill_over_llama),
      [`${sequences} sequences tokens/s`]: withRange(decode.with),
      "without oneDNN ": withRange(decode.without),
      "ratio ": withRange(ratios.decode_over_without),
    })),
  ),
);
await writeResult("products", { settings: { prefill: PREFILL, batch: BATCH, sequences, repeats }, cases });
