// Measures node-llama-cpp on a GGUF file, on the CPU, and prints one line of JSON.
//   node bench/runners/llama-cpp.mjs --model FILE.gguf [--mmap true|false] [--flash auto|true|false] [options of lib/runner.mjs]
import { measurement, promptIds, runnerOptions, Stopwatch } from "../lib/runner.mjs";
import { WarmMemory } from "../lib/warm-memory.mjs";

const { settings, own } = runnerOptions({
  mmap: { type: "string", default: "true" },
  flash: { type: "string", default: "auto" },
});
for (const [name, allowed] of Object.entries({ mmap: ["true", "false"], flash: ["auto", "true", "false"] }))
  if (!allowed.includes(own[name] ?? ""))
    throw new Error(`--${name} is ${allowed.join(" or ")}, not ${own[name]}`);

const { getLlama, getModuleVersion, LlamaLogLevel } = await import("node-llama-cpp");

// "never" and skipDownload: the prebuilt library or nothing
const llama = await getLlama({
  gpu: false,
  build: "never",
  skipDownload: true,
  progressLogs: false,
  logLevel: LlamaLogLevel.error,
  ...(settings.threads !== undefined && { maxThreads: settings.threads }),
});

const warm = await WarmMemory.take(settings.warmMib * 2 ** 20);
const loading = new Stopwatch();
const model = await llama.loadModel({
  modelPath: settings.model,
  gpuLayers: 0,
  useMmap: own.mmap === "true",
  useDirectIo: false, // it would override mmap
  onLoadProgress: (part) => warm.needed(part * settings.warmMib * 2 ** 20),
  ignoreMemorySafetyChecks: true, // a file larger than memory is what is measured
});
const cache = settings.kv === "f32" ? "F32" : "F16";
const context = await model.createContext({
  contextSize: settings.context,
  sequences: 1,
  ...(settings.threads !== undefined && { threads: { ideal: settings.threads, min: settings.threads } }),
  flashAttention: own.flash === "auto" ? "auto" : own.flash === "true",
  experimentalKvCacheKeyType: cache,
  experimentalKvCacheValueType: cache,
  ignoreMemorySafetyChecks: true,
});
const load = loading.lap();
warm.release();
const sequence = context.getSequence();

/**
 * Greedy continuation of raw ids, with the time of each step. An end-of-text token does not end it.
 * @param {number[]} ids
 * @param {number} length
 */
async function generate(ids, length) {
  const steps = [];
  const watch = new Stopwatch();
  const tokens = /** @type {import("node-llama-cpp").Token[]} */ (ids);
  for await (const token of sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true })) {
    steps.push({ token: Number(token), ...watch.lap() });
    if (steps.length === length) break;
  }
  return steps;
}

const { vocab_size: vocabSize } = /** @type {{ vocab_size?: number }} */ (
  model.fileInfo.metadata.llama ?? {}
);
if (!settings.ids && !vocabSize) throw new Error(`${settings.model}: the metadata gives no llama.vocab_size`);
if (settings.warmupTokens) {
  await generate(promptIds(settings.warmupTokens, Number(vocabSize)), 2);
  await sequence.clearHistory();
}
const ids = settings.ids ?? promptIds(settings.promptTokens, Number(vocabSize));
const version = await getModuleVersion();
const steps = await generate(ids, settings.newTokens);
console.log(
  JSON.stringify(measurement({ engine: "node-llama-cpp", version, load, promptLength: ids.length, steps })),
);
await llama.dispose();
