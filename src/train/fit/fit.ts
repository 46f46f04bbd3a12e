// The training loop: batches to a trainer, step after step, with evaluation, checkpoints and logs; and from a checkpoint
// on as if it had never stopped. What a step does is the trainer's business.

import { Listener } from "../../base/async/listener.ts";
import { AbortError, SpillwayError, throwIfAborted } from "../../base/errors.ts";
import { RoomError } from "../../base/files/room.ts";
import { having, requireKind } from "../../base/kinds.ts";
import { refuseWithin } from "../../formats/export-folder.ts";
import { engineOf } from "../../generate/causal-lm.ts";
import { causingCode } from "../../memory/io/system-errors.ts";
import { lockFolder } from "../../memory/locks/file-lock.ts";
import type { TrainingRecord } from "../../report/training-log.ts";
import type { Batch } from "../data/index.ts";
import { rateChanges } from "../resume/resume-point.ts";
import { requireRunRoom } from "../resume/room.ts";
import { compareRuns, IDENTITY_KEY, type RunIdentity, runIdentity } from "../resume/run-identity.ts";
import type { StepResult, TrainerFace } from "../trainer-face.ts";
import { type CheckedData, FitData } from "./fit-data.ts";
import { FitLogs } from "./fit-logs.ts";
import {
  checkFitOptions,
  type FitOptions,
  type FitSettings,
  fitSettings,
  sequenceLength,
} from "./fit-options.ts";
import type { FitResult } from "./fit-result.ts";
import { type FitState, metaOf, readFitState, START, startingPoint } from "./fit-state.ts";
import { NothingTrainedError, Skips } from "./skips.ts";

/**
 * Trains until `max_steps` or through `epochs` of the data, whichever is first, and saves a checkpoint at the end.
 * When `signal` fires, the step under way is finished and saved, and the result says `interrupted`; with `resume` a later
 * call goes on bit for bit.
 *
 * Every row is looked at before the first step.
 * Throws ConfigError that names the option, or file and line of a row; LockedError where another process uses the output
 * folder; RoomError where the disk has too little room, before the first step where that can be known, else after the
 * last; NothingTrainedError where steps were skipped to the end; what the trainer throws; AbortError where the signal fires
 * before the first step. Where it still can, it saves the steps made before it throws.
 */
export function fit(trainer: TrainerFace, options: FitOptions): Promise<FitResult> {
  return fitChecked(trainer, options, undefined);
}

/** {@link fit} with what an earlier look at the rows found, for a caller that had to know before there was a trainer. */
export async function fitChecked(
  trainer: TrainerFace,
  given: FitOptions,
  checked: CheckedData | undefined,
): Promise<FitResult> {
  const began = performance.now();
  requireKind(trainer, TRAINER, "trainer");
  const options = checkFitOptions(given);
  const { signal } = options;
  const settings = fitSettings(options);
  throwIfAborted(signal);
  await refuseWithin(settings.output, trainer.inputs ?? [], "checkpoints and logs");
  const tokenizer = options.tokenizer ?? (await (trainer.tokenizer?.() ?? trainer.model.tokenizer()));
  const max_length =
    options.max_length ?? sequenceLength(undefined, engineOf(trainer.model).prepared.spec.max_positions);
  await using _lock = options.lock ? undefined : await lockFolder(settings.output, "the output folder");
  const checking = new Listener(options.check_callback);
  await using data = await FitData.open(settings, {
    ...{ tokenizer, max_length, signal, checked, vocab_size: trainer.vocab_size },
    progress: (done, total) => checking.tell(done, total),
  });
  const from = await startingPoint(settings);
  const saved = from === undefined ? undefined : await readFitState(from);
  const identity = await runIdentity({
    ...{ settings, tokenizer, max_length, known: saved?.identity, signal },
    modelPath: options.tokenizer ? undefined : trainer.model.path,
  });
  const changes = saved
    ? [
        ...compareRuns(saved.identity, identity, saved.path, settings.accept_data_changes),
        ...rateChanges(saved.rates, trainer.rates ?? {}),
      ]
    : [];
  const state = saved?.state ?? START;
  const { steps: total, notes } = await data.check(state);
  await checking.settled();
  if (!checked) for (const note of notes) await options.warning_callback?.(note);
  if (trainer.checkpoint_bytes !== undefined) {
    const steps = { done: state.step, total };
    await requireRunRoom(settings, trainer.checkpoint_bytes, steps, options.room_beside ?? []);
  }
  if (from !== undefined) await trainer.resume(from, signal === undefined ? {} : { signal });
  const resumed = from !== undefined || settings.resume === true;
  await using logs = await FitLogs.open(settings, resumed ? state.step : undefined);
  if (resumed) await options.on_resume?.({ step: state.step, total, checkpoint: from, changes });
  const skips = new Skips();
  const loop = new Loop(
    { trainer, settings, options, data, logs, total, began, identity, skips, resumed },
    state,
    from,
  );
  const interrupted = await loop.run();
  const result: FitResult = {
    steps: loop.state.step,
    loss: loop.state.loss ?? undefined,
    best_eval: loop.state.best_eval ?? undefined,
    tokens: loop.state.tokens,
    seconds: (performance.now() - began) / 1000,
    checkpoint: loop.checkpoint,
    resumed_from: from === undefined ? undefined : state.step,
    interrupted,
    ...{ updates: skips.updates, skipped: skips.skipped },
  };
  const problem = interrupted ? undefined : skips.verdict;
  if (problem) throw new NothingTrainedError(problem, result);
  return result;
}

const TRAINER = having(["step", "evaluate", "save", "resume"], "what Trainer.create made");

interface LoopParts {
  readonly trainer: TrainerFace;
  readonly settings: FitSettings;
  readonly options: FitOptions;
  readonly data: FitData;
  readonly logs: FitLogs;
  readonly total: number;
  /** performance.now() */
  readonly began: number;
  readonly identity: RunIdentity;
  readonly skips: Skips;
  readonly resumed: boolean;
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
  /** A step of this run is in the log; one was not, for lack of room. */
  #logged = false;
  #logless = false;

  constructor(parts: LoopParts, state: FitState, from: string | undefined) {
    this.#p = parts;
    this.state = state;
    this.checkpoint = from;
    this.#saved = from === undefined ? undefined : state;
  }

  /** Resolves to whether the signal ended the run. */
  async run(): Promise<boolean> {
    const { data, total, options, skips } = this.#p;
    const { signal } = options;
    const batches = data.batches(this.state.cursor)[Symbol.asyncIterator]();
    try {
      while (this.state.step < total && !signal?.aborted && !skips.hopeless) {
        const next = await batches.next();
        if (next.done) break;
        await this.#step(next.value);
      }
      const failed = skips.verdict !== undefined && !signal?.aborted;
      if (this.state.step > 0 && this.state !== this.#saved && !failed) await this.#save(true);
      return signal?.aborted === true && this.state.step < total;
    } catch (error) {
      if (!this.#unsavable && this.state.step > 0 && this.state !== this.#saved && !skips.suspect) {
        await this.#save(true).catch(() => {}); // what led here is the error to tell
      }
      throw error;
    } finally {
      await batches.return();
    }
  }

  async #step(batch: Batch): Promise<void> {
    const { trainer, settings, options, data, total, skips } = this.#p;
    const result = await this.#train(batch);
    const warning = skips.add(result.skipped);
    if (warning) await options.warning_callback?.(warning);
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
    await this.#log(record);
    await options.on_step?.(record, total);
    if (skips.suspect || last) return; // the last one is saved when it is known to be worth it
    if (step % settings.save_steps === 0 || (better && settings.keep_best)) await this.#save(false);
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
      ...(this.#p.resumed && !this.#logged && { resumed_from: this.state.step - 1 }),
      stalled: result.stalled,
      read_bytes: result.read_bytes,
      written_bytes: result.written_bytes,
    };
  }

  /** A full disk is no reason to end a run: its log goes on when there is room again. */
  async #log(record: TrainingRecord): Promise<void> {
    try {
      await this.#p.logs.append(record);
      this.#logged = true;
    } catch (error) {
      if (!isFull(error)) throw error;
      if (!this.#logless)
        await this.#p.options.warning_callback?.(`step ${record.step}: ${(error as Error).message}`);
      this.#logless = true;
    }
  }

  /**
   * Where the disk is full, the caller may name another folder; otherwise a save that is not the last is left to the next
   * one. Nothing is lost: the state stays in memory, and so do earlier checkpoints on disk.
   */
  async #save(last: boolean): Promise<void> {
    const { settings, options } = this.#p;
    let saved: string | undefined;
    try {
      saved = await this.#saveIn(settings.checkpoints);
    } catch (error) {
      if (!isFull(error)) throw error;
      const { step } = this.state;
      const other = await options.on_save_failed?.(error as Error, { step, last });
      if (other !== undefined) saved = await this.#saveIn(other);
      else {
        if (last) throw error;
        this.#unsavable = false;
        const next = "the run goes on, and saves when it is time again";
        if (!options.on_save_failed)
          await options.warning_callback?.(
            `step ${step} was not saved: ${(error as Error).message}; ${next}`,
          );
      }
    }
    if (saved !== undefined) await options.on_save?.(saved); // whatever it throws, the checkpoint is there
  }

  async #saveIn(folder: string): Promise<string> {
    const { trainer, settings, identity } = this.#p;
    const { keep, keep_best } = settings;
    const { state } = this;
    const eval_loss = this.#evalLoss;
    this.#unsavable = true;
    this.checkpoint = await trainer.save(folder, {
      meta: { ...metaOf(state), [IDENTITY_KEY]: identity },
      ...(eval_loss !== undefined && { eval_loss }),
      ...(keep !== undefined && { keep }),
      keep_best,
    });
    this.#unsavable = false;
    this.#saved = state;
    return this.checkpoint;
  }
}

function isFull(error: unknown): boolean {
  return error instanceof RoomError || ["ENOSPC", "EDQUOT"].includes(causingCode(error) ?? "");
}
