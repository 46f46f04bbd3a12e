// Measures Spillway on a safetensors checkpoint, on the CPU or a GPU, and prints one line of JSON.
//   node bench/runners/spillway.mjs --model DIR [--budget-mib N] [--device-map cpu] [--packed DIR]
//     [--device gpu --gpu-mib N --compute auto]
//     [options of lib/runner.mjs]
import { readFile } from "node:fs/promises";
import path from "node:path";
import { measurement, promptIds, runnerOptions, Stopwatch } from "../lib/runner.mjs";
import { WarmMemory } from "../lib/warm-memory.mjs";

const { settings, own } = runnerOptions({
  "budget-mib": { type: "string" },
  "device-map": { type: "string", default: "auto" },
  packed: { type: "string" }, // folder of the packed copy
  device: { type: "string", default: "cpu" },
  "gpu-mib": { type: "string" },
  compute: { type: "string", default: "auto" },
});

const { AutoModelForCausalLM } = await import("../../dist/index.js");
/** @param {string} file */
const json = async (file) => JSON.parse(await readFile(file, "utf8"));
const { version } = await json(new URL("../../package.json", import.meta.url).pathname);
const config = await json(path.join(settings.model, "config.json"));

// A small model first: the native library and our own code are there then, as the other engine's are after getLlama().
const story = new URL("../../examples/story/model", import.meta.url).pathname;
await (await AutoModelForCausalLM.from_pretrained(story, { device: "cpu" })).dispose();

const warm = await WarmMemory.take(settings.warmMib * 2 ** 20);
const loading = new Stopwatch();
const model = await AutoModelForCausalLM.from_pretrained(settings.model, {
  dtype: "auto",
  device: own.device,
  compute: /** @type {"auto" | "gpu" | "hybrid"} */ (own.compute),
  device_map: /** @type {"auto" | "cpu" | "disk"} */ (own["device-map"]),
  kv_dtype: settings.kv === "f32" ? "float32" : "float16",
  context_length: settings.context,
  ...(settings.threads !== undefined && { threads: settings.threads }),
  progress_callback: ({ loaded }) => warm.needed(loaded),
  ...(own.packed && { offload_folder: own.packed, offload_packed: true }),
  max_memory: {
    ...(own["budget-mib"] && { cpu: `${own["budget-mib"]}MiB` }),
    ...(own["gpu-mib"] && { gpu: `${own["gpu-mib"]}MiB` }),
  },
});
const load = loading.lap();
warm.release();

/**
 * Greedy continuation with the time of each step, taken when the streamer gets the token.
 * @param {number[]} ids
 * @param {number} length
 */
async function generate(ids, length) {
  /** @type {{ token: number, seconds: number, read: number }[]} */
  const steps = [];
  const watch = new Stopwatch();
  let isPrompt = true; // which a streamer gets first, before anything is computed
  /** @param {number[][]} row */
  const put = ([row = []]) => {
    if (!isPrompt) for (const token of row) steps.push({ token, ...watch.lap() });
    isPrompt = false;
  };
  await model.generate({
    input_ids: [ids],
    max_new_tokens: length,
    do_sample: false,
    ignore_eos: true,
    streamer: { put, end: () => {} },
  });
  if (steps.length !== length) throw new Error(`asked for ${length} tokens, got ${steps.length}`);
  return steps;
}

if (settings.warmupTokens) await generate(promptIds(settings.warmupTokens, config.vocab_size), 2);
const ids = settings.ids ?? promptIds(settings.promptTokens, config.vocab_size);
const steps = await generate(ids, settings.newTokens);
const run = measurement({ engine: "spillway", version, load, promptLength: ids.length, steps });
// what has to come from the disk for each token by the engine's own account; read_bytes_per_token is the kernel's
const streamed_bytes = model.plan.streamed.disk;
console.log(
  JSON.stringify({
    ...{ ...run, streamed_bytes, memory: model.memory(), threads: model.statistics().threads },
    computed_by_cpu: model.plan.computeOf.filter((site) => site === 1).length,
  }),
);
await model.dispose();
