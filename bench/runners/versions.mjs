// Measures one built checkout of Spillway on a checkpoint, on the CPU, and prints one line of JSON.
//   node bench/runners/versions.mjs PROJECT MODEL [--threads 1] [--new-tokens 64] [--prompt TEXT]
// A fresh process: opening includes loading the native library, the first token includes the tokenizer.
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: "string", default: "1" },
    "new-tokens": { type: "string", default: "64" },
    prompt: { type: "string", default: "Once upon a time there was a small boat." },
  },
});
const [project = ".", dir = ""] = positionals;

const started = performance.now();
const { AutoModelForCausalLM } = await import(pathToFileURL(join(resolve(project), "dist/index.js")).href);
const imported = performance.now();
const model = await AutoModelForCausalLM.from_pretrained(dir, {
  device: "cpu",
  device_map: "cpu",
  threads: Number(values.threads),
  context_length: 512,
});
const opened = performance.now();
/** @type {number[]} */
const times = [];
const tokens = [];
for await (const { token } of model.stream(values.prompt, {
  max_new_tokens: Number(values["new-tokens"]),
  do_sample: false,
  ignore_eos: true,
})) {
  if (token === undefined) continue;
  times.push(performance.now());
  tokens.push(token);
}
const [first = Number.NaN] = times;
const last = times.at(-1) ?? Number.NaN;
console.log(
  JSON.stringify({
    import_ms: imported - started,
    open_ms: opened - imported,
    first_token_ms: first - opened,
    total_to_first_token_ms: first - started,
    ms_per_token: (last - first) / (times.length - 1),
    tokens: tokens.join(),
  }),
);
await model.dispose();
