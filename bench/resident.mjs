// Everything in RAM, the same weights on both sides: decode and prefill speed of Spillway and node-llama-cpp.
//   node bench/resident.mjs [--dtype bf16,f16,f32] [--layers N] [--repeats 5] [--checkpoint DIR]
// Runs alternate (A B A B ...), each in a fresh process that first makes one unmeasured pass.
import { parseArgs } from "node:util";
import { hasLlamaCpp, MODEL_OPTIONS, prepareModel, run } from "./lib/cases.mjs";
import { agreement, median, mib, round, spread, table, withRange, writeResult } from "./lib/results.mjs";
import { count } from "./lib/runner.mjs";

const { values } = parseArgs({
  options: {
    ...MODEL_OPTIONS,
    repeats: { type: "string", default: "5" },
    "prompt-tokens": { type: "string", default: "256" },
    "new-tokens": { type: "string", default: "33" },
    kv: { type: "string", default: "f16" },
    mmap: { type: "string", default: "true" }, // of node-llama-cpp
  },
});
const repeats = count(values, "repeats", 1);
const settings = {
  "prompt-tokens": count(values, "prompt-tokens", 1),
  "new-tokens": count(values, "new-tokens", 2),
  "warmup-tokens": 16,
  kv: values.kv,
};

/** @typedef {import("./lib/child.mjs").Run} Run */

/** @param {Run[]} runs */
function summary(runs) {
  return {
    decode_tokens_per_s: spread(runs.map((r) => 1 / median(r.seconds_per_token))),
    prefill_tokens_per_s: spread(runs.map((r) => r.prefill_tokens_per_s)),
    load_s: spread(runs.map((r) => r.load_s)),
    peak_rss_bytes: spread(runs.map((r) => r.peak_rss_bytes)),
  };
}

/** @param {string} dtype */
async function measure(dtype) {
  const model = await prepareModel({ ...values, dtype });
  /** @type {Record<import("./lib/cases.mjs").Engine, Run[]>} */
  const runs = { spillway: [], llama: [] };
  const compare = hasLlamaCpp();
  for (let i = 0; i < repeats; i++) {
    console.error(`${model.name}: repeat ${i + 1} of ${repeats}`);
    runs.spillway.push(await run("spillway", model, { ...settings, "device-map": "cpu" }));
    if (compare) runs.llama.push(await run("llama", model, { ...settings, mmap: values.mmap }));
  }
  const spillway = summary(runs.spillway);
  if (!compare) return { model: model.name, weight_bytes: model.weightBytes, spillway, runs };
  const llama = summary(runs.llama);
  return {
    model: model.name,
    weight_bytes: model.weightBytes,
    spillway,
    llama,
    /** Spillway's speed over node-llama-cpp's: above 1 Spillway is faster. */
    ratio: {
      decode: spillway.decode_tokens_per_s.median / llama.decode_tokens_per_s.median,
      prefill: spillway.prefill_tokens_per_s.median / llama.prefill_tokens_per_s.median,
    },
    tokens_agree: agreement(runs.spillway[0]?.tokens, runs.llama[0]?.tokens),
    runs,
  };
}

const cases = [];
for (const dtype of values.dtype.split(",")) cases.push(await measure(dtype));

console.log(
  table(
    cases.flatMap(({ model, spillway, llama, ratio, tokens_agree }) =>
      Object.entries({ spillway, "node-llama-cpp": llama }).flatMap(([engine, side]) =>
        side
          ? [
              {
                model,
                engine,
                "decode tokens/s": withRange(side.decode_tokens_per_s),
                "prefill tokens/s": withRange(side.prefill_tokens_per_s),
                "load s": round(side.load_s.median),
                "peak RSS MiB": mib(side.peak_rss_bytes.median),
                "decode ratio": side === spillway ? round(ratio?.decode) : "",
                "prefill ratio": side === spillway ? round(ratio?.prefill) : "",
                "same tokens": side === spillway ? tokens_agree : "",
              },
            ]
          : [],
      ),
    ),
  ),
);
await writeResult("resident", { settings: { ...settings, repeats, mmap: values.mmap }, cases });
