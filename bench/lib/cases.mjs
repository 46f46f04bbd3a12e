// The models the benches run and how a run of each engine is started. Both engines get the same weights.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { cp, mkdir, rename, rm, stat } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { runForJson } from "./child.mjs";
import { convertLlama } from "./gguf.mjs";
import { openSafetensors } from "./safetensors.mjs";

/** @param {string} file relative to bench/ */
const inBench = (file) => fileURLToPath(new URL(`../${file}`, import.meta.url));
/** Where what the benches make is kept. */
export const WORK = inBench(".work");
const MAKE_CHECKPOINT = inBench("../scripts/make-checkpoint.mjs");

/** @typedef {"spillway" | "llama"} Engine */
/** @typedef {{ name: string, checkpoint: string, gguf: string, weightBytes: number }} Model weightBytes: of all tensors */

/** Options of every bench that say which model: give `allowPositionals: false` and these to parseArgs. */
export const MODEL_OPTIONS = /** @type {const} */ ({
  preset: { type: "string", default: "llama-4gib" },
  dtype: { type: "string", default: "bf16" },
  layers: { type: "string" },
  checkpoint: { type: "string" },
});

/** Whether there is something to compare with. */
export function hasLlamaCpp() {
  const there = existsSync(inBench("node_modules/node-llama-cpp"));
  if (!there)
    console.error(
      "node-llama-cpp is not installed, so only Spillway is measured; to compare: npm ci --prefix bench",
    );
  return there;
}

/**
 * Makes a checkpoint of random weights, whole or not at all.
 * @param {string} dir
 * @param {string[]} options of scripts/make-checkpoint.mjs
 */
export async function makeCheckpoint(dir, options) {
  console.error(`making ${path.basename(dir)} ...`);
  const partial = `${dir}.${process.pid}.tmp`;
  await rm(partial, { recursive: true, force: true });
  try {
    execFileSync(process.execPath, [MAKE_CHECKPOINT, partial, ...options], { stdio: ["ignore", 2, 2] });
    await rename(partial, dir);
  } finally {
    await rm(partial, { recursive: true, force: true });
  }
}

/**
 * The checkpoint and its GGUF twin, made in bench/.work on first use and kept; delete that folder to have them made anew.
 * @param {{ preset: string, dtype: string, layers?: string | undefined, checkpoint?: string | undefined }} options `checkpoint`: a Llama directory of one's own
 * @returns {Promise<Model>}
 */
export async function prepareModel({ preset, dtype, layers, checkpoint }) {
  await mkdir(WORK, { recursive: true });
  const dir = checkpoint
    ? path.resolve(checkpoint)
    : path.join(WORK, [preset, dtype, ...(layers ? [`${layers}-layers`] : [])].join("-"));
  const name = path.basename(dir);
  if (!existsSync(dir)) {
    if (checkpoint) throw new Error(`no checkpoint at ${checkpoint}`);
    await makeCheckpoint(dir, [
      "--preset",
      preset,
      "--dtype",
      dtype,
      ...(layers ? ["--layers", layers] : []),
    ]);
  }
  // two directories of one name are two models
  const id = checkpoint ? `${name}-${createHash("md5").update(dir).digest("hex").slice(0, 8)}` : name;
  const gguf = path.join(WORK, `${id}.gguf`);
  if (!existsSync(gguf) || (await stat(gguf)).mtimeMs < (await stat(path.join(dir, "config.json"))).mtimeMs) {
    console.error(`converting ${name} to GGUF ...`);
    await convertLlama(dir, gguf);
  }
  const tensors = await openSafetensors(dir);
  const weightBytes = [...tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  return { name, checkpoint: dir, gguf, weightBytes };
}

/**
 * The model and its GGUF twin in another folder.
 * @param {string} dir
 * @param {Model} model
 * @returns {Promise<Model>}
 */
export async function copyTo(dir, model) {
  const copy = { ...model, checkpoint: path.join(dir, "checkpoint"), gguf: path.join(dir, "model.gguf") };
  console.error("copying the model to the known disk ...");
  const needed = /\.(json|safetensors)$/; // a checkpoint from the Hub may hold the weights in other formats too
  const filter = (/** @type {string} */ file) => file === model.checkpoint || needed.test(file);
  await cp(model.checkpoint, copy.checkpoint, { recursive: true, filter });
  await cp(model.gguf, copy.gguf);
  return copy;
}

/**
 * One run of one engine in a process of its own.
 * @param {Engine} engine
 * @param {Pick<Model, "checkpoint" | "gguf">} model
 * @param {Record<string, string | number | undefined>} options of the runner, without the dashes
 * @param {(command: string[]) => string[]} [within] wraps the command: a known disk, a limit of memory
 */
export function run(engine, model, options, within = (command) => command) {
  const runner = inBench(`runners/${engine === "llama" ? "llama-cpp" : "spillway"}.mjs`);
  const command = [process.execPath, runner, "--model", engine === "llama" ? model.gguf : model.checkpoint];
  for (const [name, value] of Object.entries(options))
    if (value !== undefined) command.push(`--${name}`, String(value));
  return runForJson(within(command));
}
