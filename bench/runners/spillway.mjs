// Measures Spillway on a safetensors checkpoint, on the CPU, and prints one line of JSON.
//   node bench/runners/spillway.mjs --model DIR [--budget-mib N] [--device-map cpu] [options of lib/runner.mjs]
import { readFile } from "node:fs/promises";
import path from "node:path";
import { measurement, promptIds, runnerOptions, Stopwatch } from "../lib/runner.mjs";

const { settings, own } = runnerOptions({
  "budget-mib": { type: "string" },
  "device-map": { type: "string", default: "auto" },
});

const { AutoModelForCausalLM } = await import("../../dist/index.js");
/** @param {string} file */
const json = async (file) => JSON.parse(await readFile(file, "utf8"));
const { version } = await json(new URL("../../package.json", import.meta.url).pathname);
const config = await json(path.join(settings.model, "config.json"));

const loading = new Stopwatch();
const model = await AutoModelForCausalLM.from_pretrained(settings.model, {
  dtype: "auto",
  device: "cpu",
  device_map: own["device-map"],
  kv_dtype: settings.kv === "f32" ? "float32" : "float16",
  context_length: settings.context,
  threads: settings.threads,
  ...(own["budget-mib"] && { max_memory: { cpu: `${own["budget-mib"]}MiB` } }),
});
const load = loading.lap();

/**
 * Greedy continuation with the time of each step, taken when the streamer gets the token. As in transformers a streamer
 * may be given the prompt first; that is not a step, so its time belongs to the prefill.
 * @param {number[]} ids
 * @param {number} length
 */
async function generate(ids, length) {
  const watch = new Stopwatch();
  /** @type {{ seconds: number, read: number }[]} */
  const laps = [];
  const [sequence] = await model.generate({
    input_ids: [ids],
    max_new_tokens: length,
    do_sample: false,
    ignore_eos: true,
    streamer: { put: () => laps.push(watch.lap()), end: () => {} },
  });
  const tokens = sequence.slice(ids.length).map(Number);
  const [prompt, prefill] = laps;
  if (prompt && prefill && laps.length === length + 1)
    laps.splice(0, 2, { seconds: prompt.seconds + prefill.seconds, read: prompt.read + prefill.read });
  if (laps.length !== length || tokens.length !== length)
    throw new Error(
      `asked for ${length} tokens: the streamer got ${laps.length}, the result has ${tokens.length}`,
    );
  return laps.map((lap, index) => ({ token: tokens[index], ...lap }));
}

if (settings.warmupTokens) await generate(promptIds(settings.warmupTokens, config.vocab_size), 2);
const ids = settings.ids ?? promptIds(settings.promptTokens, config.vocab_size);
const steps = await generate(ids, settings.newTokens);
const run = measurement({ engine: "spillway", version, load, promptLength: ids.length, steps });
// what has to come from the disk for each token by the engine's own account; read_bytes_per_token is the kernel's
const streamed_bytes = model.plan.streamed.disk;
console.log(JSON.stringify({ ...run, streamed_bytes, memory: model.memory() }));
await model.dispose();
