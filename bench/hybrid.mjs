// A model of which a GPU holds a part: all of it computed there, divided with the CPU, and the choice between the two.
//   node bench/hybrid.mjs [--device gpu] [--preset llama-4gib] [--dtype bf16] [--layers N] [--shares 0.25,0.5,0.75] [--repeats 5]
// --shares: device memory as parts of the model's weights. Runs alternate, each in a fresh process that first makes one
// unmeasured pass. Needs a GPU; on a software Vulkan device (GGML_VK_VISIBLE_DEVICES=0) it shows that it runs, not how fast.
import { parseArgs } from "node:util";
import { MODEL_OPTIONS, prepareModel, run } from "./lib/cases.mjs";
import { median, round, spread, table, withRange, writeResult } from "./lib/results.mjs";
import { count } from "./lib/runner.mjs";

const { values } = parseArgs({
  options: {
    ...MODEL_OPTIONS,
    device: { type: "string", default: "gpu" },
    shares: { type: "string", default: "0.25,0.5,0.75" },
    repeats: { type: "string", default: "5" },
    "prompt-tokens": { type: "string", default: "256" },
    "new-tokens": { type: "string", default: "33" },
  },
});
const repeats = count(values, "repeats", 1);
const model = await prepareModel({ ...values, dtype: values.dtype?.split(",")[0] ?? "bf16" });
const settings = {
  "prompt-tokens": count(values, "prompt-tokens", 1),
  "new-tokens": count(values, "new-tokens", 2),
  "warmup-tokens": 16,
  device: values.device,
};
const ways = ["gpu", "hybrid", "auto"];
const cases = [];
for (const share of values.shares.split(",").map(Number)) {
  const gpu = Math.ceil((model.weightBytes * share) / 2 ** 20);
  /** @type {Record<string, { decode: number[], prefill: number[], computed_by_cpu: number }>} */
  const runs = Object.fromEntries(ways.map((way) => [way, { decode: [], prefill: [], computed_by_cpu: 0 }]));
  for (let i = 0; i < repeats; i++) {
    for (const way of ways) {
      console.error(`${model.name}, ${gpu} MiB of device memory, ${way}: ${i + 1} of ${repeats}`);
      const measured = await run("spillway", model, { ...settings, "gpu-mib": gpu, compute: way });
      const of = runs[way];
      if (!of) continue;
      of.decode.push(1 / median(measured.seconds_per_token));
      of.prefill.push(measured.prefill_tokens_per_s);
      of.computed_by_cpu = /** @type {{ computed_by_cpu?: number }} */ (measured).computed_by_cpu ?? 0;
    }
  }
  for (const [way, { decode, prefill, computed_by_cpu }] of Object.entries(runs))
    cases.push({ share, way, computed_by_cpu, decode: spread(decode), prefill: spread(prefill) });
}
console.log(
  table(
    cases.map(({ share, way, computed_by_cpu, decode, prefill }) => ({
      "device memory": `${Math.round(100 * share)} %`,
      compute: way,
      "stages on the CPU": computed_by_cpu,
      "decode, tokens/s": withRange(decode),
      "prefill, tokens/s": withRange(prefill),
    })),
  ),
);
await writeResult("hybrid", {
  model: model.name,
  repeats,
  ...settings,
  cases: cases.map((c) => ({ ...c, share: round(c.share) })),
});
