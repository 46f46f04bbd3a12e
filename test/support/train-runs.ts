// Short trainings for tests: a fixture opened and trained with given settings, what its steps say, and its state as hashes.
import { createHash } from "node:crypto";
import { join } from "node:path";
import { expect } from "vitest";
import { readTensor } from "../../src/formats/index.ts";
import { temporaryFolder } from "../../src/formats/testing.ts";
import { AutoModelForCausalLM, type CausalLM } from "../../src/generate/causal-lm.ts";
import { Xoshiro128 } from "../../src/generate/sampling/random.ts";
import { openStateFileCount } from "../../src/memory/stores/state-file.ts";
import type { EngineOptions } from "../../src/runtime/open/prepare.ts";
import { openTrainingCheckpoint } from "../../src/train/checkpoints/index.ts";
import { openOutputCount } from "../../src/train/checkpoints/output-file.ts";
import type { TrainerOptions } from "../../src/train/open/options.ts";
import type { TrainingBatch } from "../../src/train/step/batch.ts";
import { Trainer } from "../../src/train/trainer.ts";
import { FIXTURES } from "../golden/golden.ts";
import { holdings } from "./leaks.ts";

/** Tokens of each sequence of {@link batchOf}. */
export const LENGTH = 24;
const VOCABULARY = 512;

export interface Run {
  /** A fixture's name; "llama" if absent. */
  readonly name?: string;
  readonly model?: EngineOptions;
  readonly trainer?: TrainerOptions;
}

/** Opens a fixture, trains it in `work` and gives everything back; expects that nothing is held that was not before. */
export async function training<T>(
  { name = "llama", model: modelOptions, trainer: options }: Run,
  work: (trainer: Trainer, model: CausalLM) => Promise<T>,
): Promise<T> {
  const before = { ...(await holdings()), states: openStateFileCount(), outputs: openOutputCount() };
  const folder = temporaryFolder();
  try {
    await using model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, name), {
      ...{ device: "cpu", threads: 1, kv_dtype: "float32", context_length: 64, offload_folder: folder },
      ...modelOptions,
    });
    await using trainer = await Trainer.create(model, {
      ...{ learning_rate: 1e-3, max_length: LENGTH, micro_batch_size: 2, seed: 7 },
      ...options,
    });
    return await work(trainer, model);
  } finally {
    expect({ ...(await holdings()), states: openStateFileCount(), outputs: openOutputCount() }).toEqual(
      before,
    );
  }
}

/** The batch of a step, as a data cursor would give it again: two micro-batches of different lengths. */
export function batchOf(step: number): TrainingBatch[] {
  const random = new Xoshiro128(1000 + step);
  const row = (length: number) => Array.from({ length }, () => Math.floor(random.uniform() * VOCABULARY));
  return [LENGTH, LENGTH - 7].map((length) => {
    const input_ids = [row(length), row(length)];
    const labels = input_ids.map((ids) => ids.map((id, at) => (at % 5 === 3 ? -100 : id)));
    return { input_ids, labels };
  });
}

/** What a step says that must come out the same again, bit for bit. */
export interface StepFacts {
  readonly step: number;
  readonly loss: number;
  readonly grad_norm: number;
  readonly learning_rate: number;
}

/** One step with the batch that belongs to it. */
export async function oneStep(trainer: Trainer, signal?: AbortSignal): Promise<StepFacts> {
  const { step, loss, grad_norm, learning_rate, skipped } = await trainer.step(
    batchOf(trainer.steps),
    signal,
  );
  expect(skipped).toBe(false);
  return { step, loss, grad_norm, learning_rate };
}

export async function steps(trainer: Trainer, count: number): Promise<StepFacts[]> {
  const facts: StepFacts[] = [];
  for (let i = 0; i < count; i++) facts.push(await oneStep(trainer));
  return facts;
}

/** Hashes of a checkpoint's tensors by name: master weights and moments. */
export async function checkpointHashes(path: string): Promise<Record<string, string>> {
  const { tensors } = await openTrainingCheckpoint(path);
  const hashes: Record<string, string> = {};
  for (const name of [...tensors.tensors.keys()].sort()) {
    hashes[name] = createHash("sha256")
      .update(await readTensor(tensors, name))
      .digest("hex");
  }
  return hashes;
}

/** The state as it would be saved, and the loss that the copies of the weights that compute give. */
export async function stateOf(trainer: Trainer): Promise<{ hashes: Record<string, string>; loss: number }> {
  const hashes = await checkpointHashes(await trainer.save(temporaryFolder()));
  return { hashes, loss: (await trainer.evaluate(batchOf(999))).loss };
}
