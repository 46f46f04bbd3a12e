// A trainer while it is open: the model loaded for it, and the rhythm of steps: which weights may be read when, so that
// what streams ahead is never older than it should be. What it holds is session-parts.ts.

import { type Adapter, checkNames, openAdapter, withoutAllLinear } from "../adapters/index.ts";
import type { Device } from "../backend/ggml/device.ts";
import { parseDType } from "../backend/ggml/dtypes.ts";
import { Cleanup, runAll, undoAfter } from "../base/async/cleanup.ts";
import { ConfigError } from "../base/errors.ts";
import type { Checkpoint } from "../formats/types.ts";
import type { BeforeRead } from "../memory/io/direct-io.ts";
import type { Ledger } from "../memory/ledger.ts";
import type { Tier } from "../memory/tiers.ts";
import type { ModelSpec } from "../models/spec.ts";
import type { Unit } from "../plan/units.ts";
import type { Engine } from "../runtime/engine.ts";
import type { EngineOptions } from "../runtime/open/prepare.ts";
import type { Prepared } from "../runtime/open/prepared.ts";
import { PASSING } from "./open/memory-plan.ts";
import { loraIdentity, type TrainerOptions, type TrainerSettings } from "./open/options.ts";
import type { Parameters } from "./open/parameters.ts";
import { type Held, Loading, take } from "./open/session-parts.ts";
import type { TrainedStates } from "./open/trained-weights.ts";
import { type ModelFingerprint, modelFingerprint } from "./resume/base-fingerprint.ts";
import type { Gradients } from "./step/gradient-store.ts";
import { KEPT } from "./step/kept-activations.ts";
import type { Passes } from "./step/passes.ts";
import type { Stalls } from "./step/stalls.ts";
import type { StepParts } from "./step/training-step.ts";
import type { UpdateQueue } from "./step/update-queue.ts";
import type { TrainingPlanSummary } from "./trainer-face.ts";

/** Tokens of context that texts generated while training may have, unless the model was opened with fewer. */
const CONTEXT = 256;

export class Session implements StepParts {
  readonly #h: Held;
  readonly #cleanup: Cleanup;
  readonly #cycle: readonly Unit[];
  readonly #trainedUnits: ReadonlySet<Unit>;
  readonly #attached: Disposable;
  #following = false;
  /** Reads that were asked for, micro-batches made, and the last one that may be read for. */
  #calls = 0;
  #ran = 0;
  #allowed = 0;
  #planned = 0;
  #wake: (() => void)[] = [];

  /** Of the base, and of the adapter that goes on being trained, as they were found. */
  readonly prints: { readonly base: ModelFingerprint; readonly adapter: ModelFingerprint | undefined };

  private constructor(held: Held, cleanup: Cleanup, prints: Session["prints"]) {
    this.#h = held;
    this.prints = prints;
    this.#cleanup = cleanup;
    this.#cycle = held.passes.cycle;
    const names = new Set(held.parameters.all.map((p) => p.name));
    this.#trainedUnits = new Set(this.#cycle.filter((u) => u.owned.some((m) => names.has(m.name))));
    this.#attached = held.engine.attach({
      settle: () => held.updates.idle(),
      beforeDispose: () => this.#release(),
    });
  }

  /**
   * Loads the model anew for training and takes everything else, while nothing else uses it. On failure the model is loaded
   * as it was.
   */
  static open(engine: Engine, settings: TrainerSettings, options: TrainerOptions): Promise<Session> {
    return engine.exclusive(() => Session.#open(engine, settings, options));
  }

  static async #open(engine: Engine, settings: TrainerSettings, options: TrainerOptions): Promise<Session> {
    if (engine.prepared.adapter)
      throw new ConfigError(
        "the model was opened with an adapter: open it without, and name the adapter in the trainer's options to go on " +
          "training it, or merge it first",
      );
    if (engine.options.training)
      throw new ConfigError(
        "this model is being trained, or was: its weights are no longer its checkpoint's; export them and train the " +
          "model that is opened from there",
      );
    const { signal } = options;
    const before = engine.options;
    const { loading, changes } = await loadingOf(engine.prepared, before, settings, options);
    const { checkpoint, config } = engine.prepared;
    const prints = {
      base: await modelFingerprint(checkpoint, config, signal),
      adapter: loading.adapter && (await modelFingerprint(loading.adapter.checkpoint, {}, signal)),
    };
    await engine.reopen({
      ...changes,
      ...(signal && { signal }),
      ...(options.progress_callback && { progress_callback: options.progress_callback }),
    });
    const cleanup = new Cleanup();
    try {
      const held = await take(engine, loading, cleanup, signal);
      return new Session(held, cleanup, prints);
    } catch (error) {
      const reopen = () => engine.reopen({ training: undefined, ...asBefore(before) });
      return await undoAfter(error, [() => cleanup.run(), reopen]);
    }
  }

  /** As they were given, with the config of the adapter that goes on being trained. */
  get settings(): TrainerSettings {
    return this.#h.settings;
  }
  get adapter(): Adapter | undefined {
    return this.#h.adapter;
  }
  get checkpoint(): Checkpoint {
    return this.#h.engine.prepared.checkpoint;
  }
  get spec(): ModelSpec {
    return this.#h.engine.prepared.spec;
  }
  get cpu(): Device {
    return this.#h.engine.prepared.cpu;
  }
  /** Hook of reads of weights, which reads of training checkpoints are too. */
  get beforeRead(): BeforeRead | undefined {
    return this.#h.engine.options.beforeRead;
  }
  get ledger(): Ledger {
    return this.#h.engine.parts.ledger;
  }
  get parameters(): Parameters {
    return this.#h.parameters;
  }
  get trained(): TrainedStates {
    return this.#h.trained;
  }
  get gradients(): Gradients {
    return this.#h.gradients;
  }
  get updates(): UpdateQueue {
    return this.#h.updates;
  }
  get passes(): Passes {
    return this.#h.passes;
  }
  get stalls(): Stalls {
    return this.#h.stalls;
  }

  /** A step of `micro` micro-batches begins. Throws the error of an update that failed. */
  async begin(micro: number): Promise<void> {
    const { updates, engine } = this.#h;
    await updates.done([]);
    this.#planned = micro;
    const { streamer } = engine.parts;
    if (streamer && !(this.#following && streamer.follows(this.#cycle))) {
      this.#calls = 0;
      this.#ran = 0;
      this.#allowed = 0;
      await streamer.follow(this.#cycle, (unit) => this.#mayRead(unit));
      this.#following = true;
    }
    this.#allow(this.#ran + micro - 1);
  }

  /** All updates of the step have been asked for: the next one's weights may be read as they are done. */
  end(): void {
    this.#ran += this.#planned;
    this.#allow(this.#ran);
  }

  /** Forward passes alone, with all updates made. */
  async beginEvaluation(): Promise<void> {
    await this.#h.updates.idle();
    const { streamer } = this.#h.engine.parts;
    this.#following = false;
    await streamer?.follow(streamer.pass);
  }

  /** After an error: nothing is under way any more. */
  async abandon(): Promise<void> {
    this.#following = false;
    await this.#h.passes.reset();
  }

  async checkUnchanged(): Promise<void> {
    await this.#h.engine.parts.checkUnchanged?.();
  }

  /** Bytes moved from and to disk since the model was loaded for training. */
  traffic(): { read: number; written: number } {
    const { engine, stores } = this.#h;
    let read = engine.statistics().readBytes;
    let written = 0;
    for (const { transferred } of stores) {
      read += transferred.read;
      written += transferred.write;
    }
    return { read, written };
  }

  plan(micro: number): TrainingPlanSummary {
    const { engine, way, parameters } = this.#h;
    const { plan, budgets, device, model } = engine.prepared;
    const weights = { gpu: 0, cpu: 0, disk: 0 };
    for (const home of plan.homes) weights[home]++;
    const { ledger } = engine.parts;
    const kept = ledger.entries().filter(({ what }) => PASSING.every((part) => part.what !== what));
    const parts = [...kept, ...PASSING];
    const on = (tier: Tier, what?: string) =>
      parts.reduce(
        (sum, p) => sum + (p.tier === tier && (what === undefined || p.what === what) ? p.bytes : 0),
        0,
      );
    return {
      parameters: model.parameters,
      trained: parameters.elements,
      device: device.name,
      homes: { weights, ...way.homes },
      update_ahead: this.#h.updates.drafts,
      kept_activations: {
        stages: way.kept.bytes.size,
        of: way.kept.of,
        bytes: on(device.kind, KEPT),
        spared: way.kept.flops.all > 0 ? way.kept.flops.spared / way.kept.flops.all : 0,
      },
      parts,
      bytes: { gpu: on("gpu"), cpu: on("cpu"), disk: on("disk") },
      budgets,
      disk_per_step: way.traffic(plan, micro),
      flops_per_step: micro * way.flops,
    };
  }

  /** Also where the model was disposed before, which frees this too. */
  dispose(): Promise<void> {
    const { engine } = this.#h;
    return engine.disposed ? engine.dispose() : engine.exclusive(() => this.#release());
  }

  async #release(): Promise<void> {
    const { engine, updates } = this.#h;
    await updates.idle().catch(() => {});
    this.#attached[Symbol.dispose]();
    // Weights that were lost must not be taken for trained ones by whoever uses the model afterwards.
    if (updates.failed) engine.attach({ settle: () => updates.idle() });
    await runAll([() => this.#h.passes.reset(), () => this.#cleanup.run()]);
  }

  async #mayRead(unit: Unit): Promise<void> {
    const pass = Math.floor(this.#calls++ / this.#cycle.length);
    if (!this.#trainedUnits.has(unit)) return;
    while (pass > this.#allowed) await new Promise<void>((resolve) => this.#wake.push(resolve));
    await this.#h.updates.done(this.#h.passes.trained(unit));
  }

  #allow(pass: number): void {
    this.#allowed = pass;
    for (const wake of this.#wake.splice(0)) wake();
  }
}

/**
 * What a model is loaded with to be trained, and how its options change. Throws ConfigError, UnsupportedError for an
 * adapter that cannot be trained on this model, CheckpointError, IoError.
 */
export async function loadingOf(
  { spec, checkpoint: base, context }: Pick<Prepared, "spec" | "checkpoint" | "context">,
  model: EngineOptions,
  settings: TrainerSettings,
  { adapter: dir, signal }: TrainerOptions,
): Promise<{ loading: Loading; changes: Partial<EngineOptions> }> {
  const adapter =
    dir === undefined ? undefined : await openAdapter(dir, spec, { base, ...(signal && { signal }) });
  const whole = adapter ? withAdapter(settings, adapter) : withNames(settings, spec);
  const { dtype = "auto" } = model;
  if (!whole.lora && dtype !== "auto" && parseDType(dtype) !== parseDType(settings.precision))
    throw new ConfigError(
      `the model was opened with dtype ${dtype}, and what trains whole is held as precision says (${settings.precision}): ` +
        "leave dtype out",
    );
  const loading = new Loading(whole, adapter, model.offload_folder);
  return {
    loading,
    changes: {
      training: loading.hooks,
      context_length: Math.min(context, CONTEXT),
      ...(!whole.lora && { dtype: settings.precision }),
      ...(settings.weights !== undefined && { device_map: settings.weights }),
    },
  };
}

function withAdapter(settings: TrainerSettings, { config }: Adapter): TrainerSettings {
  return { ...settings, lora: config, identity: { ...settings.identity, ...loraIdentity(config) } };
}

/** A new adapter's config with every name of it checked against the model. */
function withNames(settings: TrainerSettings, spec: ModelSpec): TrainerSettings {
  if (!settings.lora) return settings;
  checkNames(settings.lora, spec, "lora");
  return { ...settings, lora: withoutAllLinear(settings.lora, spec) };
}

/** The options that {@link Session.open} changed. */
function asBefore({ context_length, dtype, device_map }: EngineOptions): Partial<EngineOptions> {
  return { context_length, dtype, device_map } as Partial<EngineOptions>;
}
