// For tests of the training loop: a trainer without a model, whose one weight depends on every token it was given and on
// their order, and whose checkpoints are real folders.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { AbortError } from "../base/errors.ts";
import type { CausalLM } from "../generate/causal-lm.ts";
import { latestCheckpoint } from "./checkpoints/index.ts";
import { RECORD_FILE, recordText } from "./checkpoints/record.ts";
import type { TrainingBatch } from "./step/batch.ts";
import type { SaveOptions, StepResult, TrainerFace, TrainingPlanSummary } from "./trainer-face.ts";

export interface FakeOptions {
  /** Called before each step with its number, from 1. May throw. */
  readonly before?: (step: number) => void;
  /** Loss on held-out data by the number of steps made. */
  readonly evalLoss?: (steps: number) => number;
  /** Steps whose gradients are not finite. */
  readonly skips?: readonly number[];
}

export class FakeTrainer implements TrainerFace {
  steps = 0;
  weight = 1;
  /** First token of each batch, in order. */
  readonly seen: number[] = [];
  readonly saves: { readonly step: number; readonly options: SaveOptions }[] = [];
  /** Tokens of each evaluation. */
  readonly evaluations: number[] = [];
  readonly #options: FakeOptions;
  #attempts = 0;

  constructor(options: FakeOptions = {}) {
    this.#options = options;
  }

  get model(): CausalLM {
    throw new Error("the loop is given its tokenizer and lengths");
  }

  plan(): TrainingPlanSummary {
    throw new Error("the loop needs no plan");
  }

  async step(batch: TrainingBatch | readonly TrainingBatch[]): Promise<StepResult> {
    const batches = (Array.isArray(batch) ? batch : [batch]) as readonly TrainingBatch[];
    this.#attempts++;
    this.#options.before?.(this.#attempts);
    const ids = batches.flatMap(({ input_ids }) => input_ids.flat());
    this.seen.push(ids[0] as number);
    const skipped = this.#options.skips?.includes(this.#attempts) ?? false;
    if (!skipped) {
      for (const id of ids) this.weight = Math.fround(Math.fround(this.weight * 1.01) + id * 1e-3);
      this.steps++;
    }
    return {
      ...{ step: this.steps, loss: skipped ? Number.NaN : 1 / this.weight, grad_norm: 1, learning_rate: 0.1 },
      ...{ tokens: ids.length, target_tokens: ids.length, skipped, seconds: 0.5 },
      ...{ stalled: { disk: 0, copy: 0, optimizer: 0 }, read_bytes: 0, written_bytes: 0 },
    };
  }

  async evaluate(
    batches: Iterable<TrainingBatch> | AsyncIterable<TrainingBatch>,
    signal?: AbortSignal,
  ): Promise<{ loss: number; tokens: number }> {
    let tokens = 0;
    for await (const { input_ids } of batches) {
      if (signal?.aborted) throw new AbortError(signal.reason);
      tokens += input_ids.flat().length;
    }
    this.evaluations.push(tokens);
    return { loss: this.#options.evalLoss?.(this.steps) ?? 1 / this.weight, tokens };
  }

  async save(dir: string, options: SaveOptions = {}): Promise<string> {
    this.saves.push({ step: this.steps, options });
    const path = join(dir, `checkpoint-${this.steps}`);
    mkdirSync(path, { recursive: true });
    const { meta = {}, eval_loss } = options;
    const record = {
      step: this.steps,
      eval_loss,
      meta: { weight: this.weight, user: meta },
      files: [],
      checksums: {},
    };
    writeFileSync(join(path, RECORD_FILE), recordText(record));
    return path;
  }

  async resume(path: string): Promise<Record<string, unknown>> {
    const at = (await latestCheckpoint(path))?.path ?? path;
    const { step, meta } = JSON.parse(readFileSync(join(at, RECORD_FILE), "utf8")) as {
      step: number;
      meta: { weight: number; user: Record<string, unknown> };
    };
    this.steps = step;
    this.weight = meta.weight;
    return meta.user;
  }

  async export(): Promise<void> {}
  async dispose(): Promise<void> {}
}
