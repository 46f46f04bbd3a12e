// What a trainer is told: options as people write them, checked and completed. Nothing is opened or allocated here.
import { LORA_KEYS, type LoraConfig, parseLoraConfig } from "../../adapters/index.ts";
import { ConfigError } from "../../base/errors.ts";
import {
  callback,
  checkedOptions,
  flag,
  folder,
  type Kind,
  list,
  number,
  object,
  signal,
  text,
} from "../../base/kinds.ts";
import { refuseUnknown } from "../../base/options.ts";
import { shown } from "../../base/shown.ts";
import type { BeforeTransfer } from "../../memory/stores/state-file.ts";
import { TIERS, type Tier } from "../../memory/tiers.ts";
import type { DeviceMap } from "../../plan/options.ts";
import type { LoadProgress } from "../../runtime/weights/loader.ts";
import type { BeforeWrite } from "../checkpoints/index.ts";
import { learningRateSchedule, type Schedule, type ScheduleOptions, warmupSteps } from "../fit/schedule.ts";
import { Adam8bit } from "../optimizer/rules/adam8bit.ts";
import { AdamW } from "../optimizer/rules/adamw.ts";
import type { UpdateRule } from "../optimizer/rules/rule.ts";
import { SGD } from "../optimizer/rules/sgd.ts";

export const OPTIMIZERS = ["adamw", "adam8bit", "sgd"] as const;
export type OptimizerName = (typeof OPTIMIZERS)[number];

export const KEEP_ACTIVATIONS = ["auto", "none", "all"] as const;
export type KeepActivations = (typeof KEEP_ACTIVATIONS)[number];

export const PRECISIONS = ["float32", "bfloat16"] as const;
export type Precision = (typeof PRECISIONS)[number];

/** Where the parts of training live: "auto" takes RAM where there is room, else disk. */
export interface OffloadOptions {
  /** Master weights and moments. */
  readonly optimizer?: Tier | "auto" | undefined;
  readonly gradients?: "cpu" | "disk" | "auto" | undefined;
  /** Inputs of stages, kept for backward. "gpu" where the device that computes is one. */
  readonly activations?: Tier | "auto" | undefined;
  /** As `device_map` when opening a model. */
  readonly weights?: DeviceMap | undefined;
}

/** PEFT's LoraConfig, with its names and defaults; all of it optional. */
export type LoraOptions = Partial<Omit<LoraConfig, "other">>;

/** Options of {@link Trainer.create}. Names are those of transformers' TrainingArguments where it has them. */
export interface TrainerOptions extends Partial<ScheduleOptions> {
  /** Default "adamw". */
  readonly optimizer?: OptimizerName | undefined;
  /** Default [0.9, 0.999]. */
  readonly betas?: readonly [number, number] | undefined;
  /** Default 1e-8. */
  readonly eps?: number | undefined;
  /** Of SGD. Default 0. */
  readonly momentum?: number | undefined;
  /** Decoupled; for every parameter that `no_decay` leaves it to. Default 0. */
  readonly weight_decay?: number | undefined;
  /**
   * Parameters without decay: what their names contain ("norm"), or end with ("bias"). Default: norms and biases, as
   * in transformers; [] decays everything.
   */
  readonly no_decay?: readonly string[] | undefined;
  /** Gradients are scaled down to this norm, all together; 0 turns it off. Default 1. */
  readonly max_grad_norm?: number | undefined;
  /**
   * What a gradient that is not finite does: "skip" leaves parameters and moments as they are; "error" ends the run, and
   * without clipping lets each stage be updated as soon as backward is through with it. Default "skip".
   */
  readonly non_finite?: "skip" | "error" | undefined;
  /**
   * Whether states on disk are updated while backward goes on, into a second place on disk, before the norm of the
   * gradient is known. A step that is clipped or skipped drops that and updates afterwards, and the next one does not try.
   * The same result, bit for bit; takes as much disk again, where there is room. Default true.
   */
  readonly update_ahead?: boolean | undefined;
  /**
   * Whether what backward needs of a stage's results is kept from forward, or computed again: "auto" keeps that of as many
   * stages as memory carries, where that is faster than weights in its place; "none" and "all" say it for every stage. The
   * same result, bit for bit. Default "auto".
   */
  readonly keep_activations?: KeepActivations | undefined;
  /** Type of the weights that compute; "bfloat16" keeps an f32 master copy. Default "float32". */
  readonly precision?: Precision | undefined;
  readonly offload?: OffloadOptions | undefined;
  /** Trains a low-rank adapter over the frozen model. Absent: every parameter trains. */
  readonly lora?: LoraOptions | undefined;
  /** Folder of a PEFT adapter to go on training, with its own config. */
  readonly adapter?: string | undefined;
  /** Sequences of the largest micro-batch that memory is planned for. Default 1. */
  readonly micro_batch_size?: number | undefined;
  /** Tokens of the longest sequence that memory is planned for. Default: the model's, at most 512. */
  readonly max_length?: number | undefined;
  /** Where state on disk lives; needed where anything does. Default: the model's offload_folder. */
  readonly offload_folder?: string | undefined;
  /** Of adapters' first weights and of dropout. Default 0. */
  readonly seed?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called while the model is loaded anew. */
  readonly progress_callback?: ((progress: LoadProgress) => void) | undefined;
  /** Called before every transfer of state from and to disk, to inject delays, errors and short transfers. */
  readonly beforeTransfer?: BeforeTransfer | undefined;
  /** Called before every call of the system that saves a training checkpoint, to inject delays and errors. */
  readonly beforeWrite?: BeforeWrite | undefined;
}

/** {@link TrainerOptions} made whole. */
export interface TrainerSettings {
  readonly rule: UpdateRule;
  readonly schedule: Schedule;
  readonly weight_decay: number;
  /** undefined: norms and biases. */
  readonly no_decay: readonly string[] | undefined;
  readonly max_grad_norm: number;
  readonly non_finite: "skip" | "error";
  readonly update_ahead: boolean;
  readonly keep_activations: KeepActivations;
  readonly precision: Precision;
  readonly optimizer: Tier | "auto";
  readonly gradients: "cpu" | "disk" | "auto";
  readonly activations: Tier | "auto";
  readonly weights: DeviceMap | undefined;
  readonly lora: LoraConfig | undefined;
  readonly micro_batch_size: number;
  readonly max_length: number | undefined;
  readonly offload_folder: string | undefined;
  readonly seed: number;
  readonly beforeTransfer: BeforeTransfer | undefined;
  readonly beforeWrite: BeforeWrite | undefined;
  /** What resuming must find unchanged. */
  readonly identity: Readonly<Record<string, unknown>>;
  /** What may be given otherwise on resuming, and is then said. */
  readonly rates: Readonly<Record<string, unknown>>;
}

const KINDS: Readonly<Record<keyof TrainerOptions, Kind>> = {
  ...{ optimizer: text, betas: list, eps: number, momentum: number, weight_decay: number, no_decay: list },
  ...{
    max_grad_norm: number,
    non_finite: text,
    update_ahead: flag,
    keep_activations: text,
    precision: text,
    offload: object,
  },
  ...{ lora: object, adapter: folder, micro_batch_size: number, max_length: number },
  ...{ offload_folder: folder, seed: number, signal, progress_callback: callback },
  ...{ beforeTransfer: callback, beforeWrite: callback, learning_rate: number, lr_scheduler_type: text },
  ...{ max_steps: number, warmup_steps: number, warmup_ratio: number, min_lr_ratio: number },
};

/** Names of transformers' TrainingArguments, and of the loop's options, that have another place here. */
const OPTIONS_ELSEWHERE = {
  lr: "learning_rate is its name",
  num_train_epochs: "epochs is an option of fit()",
  epochs: "it is an option of fit()",
  per_device_train_batch_size: "micro_batch_size is its name",
  batch_size: "micro_batch_size is its name",
  gradient_accumulation_steps: "it is an option of fit(); step() takes a list of micro-batches",
  optim: "optimizer is its name",
  bf16: 'give precision "bfloat16"',
  fp16: "training in float16 is not supported: precision is float32 or bfloat16",
  adam_beta1: "give betas, both of them",
  adam_beta2: "give betas, both of them",
  adam_epsilon: "eps is its name",
  max_seq_length: "max_length is its name",
};

/** Names of the keys of a LoraConfig in other libraries. */
const LORA_ELSEWHERE = {
  rank: "r is its name",
  alpha: "lora_alpha is its name",
  dropout: "lora_dropout is its name",
  target: "target_modules is its name",
  rslora: "use_rslora is its name",
};

/** How PEFT's LoraConfig may begin, of what needs no data and leaves the base as it is. */
const INITS: readonly unknown[] = [true, false, "gaussian"];

const DEFAULT_RATE = 5e-5;

/** The options that are given, none of them null. Throws ConfigError that names one that is unknown or of another kind. */
export function checkTrainerOptions(options: TrainerOptions): TrainerOptions {
  return checkedOptions(options, KINDS, "Trainer.create", OPTIONS_ELSEWHERE);
}

/** Throws ConfigError that names the option. */
export function trainerSettings(given: TrainerOptions): TrainerSettings {
  const options = checkTrainerOptions(given);
  const { optimizer = "adamw", weight_decay = 0, max_grad_norm = 1, non_finite = "skip" } = options;
  const { update_ahead = true } = options;
  const { keep_activations = "auto" } = options;
  const { precision = "float32", micro_batch_size = 1, max_length, seed = 0, no_decay } = options;
  oneOf("optimizer", optimizer, OPTIMIZERS);
  oneOf("precision", precision, PRECISIONS);
  oneOf("non_finite", non_finite, ["skip", "error"]);
  oneOf("update_ahead", update_ahead, [true, false]);
  oneOf("keep_activations", keep_activations, KEEP_ACTIVATIONS);
  atLeast("weight_decay", weight_decay, 0);
  atLeast("max_grad_norm", max_grad_norm, 0);
  whole("micro_batch_size", micro_batch_size, 1);
  if (max_length !== undefined) whole("max_length", max_length, 2);
  whole("seed", seed, 0);
  if (
    no_decay !== undefined &&
    (!Array.isArray(no_decay) || no_decay.some((name) => typeof name !== "string" || name === ""))
  )
    throw new ConfigError(`no_decay is ${shown(no_decay)}, expected a list of names or parts of them`);
  const { offload = {} } = options;
  const parts = ["optimizer", "gradients", "activations", "weights"];
  refuseUnknown(offload, parts, "offload");
  const homes = ["auto", ...TIERS] as const;
  oneOf("offload.optimizer", offload.optimizer ?? "auto", homes);
  oneOf("offload.gradients", offload.gradients ?? "auto", ["auto", "cpu", "disk"]);
  oneOf("offload.activations", offload.activations ?? "auto", homes);
  const rule = updateRule(optimizer, options);
  const lora = loraConfig(options);
  return {
    rule,
    schedule: learningRateSchedule({ ...options, learning_rate: options.learning_rate ?? DEFAULT_RATE }),
    weight_decay,
    no_decay,
    max_grad_norm,
    non_finite,
    update_ahead,
    keep_activations,
    precision,
    optimizer: offload.optimizer ?? "auto",
    gradients: offload.gradients ?? "auto",
    activations: offload.activations ?? "auto",
    weights: offload.weights,
    lora,
    micro_batch_size,
    max_length,
    offload_folder: options.offload_folder,
    seed,
    beforeTransfer: options.beforeTransfer,
    beforeWrite: options.beforeWrite,
    identity: {
      ...{ optimizer, precision, seed },
      no_decay: no_decay === undefined ? "norms and biases" : JSON.stringify(no_decay),
      ...loraIdentity(lora),
    },
    rates: { ...ratesOf(optimizer, options), weight_decay, max_grad_norm },
  };
}

/** How large steps are, with defaults: what counts for this optimizer and this schedule. */
function ratesOf(optimizer: OptimizerName, o: TrainerOptions): Record<string, unknown> {
  const { lr_scheduler_type = "constant", min_lr_ratio = 0, max_steps } = o;
  return {
    learning_rate: o.learning_rate ?? DEFAULT_RATE,
    lr_scheduler_type,
    warmup_steps: warmupSteps(o),
    ...(lr_scheduler_type !== "constant" && { max_steps, min_lr_ratio }),
    ...(optimizer === "sgd"
      ? { momentum: o.momentum ?? 0 }
      : { betas: o.betas ?? [0.9, 0.999], eps: o.eps ?? 1e-8 }),
  };
}

/** The config of a new adapter, if one is to be trained. */
function loraConfig({ lora, adapter, precision = "float32" }: TrainerOptions): LoraConfig | undefined {
  if (adapter !== undefined && (typeof adapter !== "string" || adapter === ""))
    throw new ConfigError(`adapter is ${shown(adapter)}, expected the folder of a PEFT adapter`);
  if (adapter !== undefined && lora !== undefined)
    throw new ConfigError("adapter goes on with an adapter, lora begins one: give one of them");
  if ((adapter ?? lora) !== undefined && precision !== "float32")
    throw new ConfigError(
      `precision is of a model that trains whole; the frozen weights under an adapter have the model's dtype, so open ` +
        `the model with dtype "${precision}" (--dtype)`,
    );
  if (lora === undefined) return undefined;
  refuseUnknown(lora, LORA_KEYS, "lora", LORA_ELSEWHERE);
  const config = parseLoraConfig(lora, "lora");
  if (INITS.includes(config.init_lora_weights)) return config;
  throw new ConfigError(
    `lora: init_lora_weights ${shown(config.init_lora_weights)} is not how an adapter can begin here: true, false or ` +
      '"gaussian"',
  );
}

/** Whether nothing can keep a gradient from being applied: each stage is then updated as backward is through with it. */
export function updatesAtOnce(settings: Pick<TrainerSettings, "non_finite" | "max_grad_norm">): boolean {
  return settings.non_finite === "error" && settings.max_grad_norm === 0;
}

/** What of an adapter's config its tensors' names and shapes do not tell. */
export function loraIdentity(lora: LoraConfig | undefined): Record<string, unknown> {
  if (!lora) return { lora: null };
  const { r, lora_alpha, lora_dropout, use_rslora, alpha_pattern } = lora;
  return {
    lora: r,
    ...{ lora_alpha, lora_dropout, use_rslora },
    alpha_pattern: JSON.stringify(Object.entries(alpha_pattern).sort()),
  };
}

function updateRule(name: OptimizerName, { betas, eps, momentum }: TrainerOptions): UpdateRule {
  for (const [option, value] of Object.entries(name === "sgd" ? { betas, eps } : { momentum })) {
    if (value !== undefined) throw new ConfigError(`${option} is given, but ${name} has none: leave it out`);
  }
  const adam = { ...(betas && { betas }), ...(eps !== undefined && { eps }) };
  switch (name) {
    case "adamw":
      return new AdamW(adam);
    case "adam8bit":
      return new Adam8bit(adam);
    case "sgd":
      return new SGD({ ...(momentum !== undefined && { momentum }) });
  }
}

function oneOf<T>(name: string, value: T, allowed: readonly T[]): void {
  if (allowed.includes(value)) return;
  throw new ConfigError(`${name} is ${shown(value)}, expected one of ${allowed.join(", ")}`);
}

function atLeast(name: string, value: number, least: number): void {
  if (typeof value === "number" && Number.isFinite(value) && value >= least) return;
  throw new ConfigError(`${name} is ${shown(value)}, expected a number of ${least} or more`);
}

function whole(name: string, value: number, least: number): void {
  if (Number.isSafeInteger(value) && value >= least) return;
  throw new ConfigError(`${name} is ${shown(value)}, expected a whole number of ${least} or more`);
}
