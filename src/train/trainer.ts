// Training as people use it: create, step, evaluate, save, resume, export, dispose. What a step is made of is
// step/training-step.ts; where things live is session.ts.
import { randomUUID } from "node:crypto";
import { withLinked } from "../base/async/signals.ts";
import { ConfigError, DisposedError } from "../base/errors.ts";
import { refuseWithin } from "../formats/export-folder.ts";
import { type CausalLM, engineOf } from "../generate/causal-lm.ts";
import { checkSignal } from "../generate/requests.ts";
import { AutoTokenizer } from "../generate/text/tokenizer.ts";
import * as checked from "./arguments.ts";
import {
  checkpointBytes,
  openTrainingCheckpoint,
  restoreTensors,
  saveCheckpoint,
} from "./checkpoints/index.ts";
import { stateTensors, writeWorkingCopies } from "./checkpoints/state-tensors.ts";
import { exportBytes, exportModel } from "./export.ts";
import { fit } from "./fit/fit.ts";
import type { FitOptions } from "./fit/fit-options.ts";
import type { FitResult } from "./fit/fit-result.ts";
import {
  checkTrainerOptions,
  type TrainerOptions,
  type TrainerSettings,
  trainerSettings,
} from "./open/options.ts";
import { checkIdentity, checkpointIn, rateChanges, runOf } from "./resume/resume-point.ts";
import { Session } from "./session.ts";
import { microBatch, type TrainingBatch } from "./step/batch.ts";
import { StepMeter } from "./step/step-meter.ts";
import { type StepsMade, trainingStep } from "./step/training-step.ts";
import type {
  ExportOptions,
  ResumeOptions,
  SaveOptions,
  StepResult,
  TrainerFace,
  TrainingPlanSummary,
} from "./trainer-face.ts";

export class Trainer implements TrainerFace {
  readonly model: CausalLM;
  readonly #session: Session;
  readonly #settings: TrainerSettings;
  readonly #progress: StepsMade = { steps: 0, held: false };
  readonly #meter: StepMeter;
  #disposed: Promise<void> | undefined;

  /** Of this training, through all its resumes: what it exported may be replaced by it alone. */
  #run: string = randomUUID();
  /** What resuming must find unchanged: settings, and fingerprints of what is not trained. */
  readonly #identity: Readonly<Record<string, unknown>>;

  private constructor(model: CausalLM, session: Session, models: Readonly<Record<string, unknown>>) {
    this.model = model;
    this.#session = session;
    this.#settings = session.settings;
    this.#identity = { ...session.settings.identity, ...models };
    this.#meter = new StepMeter(session);
  }

  /**
   * Makes an open model ready to be trained. It is loaded anew, so that weights and training state share its budgets;
   * until the trainer is disposed `model` gives texts with the weights as they are trained.
   * Throws ConfigError that names the option, UnsupportedError, BudgetError (with the smallest budget that works),
   * IoError, AbortError; the model is then as it was.
   */
  static async create(model: CausalLM, given: TrainerOptions = {}): Promise<Trainer> {
    const options = checkTrainerOptions(given);
    const settings = trainerSettings(options);
    const engine = engineOf(model);
    if (options.offload_folder !== undefined)
      await refuseWithin(options.offload_folder, [model.path], "the state of training (offload_folder)");
    const session = await Session.open(engine, settings, options);
    const { base, adapter } = session.prints;
    return new Trainer(model, session, {
      ...{ base_config: base.config, base_tensors: base.tensors, base_values: base.values },
      ...(adapter && { adapter_values: adapter.values }),
    });
  }

  /** Rows of the model's embedding, with those that the adapter brings. */
  get vocab_size(): number {
    return this.#session.spec.vocab_size;
  }

  /** The tokenizer that rows are encoded with: the model's, or what the adapter that goes on being trained has of one. */
  tokenizer(): Promise<AutoTokenizer> {
    const { adapter } = this.#session;
    return adapter
      ? AutoTokenizer.from_pretrained(this.model.path, { adapter: adapter.dir })
      : this.model.tokenizer();
  }

  /** Learning rate and what else may be another after a resume. */
  get rates(): Readonly<Record<string, unknown>> {
    return this.#settings.rates;
  }

  get inputs(): readonly string[] {
    return [this.model.path, this.#session.adapter?.dir ?? []].flat();
  }

  /** Updates made so far. */
  get steps(): number {
    return this.#progress.steps;
  }

  /**
   * One optimizer step: gradients of all micro-batches are added up, the loss is the mean over all their targets.
   * Resolves when the gradients are known; the weights change while the caller prepares the next batch, and whatever
   * needs them waits.
   *
   * Throws ConfigError for a batch that cannot be used, BudgetError for one larger than was planned for, IoError,
   * AbortError, NumericsError for gradients that are not finite where `non_finite` is "error"; nothing has changed then.
   * An error of an update is thrown by the next call; weights are then lost until {@link resume}. So they are after any
   * error where parts are updated as backward goes along (`non_finite` "error" without clipping).
   */
  step(batch: TrainingBatch | readonly TrainingBatch[], signal?: AbortSignal): Promise<StepResult> {
    return this.#exclusive(() => {
      const batches = checked.batchesOf(batch);
      return withLinked([checkSignal(signal)], (many) => this.#step(batches, many));
    });
  }

  async #step(batches: readonly TrainingBatch[], signal?: AbortSignal): Promise<StepResult> {
    this.#meter.begin();
    const made = await trainingStep(this.#session, this.#progress, batches, signal);
    return { ...made, ...this.#meter.end() };
  }

  /**
   * Trains on rows of files until the steps are made: batches, schedule, evaluation, checkpoints, logs. Resumes where it
   * was interrupted. See {@link FitOptions}. Throws ConfigError that names file and line of a row that cannot be used.
   */
  async fit(options: FitOptions): Promise<FitResult> {
    return fit(this, options);
  }

  /** The mean loss over the targets of batches, without changing anything. */
  evaluate(
    batches: Iterable<TrainingBatch> | AsyncIterable<TrainingBatch>,
    signal?: AbortSignal,
  ): Promise<{ loss: number; tokens: number }> {
    const evaluate = async (many: AbortSignal | undefined) => {
      checked.requireBatches(batches);
      const { passes, spec } = this.#session;
      await this.#session.beginEvaluation();
      let loss = 0;
      let tokens = 0;
      try {
        for await (const batch of batches) {
          const one = microBatch(batch, spec);
          if (one.predicting.length === 0) continue;
          loss += await passes.evaluate(one, many);
          tokens += one.predicting.length;
        }
      } catch (error) {
        await this.#session.abandon();
        throw error;
      }
      if (tokens === 0) throw new ConfigError("evaluate: no token has a target");
      return { loss: loss / tokens, tokens };
    };
    return this.#exclusive(() => withLinked([checkSignal(signal)], evaluate));
  }

  /**
   * Writes the training state as `checkpoint-<steps>` into the folder `dir`: whole or not at all. Resolves to its path.
   * Throws IoError (with the bytes needed, where the disk is full), AbortError; older checkpoints stay as they are.
   */
  save(dir: string, options: SaveOptions = {}): Promise<string> {
    return this.#exclusive(async () => {
      const { eval_loss, keep, keep_best, signal, meta = {} } = checked.saveOptions(dir, options);
      const { ledger, cpu, updates, trained, parameters } = this.#session;
      await updates.idle();
      return saveCheckpoint(
        dir,
        {
          step: this.#progress.steps,
          meta: { trainer: this.#identity, rates: this.rates, run: this.#run, user: meta },
          tensors: stateTensors(parameters, trained.states, this.#settings.rule),
          ...(eval_loss !== undefined && { eval_loss }),
        },
        {
          ...{ ledger, memory: cpu.memory },
          ...(keep !== undefined && { keep }),
          ...(keep_best !== undefined && { keepBest: keep_best }),
          ...(signal && { signal }),
          beforeWrite: this.#settings.beforeWrite,
        },
      );
    });
  }

  /**
   * Goes on from a checkpoint, or from the latest one in a folder; training then continues bit for bit, wherever the
   * state lives now. Resolves to the `meta` that was saved with it. Throws CheckpointError, ConfigError for a checkpoint of
   * other settings, IoError, AbortError. Where reading had begun the state is lost then, until a resume succeeds.
   */
  resume(path: string, options: ResumeOptions = {}): Promise<Record<string, unknown>> {
    return this.#exclusive(async () => {
      const { signal, warning_callback } = checked.resumeOptions(path, options);
      const { ledger, cpu, updates, trained, parameters, beforeRead } = this.#session;
      const opened = await openTrainingCheckpoint(await checkpointIn(path));
      checkIdentity(opened.meta.trainer, this.#identity, opened.path);
      await updates.idle().catch(() => {}); // what failed is written anew
      await this.#session.abandon();
      const tensors = stateTensors(parameters, trained.states, this.#settings.rule);
      let begun = false;
      const onBegun = () => {
        begun = true;
      };
      try {
        await restoreTensors(opened, tensors, { ledger, memory: cpu.memory, signal, beforeRead, onBegun });
        await writeWorkingCopies(parameters, trained.states, { cpu, ledger, signal });
      } catch (error) {
        if (begun) updates.fail(error, `resuming ${opened.path}`);
        throw error;
      }
      updates.forgive();
      this.#progress.steps = opened.step;
      this.#run = runOf(opened.meta) ?? this.#run;
      for (const change of rateChanges(opened.meta.rates, this.rates)) warning_callback?.(change);
      return (opened.meta.user ?? {}) as Record<string, unknown>;
    });
  }

  /**
   * Writes the trained model into the folder `dir`, in the Hub's layout: weights as they compute, or as `dtype` says;
   * or, where an adapter was trained, PEFT's adapter files. The folder must not exist, be empty, or hold an earlier export
   * of this run, which is replaced once all is written. Throws ConfigError for any other, LockedError, RoomError, IoError.
   */
  export(dir: string, options: ExportOptions = {}): Promise<void> {
    return this.#exclusive(async () => {
      const given = checked.exportOptions(dir, options);
      await this.#session.updates.idle();
      await exportModel(dir, this.model.path, this.#session, this.#settings, { ...given, run: this.#run });
    });
  }

  /** Bytes of a checkpoint on disk, about. */
  get checkpoint_bytes(): number {
    const { parameters, trained } = this.#session;
    const tensors = stateTensors(parameters, trained.states, this.#settings.rule);
    return checkpointBytes({ meta: { trainer: this.#identity, rates: this.rates }, tensors });
  }

  /** Bytes of an export on disk, about. */
  exportBytes(): Promise<number> {
    return exportBytes(this.model.path, this.#session, this.#settings.lora !== undefined);
  }

  /** What lives where, and what a step of so many micro-batches moves. */
  plan(micro_batches = 1): TrainingPlanSummary {
    checked.requireCount(micro_batches, "micro_batches");
    return this.#session.plan(micro_batches);
  }

  /**
   * Waits for updates under way and frees the training state. The model stays open with the weights as trained, or, where
   * an adapter was trained, without it.
   */
  dispose(): Promise<void> {
    this.#disposed ??= this.#session.dispose();
    return this.#disposed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #exclusive<T>(work: () => Promise<T>): Promise<T> {
    return engineOf(this.model).exclusive(() => {
      if (this.#disposed) throw new DisposedError("the trainer");
      return work();
    });
  }
}
