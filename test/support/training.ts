// For tests of the trainer: the reference's training runs, runs of our own, and the whole training state as bytes, so that
// two runs can be compared to the bit. What is expected of them is the tests' business.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import { openCheckpoint, readTensor } from "../../src/formats/index.ts";
import { temporaryFolder } from "../../src/formats/testing.ts";
import { AutoModelForCausalLM, type CausalLM } from "../../src/generate/causal-lm.ts";
import { openStateFileCount } from "../../src/memory/stores/state-file.ts";
import type { EngineOptions } from "../../src/runtime/open/prepare.ts";
import type { TrainerOptions } from "../../src/train/open/options.ts";
import type { TrainingBatch } from "../../src/train/step/batch.ts";
import { Trainer } from "../../src/train/trainer.ts";
import type { StepResult } from "../../src/train/trainer-face.ts";
import { FIXTURES, largestDifference } from "../golden/golden.ts";
import { leavesNothing } from "./leaks.ts";

export const CPU: EngineOptions = { device: "cpu", threads: 1, kv_dtype: "float32", context_length: 64 };

/** Five steps of AdamW on one batch, as the reference implementation made them. */
export interface ReferenceRun {
  readonly dir: string;
  readonly batch: TrainingBatch;
  /** The reference's hyper-parameters, and memory for its batch. */
  readonly options: TrainerOptions;
  readonly losses: readonly number[];
  readonly gradNorms: readonly number[];
  /** Before clipping, and after; by name in the files that are exported. */
  readonly gradients: ReadonlyMap<string, Float32Array>;
  readonly clipped: ReadonlyMap<string, Float32Array>;
  readonly weights: ReadonlyMap<string, Float32Array>;
}

export async function referenceRun(name: string, kind: "train" | "lora" = "train"): Promise<ReferenceRun> {
  const dir = join(FIXTURES, name);
  const golden = JSON.parse(readFileSync(join(dir, "golden.json"), "utf8")) as Record<
    typeof kind,
    {
      optimizer: { lr: number; betas: [number, number]; eps: number; weight_decay: number };
      clip_norm: number;
      batch: number[][];
      losses: number[];
      grad_norms: number[];
    }
  >;
  const { optimizer, clip_norm, batch, losses, grad_norms } = golden[kind];
  const { lr, ...others } = optimizer;
  const traced = await floats(join(dir, `${kind}.safetensors`));
  const named = (prefix: string) =>
    new Map(
      [...traced]
        .filter(([key]) => key.startsWith(prefix))
        .map(([key, values]) => [key.slice(prefix.length).replace(".default.", "."), values] as const),
    );
  const clipped = named("grad_step1_clipped.");
  const clip = Math.min(1, clip_norm / ((grad_norms[0] as number) + 1e-6));
  return {
    dir,
    batch: labelled(batch),
    options: {
      ...{ learning_rate: lr, ...others, no_decay: [], max_grad_norm: clip_norm }, // torch's AdamW decays everything
      ...{ micro_batch_size: batch.length, max_length: (batch[0] as number[]).length },
    },
    losses,
    gradNorms: grad_norms,
    gradients: new Map([...clipped].map(([key, values]) => [key, values.map((g) => g / clip)])),
    clipped,
    weights: named("weight_after5."),
  };
}

/** Sequences that are their own labels. */
export function labelled(input_ids: readonly (readonly number[])[]): TrainingBatch {
  return { input_ids, labels: input_ids };
}

/** Tensors of a checkpoint whose values are f32, by name. */
export async function floats(path: string): Promise<Map<string, Float32Array>> {
  const checkpoint = await openCheckpoint(path);
  const tensors = new Map<string, Float32Array>();
  for (const name of checkpoint.tensors.keys()) {
    const bytes = await readTensor(checkpoint, name);
    tensors.set(name, new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4));
  }
  return tensors;
}

/** The weights that train, as they are exported in f32. */
export async function exported(trainer: Trainer): Promise<Map<string, Float32Array>> {
  const dir = temporaryFolder();
  await trainer.export(dir, { dtype: "float32" });
  const adapter = readdirSync(dir).find((file) => file === "adapter_model.safetensors");
  return floats(adapter ? join(dir, adapter) : dir);
}

/** A digest of master weights and moments, as they are saved. */
export async function savedState(trainer: Trainer): Promise<string> {
  const path = await trainer.save(temporaryFolder());
  const files = readdirSync(path).filter((file) => file.endsWith(".safetensors"));
  expect(files.length).toBeGreaterThan(0);
  const digest = createHash("sha256");
  for (const file of files.sort()) digest.update(readFileSync(join(path, file)));
  return digest.digest("hex");
}

export interface TrainingRun {
  readonly model?: EngineOptions;
  readonly trainer: TrainerOptions;
  /** One entry for each step: a batch, or micro-batches. */
  readonly steps: readonly (TrainingBatch | readonly TrainingBatch[])[];
}

/** What a run came to. */
export interface Trained {
  readonly results: readonly StepResult[];
  readonly losses: readonly number[];
  readonly gradNorms: readonly number[];
  readonly weights: ReadonlyMap<string, Float32Array>;
  /** {@link savedState} */
  readonly state: string;
}

/** Opens a model and a trainer, makes the steps, and closes both; nothing may be left of them. */
export function train(dir: string, run: TrainingRun): Promise<Trained> {
  return withTrainer(dir, run, async (trainer) => {
    const results: StepResult[] = [];
    for (const batch of run.steps) results.push(await trainer.step(batch));
    return {
      results,
      losses: results.map((r) => r.loss),
      gradNorms: results.map((r) => r.grad_norm),
      weights: await exported(trainer),
      state: await savedState(trainer),
    };
  });
}

/** A trainer for the time of `work`; nothing may be left of it and of its model. */
export async function withTrainer<T>(
  dir: string,
  options: { model?: EngineOptions | undefined; trainer?: TrainerOptions | undefined },
  work: (trainer: Trainer, model: CausalLM) => Promise<T>,
): Promise<T> {
  const offload_folder = temporaryFolder();
  const stateFiles = openStateFileCount();
  const result = await leavesNothing(async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, ...options.model });
    await using trainer = await Trainer.create(model, { offload_folder, ...options.trainer });
    return await work(trainer, model);
  });
  expect(openStateFileCount()).toBe(stateFiles);
  return result;
}

/** Expects the same losses, norms, weights, masters and moments to the bit. */
export function expectSameRun(run: Trained, as: Trained, where: string): void {
  expect(run.losses, `losses, ${where}`).toEqual(as.losses);
  expect(run.gradNorms, `gradient norms, ${where}`).toEqual(as.gradNorms);
  expect([...run.weights.keys()], where).toEqual([...as.weights.keys()]);
  for (const [name, values] of run.weights) {
    expect(sameBits(values, as.weights.get(name) as Float32Array), `${name}, ${where}`).toBe(true);
  }
  expect(run.state, `training state, ${where}`).toBe(as.state);
}

/** Whether two arrays hold the same bits: much faster to say than an expectation of equal elements. */
export function sameBits(a: Float32Array, b: Float32Array): boolean {
  const bytes = (v: Float32Array) => Buffer.from(v.buffer, v.byteOffset, v.byteLength);
  return bytes(a).equals(bytes(b));
}

/** Expects every tensor of one to be one of the other, within `tolerance` of its values. */
export function expectClose(
  values: ReadonlyMap<string, Float32Array>,
  expected: ReadonlyMap<string, Float32Array>,
  tolerance: number,
): void {
  expect([...values.keys()].sort()).toEqual([...expected.keys()].sort());
  for (const [name, of] of values) {
    expect(largestDifference(of, expected.get(name) as Float32Array), name).toBeLessThan(tolerance);
  }
}

/** The largest difference of any element of any tensor. */
export function furthest(a: ReadonlyMap<string, Float32Array>, b: ReadonlyMap<string, Float32Array>): number {
  return Math.max(...[...a].map(([name, v]) => largestDifference(v, b.get(name) as Float32Array)));
}

/** Expects numbers that differ by at most `tolerance`, relatively. */
export function expectNear(values: readonly number[], expected: readonly number[], tolerance: number): void {
  expect(values.length).toBe(expected.length);
  for (const [i, value] of values.entries()) {
    expect(Math.abs(value / (expected[i] as number) - 1), `${i}: ${value}`).toBeLessThan(tolerance);
  }
}

/** A module map that leaves the second half of the layers of a model of `layers` on disk. */
export function halfOnDisk(prefix: string, layers: number): Record<string, "cpu" | "disk"> {
  const map: Record<string, "cpu" | "disk"> = { "": "cpu" };
  for (let i = Math.floor(layers / 2); i < layers; i++) map[`${prefix}.${i}`] = "disk";
  return map;
}
