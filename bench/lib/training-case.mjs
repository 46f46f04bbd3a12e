// Training runs from the bench's side: the model, the batches every engine gets, how a run is started, and the time that
// the machine allows for a step at best. What happens inside a run is runners/.
import { existsSync } from "node:fs";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { makeCheckpoint, WORK } from "./cases.mjs";
import { runForJson } from "./child.mjs";
import { promptIds } from "./runner.mjs";
import { openSafetensors } from "./safetensors.mjs";

const MIB = 2 ** 20;
/** Tokens of the longest sequence of a batch; a batch of more tokens has several. */
const LONGEST = 256;
/** Batches in a file; runs of more steps start again at the first. */
const BATCHES = 8;

/** Llama shapes by name: what is in config.json beside the family's constants. */
const SHAPES = {
  "llama-88m": {
    hidden_size: 768,
    intermediate_size: 2048,
    num_hidden_layers: 12,
    num_attention_heads: 12,
    num_key_value_heads: 4,
    vocab_size: 8192,
    max_position_embeddings: 1024,
  },
  "llama-214m": {
    hidden_size: 1024,
    intermediate_size: 2816,
    num_hidden_layers: 16,
    num_attention_heads: 16,
    num_key_value_heads: 4,
    vocab_size: 16384,
    max_position_embeddings: 1024,
  },
};

/** @typedef {{ name: string, checkpoint: string, parameters: number, weightBytes: number, config: { vocab_size: number, hidden_size: number, num_hidden_layers: number } }} TrainingModel */
/** @typedef {{ sequences: number, length: number }} BatchShape */
/** @typedef {import("./training-runner.mjs").TrainingMeasurement & import("./child.mjs").Limited} TrainingRun */

/** Options of the benches of training that say which model; `shape` has a default of its own in each. */
export const TRAINING_MODEL_OPTIONS = /** @type {const} */ ({
  layers: { type: "string" },
  checkpoint: { type: "string" }, // a Llama directory of one's own
});

/**
 * A checkpoint in f32, made in bench/.work on first use and kept.
 * @param {{ shape: string, layers?: string | undefined, checkpoint?: string | undefined }} options
 * @returns {Promise<TrainingModel>}
 */
export async function prepareTrainingModel({ shape, layers, checkpoint }) {
  await mkdir(WORK, { recursive: true });
  const own = /** @type {Record<string, object>} */ (SHAPES)[shape];
  if (!own) throw new Error(`--shape is one of ${Object.keys(SHAPES).join(", ")}, not ${shape}`);
  const name = [shape, "f32", ...(layers ? [`${layers}-layers`] : [])].join("-");
  const dir = checkpoint ? path.resolve(checkpoint) : path.join(WORK, name);
  if (!existsSync(dir)) {
    if (checkpoint) throw new Error(`no checkpoint at ${checkpoint}`);
    const options = ["--family", "llama", "--shape", JSON.stringify(own), "--dtype", "f32"];
    await makeCheckpoint(dir, layers ? [...options, "--layers", layers] : options);
  }
  const tensors = [...(await openSafetensors(dir)).values()];
  const config = JSON.parse(await readFile(path.join(dir, "config.json"), "utf8"));
  return {
    name: path.basename(dir),
    checkpoint: dir,
    config,
    parameters: tensors.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0),
    weightBytes: tensors.reduce((sum, { bytes }) => sum + bytes, 0),
  };
}

/**
 * `tokens` as sequences of one length.
 * @param {number} tokens
 * @returns {BatchShape}
 */
export function batchShape(tokens) {
  const sequences = Math.ceil(tokens / LONGEST);
  if (tokens < 2 || tokens % sequences !== 0)
    throw new Error(
      `${tokens} tokens make no batch of equal sequences: take up to ${LONGEST} or a multiple of it`,
    );
  return { sequences, length: tokens / sequences };
}

/**
 * The batches of a run: [batch][sequence][token], no two sequences alike. Labels are the ids.
 * @param {BatchShape} shape
 * @param {number} vocab
 * @returns {number[][][]}
 */
export function trainingBatches({ sequences, length }, vocab) {
  const ids = promptIds(BATCHES * sequences * length, vocab);
  return Array.from({ length: BATCHES }, (_, batch) =>
    Array.from({ length: sequences }, (_, row) => {
      const from = (batch * sequences + row) * length;
      return ids.slice(from, from + length);
    }),
  );
}

/** A file of {@link trainingBatches}, made on first use. @param {BatchShape} shape @param {number} vocab */
export async function batchFile(shape, vocab) {
  await mkdir(WORK, { recursive: true });
  const file = path.join(WORK, `batches-${shape.sequences}x${shape.length}-of-${vocab}.json`);
  await writeFile(`${file}.${process.pid}.tmp`, JSON.stringify(trainingBatches(shape, vocab)));
  await rename(`${file}.${process.pid}.tmp`, file);
  return file;
}

/** @param {string} file of runners/ */
export const runnerFile = (file) => fileURLToPath(new URL(`../runners/${file}`, import.meta.url));

/**
 * One run in a process of its own.
 * @param {string[]} program that runs the runner, and the runner
 * @param {Record<string, string | number | undefined>} options of the runner, without the dashes
 * @param {(command: string[]) => string[]} [within] wraps the command: a known disk, a limit of memory
 */
export async function runTraining(program, options, within = (command) => command) {
  const command = [...program];
  for (const [name, value] of Object.entries(options))
    if (value !== undefined) command.push(`--${name}`, String(value));
  return /** @type {TrainingRun} */ (/** @type {unknown} */ (await runForJson(within(command))));
}

/** Spillway's runner. @param {Record<string, string | number | undefined>} options @param {(command: string[]) => string[]} [within] */
export const trainSpillway = (options, within) =>
  runTraining([process.execPath, runnerFile("spillway-training.mjs")], options, within);

/**
 * What a step takes at best: it computes, and moves its bytes, and the two at the same time. A disk whose reads and
 * writes share its speed (`shared_s`) is what the bound is made for; the known disk caps each way by itself, so that
 * reads and writes that overlap can be faster, down to `each_way_s`.
 * @param {{ compute_s: number, read_bytes: number, written_bytes: number, mib_per_s: number }} step
 */
export function bound({ compute_s, read_bytes, written_bytes, mib_per_s }) {
  const seconds = (/** @type {number} */ bytes) => bytes / MIB / mib_per_s;
  const disk_s = seconds(read_bytes + written_bytes);
  const each_way_s = Math.max(seconds(read_bytes), seconds(written_bytes));
  const share = disk_s / compute_s;
  return {
    disk_s,
    bound_s: Math.max(compute_s, disk_s),
    each_way_s: Math.max(compute_s, each_way_s),
    /** which of the two is the longer, where it is so by more than a quarter */
    bound_by: share > 1.25 ? "disk" : share < 0.8 ? "compute" : "both",
  };
}
