// Measures Spillway decoding several sequences together, on the CPU, and prints one line of JSON.
//   node bench/runners/spillway-batch.mjs --model DIR [--sequences 16] [options of lib/runner.mjs]
// A step's time is the difference of two generations of other lengths, so that prompts do not count.
import { readFile } from "node:fs/promises";
import path from "node:path";
import { count, promptIds, runnerOptions, Stopwatch } from "../lib/runner.mjs";

const { settings, own } = runnerOptions({ sequences: { type: "string", default: "16" } });
const sequences = count(own, "sequences", 1);
const { AutoModelForCausalLM } = await import("../../dist/index.js");
const config = JSON.parse(await readFile(path.join(settings.model, "config.json"), "utf8"));

const model = await AutoModelForCausalLM.from_pretrained(settings.model, {
  ...{ device: "cpu", device_map: "cpu", threads: settings.threads },
  context_length: sequences * settings.context,
});
const ids = promptIds(settings.promptTokens * sequences, config.vocab_size);
const input_ids = Array.from({ length: sequences }, (_, i) =>
  ids.slice(i * settings.promptTokens, (i + 1) * settings.promptTokens),
);

/** Seconds of a greedy generation of so many tokens each. @param {number} length */
async function seconds(length) {
  const watch = new Stopwatch();
  await model.generate({ input_ids, max_new_tokens: length, do_sample: false, ignore_eos: true });
  return watch.lap().seconds;
}

await seconds(2); // unmeasured
const short = await seconds(2);
const long = await seconds(2 + settings.newTokens);
const tokens_per_s = (sequences * settings.newTokens) / (long - short);
console.log(JSON.stringify({ engine: "spillway", sequences, tokens_per_s, memory: model.memory() }));
await model.dispose();
