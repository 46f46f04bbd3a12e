// The training loop: batches to a trainer, step after step, with evaluation, checkpoints and logs; and from a checkpoint
// on as if it had never stopped. What a step does is the trainer's business.

import { AbortError, SpillwayError, throwIfAborted } from "../errors.ts";
import { engineOf } from "../generate/causal-lm.ts";
import type { TrainingRecord } from "../report/training-log.ts";
import type { Batch } from "./data/index.ts";
import { type CheckedData, FitData } from "./fit-data.ts";
import { FitLogs } from "./fit-logs.ts";
import { type FitOptions, type FitSettings, fitSettings, sequenceLength } from "./fit-options.ts";
import { type FitState, metaOf, START, startingPoint, stateIn } from "./fit-state.ts";
import type { StepResult, TrainerFace } from "./trainer-face.ts";

export interface FitResult {
  /** Steps made in all, those of earlier runs and skipped ones included. */
  readonly steps: number;
  /** Of the last step; undefined where it was not finite or no step was made. */
  readonly loss: number | undefined;
  /** The lowest loss on held-out data, and the step after which it was measured. */
  readonly best_eval: { readonly step: number; readonly loss: number } | undefined;
  /** Trained on in all. */
  readonly tokens: number;
  /** Of this run. */
  readonly seconds: number;
  /** Folder of the last checkpoint; undefined only where no step was made at all. */
  readonly checkpoint: string | undefined;
  /** The step this run went on from. */
  readonly resumed_from: number | undefined;
  /** The signal ended the run before its last step. */
  readonly interrupted: boolean;
}

/**
 * Trains until `max_steps` or through `epochs` of the data, whichever is first, and saves a checkpoint at the end.
 * When `signal` fires, the step under way is finished and saved, and the result says `interrupted`; with `resume` a later
 * call goes on bit for bit.
 *
 * Every row is looked at before the first step; `checked` is what an earlier look found, for callers that had to know.
 * Throws ConfigError that names the option, or file and line of a row; what the trainer throws; AbortError where the
 * signal fires before the first step. Where it still can, it saves the steps made before it throws.
 */
export async function fit(
  trainer: TrainerFace,
  options: FitOptions,
  checked?: CheckedData,
): Promise<FitResult> {
  const began = performance.now();
  const { signal } = options;
  const settings = fitSettings(options);
  throwIfAborted(signal);
  const tokenizer = options.tokenizer ?? (await (trainer.tokenizer?.() ?? trainer.model.tokenizer()));
  const max_length =
    options.max_length ?? sequenceLength(undefined, engineOf(trainer.model).prepared.spec.max_positions);
  await using data = await FitData.open(settings, {
    ...{ tokenizer, max_length, signal, checked, vocab_size: trainer.vocab_size },
    progress: options.check_callback,
  });
  const from = await startingPoint(settings);
  const { steps: total, notes } = await data.check();
  if (!checked) for (const note of notes) options.warning_callback?.(note);
  const state =
    from === undefined
      ? START
      : stateIn(await trainer.resume(from, signal === undefined ? {} : { signal }), from);
  const resumed = from !== undefined || settings.resume === true;
  await using logs = await FitLogs.open(settings, resumed ? state.step : undefined);
  const loop = new Loop({ trainer, settings, options, data, logs, total, began }, state, from);
  const interrupted = await loop.run();
  return {
    steps: loop.state.step,
    loss: loop.state.loss ?? undefined,
    best_eval: loop.state.best_eval ?? undefined,
    tokens: loop.state.tokens,
    seconds: (performance.now() - began) / 1000,
    checkpoint: loop.checkpoint,
    resumed_from: from === undefined ? undefined : state.step,
    interrupted,
  };
}

interface LoopParts {
  readonly trainer: TrainerFace;
  readonly settings: FitSettings;
  readonly options: FitOptions;
  readonly data: FitData;
  readonly logs: FitLogs;
  readonly total: number;
  /** performance.now() */
  readonly began: number;
}

class Loop {
  state: FitState;
  /** The last one saved or resumed from. */
  checkpoint: string | undefined;
  readonly #p: LoopParts;
  #saved: FitState | undefined;
  /** On held-out data, where it was measured after the last step. */
  #evalLoss: number | undefined;
  /** Weights may have been lost, or saving has just failed: another attempt could only do harm. */
  #unsavable = false;

  constructor(parts: LoopParts, state: FitState, from: string | undefined) {
    this.#p = parts;
    this.state = state;
    this.checkpoint = from;
    this.#saved = from === undefined ? undefined : state;
  }

  /** Resolves to whether the signal ended the run. */
  async run(): Promise<boolean> {
    const { data, total, options } = this.#p;
    const { signal } = options;
    const batches = data.batches(this.state.cursor)[Symbol.asyncIterator]();
    try {
      while (this.state.step < total && !signal?.aborted) {
        const next = await batches.next();
        if (next.done) break;
        await this.#step(next.value);
      }
      if (this.state.step > 0 && this.state !== this.#saved) await this.#save();
      return signal?.aborted === true && this.state.step < total;
    } catch (error) {
      if (!this.#unsavable && this.state.step > 0 && this.state !== this.#saved) {
        await this.#save().catch(() => {}); // what led here is the error to tell
      }
      throw error;
    } finally {
      await batches.return();
    }
  }

  async #step(batch: Batch): Promise<void> {
    const { trainer, settings, options, data, logs, total } = this.#p;
    const result = await this.#train(batch);
    const step = this.state.step + 1;
    this.state = {
      ...this.state,
      step,
      tokens: this.state.tokens + result.tokens,
      loss: Number.isFinite(result.loss) ? result.loss : null,
      cursor: batch.cursor,
    };
    this.#evalLoss = undefined;
    const last = step === total;
    const due = data.held_out && (last || step % settings.eval_steps === 0);
    const eval_loss = due && !options.signal?.aborted ? await this.#evaluate(trainer) : undefined;
    const { best_eval } = this.state;
    const better = eval_loss !== undefined && eval_loss < (best_eval?.loss ?? Number.POSITIVE_INFINITY);
    if (better) this.state = { ...this.state, best_eval: { step, loss: eval_loss } };
    this.#evalLoss = eval_loss;
    const record = this.#record(batch, result, eval_loss);
    await logs.append(record);
    await options.on_step?.(record, total);
    if (last || step % settings.save_steps === 0 || (better && settings.keep_best)) await this.#save();
  }

  /** The signal is not passed on: the step under way is finished. */
  async #train(batch: Batch): Promise<StepResult> {
    try {
      return await this.#p.trainer.step(batch.micro_batches);
    } catch (error) {
      // A batch that is refused has changed nothing; after anything else the weights may not be whole.
      const refused = error instanceof SpillwayError && ["config", "budget"].includes(error.code);
      if (!refused) this.#unsavable = true;
      throw error;
    }
  }

  /** undefined where the signal fired meanwhile. */
  async #evaluate(trainer: TrainerFace): Promise<number | undefined> {
    const { signal } = this.#p.options;
    try {
      return (await trainer.evaluate(this.#p.data.validation(), signal)).loss;
    } catch (error) {
      if (error instanceof AbortError && signal?.aborted) return undefined;
      throw error;
    }
  }

  #record(batch: Batch, result: StepResult, eval_loss: number | undefined): TrainingRecord {
    const { tokens, seconds } = result;
    return {
      step: this.state.step,
      epoch: this.#p.data.epochAt(batch),
      loss: result.loss,
      ...(eval_loss !== undefined && { eval_loss }),
      grad_norm: result.grad_norm,
      learning_rate: result.learning_rate,
      tokens: this.state.tokens,
      tokens_per_second: seconds > 0 ? tokens / seconds : 0,
      seconds,
      elapsed: (performance.now() - this.#p.began) / 1000,
      ...(result.skipped && { skipped: true }),
      stalled: result.stalled,
      read_bytes: result.read_bytes,
      written_bytes: result.written_bytes,
    };
  }

  async #save(): Promise<void> {
    const { trainer, settings, options } = this.#p;
    const { keep, keep_best } = settings;
    const { state } = this;
    const eval_loss = this.#evalLoss;
    this.#unsavable = true;
    this.checkpoint = await trainer.save(settings.checkpoints, {
      meta: metaOf(state),
      ...(eval_loss !== undefined && { eval_loss }),
      ...(keep !== undefined && { keep }),
      keep_best,
    });
    this.#unsavable = false;
    this.#saved = state;
    await options.on_save?.(this.checkpoint);
  }
}
