// What runners of training share with the bench: the options, and the clock and the byte counters of steps made one right
// after the other.
import os from "node:os";
import { parseArgs } from "node:util";
import { count, readBytes, residentMemory, threads, writtenBytes } from "./runner.mjs";

/**
 * @typedef {object} TrainingStep
 * @property {number} seconds from the end of the step before to the end of this one, so that updates which go on beside
 *   the next step are in it
 * @property {number} loss
 * @property {number} grad_norm
 * @property {number} read_bytes by the engine's own account
 * @property {number} written_bytes by the engine's own account
 * @property {number} kernel_read_bytes by /proc/self/io
 * @property {number} kernel_written_bytes by /proc/self/io
 * @property {number} others_cpu_s processor time of everything but the process
 * @property {{ disk: number, copy: number, optimizer: number }} stalled shares of the time
 */

/**
 * @typedef {object} TrainingMeasurement one run of one engine
 * @property {string} engine
 * @property {string} version
 * @property {number} create_s until the first step can be made
 * @property {number} tokens of a step
 * @property {number[]} losses of all steps, those of the warm-up first
 * @property {TrainingStep[]} steps after the warm-up
 * @property {number} rss_bytes
 * @property {number} peak_rss_bytes
 * @property {number} [save_s] writing a training checkpoint
 * @property {number} [resume_s] reading one
 * @property {number} [loss_after_save] of the step made after saving
 * @property {{ homes: Record<string, unknown>, disk_per_step: { read: number, written: number }, kept_activations?: { stages: number, of: number, bytes: number, spared: number }, planned_bytes: Record<string, number> }} [plan]
 * @property {{ peak: Record<string, number> }} [memory] what the engine's ledger says
 */

/**
 * Options every runner of training takes and those of its own.
 * @template {import("node:util").ParseArgsConfig["options"]} T
 * @param {T} own
 */
export function trainingRunnerOptions(own) {
  const { values } = parseArgs({
    options: {
      model: { type: "string" },
      batches: { type: "string" }, // file of [batch][sequence][token]
      steps: { type: "string", default: "3" },
      // The first step finds holes where moments will be; the next ones write each of their two places for the first
      // time, which takes longer than later on.
      "warmup-steps": { type: "string", default: "4" },
      threads: { type: "string", default: String(os.availableParallelism()) },
      precision: { type: "string", default: "float32" },
      "max-grad-norm": { type: "string", default: "1" },
      ...own,
    },
  });
  const text = /** @type {Record<string, string>} */ (/** @type {unknown} */ (values));
  if (!text.model) throw new Error("--model is required: a checkpoint directory");
  if (!text.batches) throw new Error("--batches is required: a file of token ids");
  const settings = {
    model: text.model,
    batches: text.batches,
    steps: count(text, "steps", 1),
    warmupSteps: count(text, "warmup-steps", 0),
    threads: threads(text),
    precision: text.precision,
    maxGradNorm: Number(text["max-grad-norm"]),
  };
  return { settings, own: text };
}

/** Times steps and takes their bytes: `lap()` ends one and begins the next. */
export class StepWatch {
  #at = performance.now();
  #read = readBytes();
  #written = writtenBytes();
  #others = othersSeconds();
  /** @returns {{ seconds: number, kernel_read_bytes: number, kernel_written_bytes: number, others_cpu_s: number }} since the last lap or the start */
  lap() {
    const [at, read, written, others] = [performance.now(), readBytes(), writtenBytes(), othersSeconds()];
    const lap = {
      seconds: (at - this.#at) / 1000,
      kernel_read_bytes: read - this.#read,
      kernel_written_bytes: written - this.#written,
      others_cpu_s: others - this.#others,
    };
    [this.#at, this.#read, this.#written, this.#others] = [at, read, written, others];
    return lap;
  }
}

/** Processor time of everything but this process so far, in seconds: a disk in RAM takes some to copy its bytes. */
function othersSeconds() {
  const { user, system } = process.cpuUsage();
  const busy = os.cpus().reduce((sum, { times }) => sum + times.user + times.nice + times.sys + times.irq, 0);
  return busy / 1e3 - (user + system) / 1e6;
}

/**
 * Steps one right after the other.
 * @param {{ step(batch: number[][]): Promise<{ loss: number, grad_norm: number, read_bytes: number, written_bytes: number, stalled: TrainingStep["stalled"] }> }} engine
 * @param {number[][][]} batches
 * @param {{ steps: number, warmupSteps: number, done?: number }} how `done`: steps made before, in other runs too
 */
export async function timedSteps(engine, batches, { steps, warmupSteps, done = 0 }) {
  /** @type {TrainingStep[]} */
  const all = [];
  const watch = new StepWatch();
  for (let i = 0; i < warmupSteps + steps; i++) {
    const batch = batches[(done + i) % batches.length];
    if (!batch) throw new Error("there are no batches");
    const { loss, grad_norm, read_bytes, written_bytes, stalled } = await engine.step(batch);
    all.push({ ...watch.lap(), loss, grad_norm, read_bytes, written_bytes, stalled });
  }
  return { losses: all.map(({ loss }) => loss), steps: all.slice(warmupSteps), ...residentMemory() };
}
