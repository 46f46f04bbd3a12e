// What the two runners share: their options, the prompt, the clock and the one line of JSON they print.
// A runner is a process of its own, so that what one engine holds or has cached cannot help or hurt the other.
import { readFileSync } from "node:fs";
import os from "node:os";
import { parseArgs } from "node:util";

/**
 * @typedef {object} Settings
 * @property {string} model checkpoint directory or GGUF file
 * @property {number} promptTokens
 * @property {number} newTokens
 * @property {number} warmupTokens length of an unmeasured pass before the measured one; 0 for none
 * @property {number[] | undefined} ids a prompt of one's own instead of `promptTokens` of the standard one
 * @property {number | undefined} threads undefined: what the engine chooses
 * @property {number} context
 * @property {"f16" | "f32"} kv
 * @property {number} warmMib memory taken before loading and given back as it is needed; see warm-memory.mjs
 */

/**
 * @typedef {object} Measurement one run of one engine
 * @property {string} engine
 * @property {string} version
 * @property {number} load_s
 * @property {number} load_read_bytes read from the disk while loading
 * @property {number} prefill_tokens
 * @property {number} prefill_s
 * @property {number} prefill_tokens_per_s
 * @property {number[]} seconds_per_token of each decode step: one token in, one token out
 * @property {number[]} read_bytes_per_token read from the disk in each decode step
 * @property {number[]} tokens the greedy continuation, the one after the prefill first
 * @property {number} rss_bytes
 * @property {number} peak_rss_bytes
 * @property {number} [streamed_bytes] of weights that are not resident and come from the disk for each token, as planned
 * @property {unknown} [memory] what the engine itself reports
 */

/**
 * Options every runner takes and those of its own.
 * @template {import("node:util").ParseArgsConfig["options"]} T
 * @param {T} own
 */
export function runnerOptions(own) {
  const { values } = parseArgs({
    options: {
      model: { type: "string" },
      "prompt-tokens": { type: "string", default: "32" },
      "new-tokens": { type: "string", default: "8" },
      "warmup-tokens": { type: "string", default: "0" },
      ids: { type: "string" },
      threads: { type: "string", default: String(os.availableParallelism()) },
      context: { type: "string", default: "512" },
      kv: { type: "string", default: "f16" },
      "warm-mib": { type: "string", default: "0" },
      ...own,
    },
  });
  const text = /** @type {Record<string, string>} */ (/** @type {unknown} */ (values));
  if (!text.model) throw new Error("--model is required: a checkpoint directory or a GGUF file");
  if (text.kv !== "f16" && text.kv !== "f32") throw new Error(`--kv is f16 or f32, not ${text.kv}`);
  /** @type {Settings} */
  const settings = {
    model: text.model,
    promptTokens: count(text, "prompt-tokens", 1),
    newTokens: count(text, "new-tokens", 1),
    warmupTokens: count(text, "warmup-tokens", 0),
    ids: text.ids?.split(",").map(Number),
    threads: threads(text),
    context: count(text, "context", 1),
    kv: text.kv,
    warmMib: count(text, "warm-mib", 0),
  };
  return { settings, own: text };
}

/** @param {Record<string, string | undefined>} text @param {string} name @param {number} least */
export function count(text, name, least) {
  const value = Number(text[name]);
  if (!Number.isSafeInteger(value) || value < least)
    throw new Error(`--${name} is a whole number from ${least}, not ${text[name]}`);
  return value;
}

/** @param {Record<string, string | undefined>} text @returns {number | undefined} "auto": undefined */
export function threads(text) {
  return text.threads === "auto" ? undefined : count(text, "threads", 1);
}

/** @param {Record<string, string | undefined>} values parsed options @param {string} name "64,256" */
export function counts(values, name) {
  return (values[name] ?? "").split(",").map((text) => count({ [name]: text }, name, 1));
}

/**
 * The standard prompt: `length` ids spread over the vocabulary, the same for every engine. What it says does not matter
 * to the time it takes.
 * @param {number} length
 * @param {number} vocabSize
 */
export function promptIds(length, vocabSize) {
  let state = 12345;
  return Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0; // Numerical Recipes' generator
    return 3 + (state % (vocabSize - 3)); // the first ids are often special tokens
  });
}

/** Bytes this process has fetched from block devices so far, page faults of mapped files included. */
export function readBytes() {
  return procNumber("/proc/self/io", "read_bytes");
}

/** Bytes this process has sent to block devices so far, or left in the page cache to be sent. */
export function writtenBytes() {
  return procNumber("/proc/self/io", "write_bytes");
}

/** @param {string} file @param {string} key */
function procNumber(file, key) {
  const line = readFileSync(file, "utf8")
    .split("\n")
    .find((entry) => entry.startsWith(`${key}:`));
  return Number.parseInt(line?.slice(key.length + 1) ?? "", 10);
}

/** Resident memory of this process, now and at its highest; mapped pages of files count. */
export function residentMemory() {
  return {
    rss_bytes: 1024 * procNumber("/proc/self/status", "VmRSS"),
    peak_rss_bytes: 1024 * procNumber("/proc/self/status", "VmHWM"),
  };
}

/**
 * Takes the time and the bytes read of each step of a run: `lap()` ends one and begins the next.
 */
export class Stopwatch {
  #at = performance.now();
  #read = readBytes();
  /** @returns {{ seconds: number, read: number }} since the last lap or the start */
  lap() {
    const [at, read] = [performance.now(), readBytes()];
    const lap = { seconds: (at - this.#at) / 1000, read: read - this.#read };
    [this.#at, this.#read] = [at, read];
    return lap;
  }
}

/**
 * The laps of one run as a measurement.
 * @param {object} run
 * @param {string} run.engine
 * @param {string} run.version
 * @param {{ seconds: number, read: number }} run.load
 * @param {number} run.promptLength
 * @param {{ token: number, seconds: number, read: number }[]} run.steps the prefill, then one decode step per further token
 * @returns {Measurement}
 */
export function measurement({ engine, version, load, promptLength, steps }) {
  const [prefill, ...decode] = steps;
  if (!prefill) throw new Error(`${engine} generated no token`);
  return {
    engine,
    version,
    load_s: load.seconds,
    load_read_bytes: load.read,
    prefill_tokens: promptLength,
    prefill_s: prefill.seconds,
    prefill_tokens_per_s: promptLength / prefill.seconds,
    seconds_per_token: decode.map((step) => step.seconds),
    read_bytes_per_token: decode.map((step) => step.read),
    tokens: steps.map((step) => step.token),
    ...residentMemory(),
  };
}
