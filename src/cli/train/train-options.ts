// The options of spillway train: one table that is the command line's flags and the config file's keys at once.
import { type Command, InvalidArgumentError, Option } from "commander";
import { TIERS } from "../../memory/tiers.ts";
import { SCHEDULES } from "../../train/fit/schedule.ts";
import type { KeepActivations, OptimizerName, Precision } from "../../train/open/options.ts";
import {
  count,
  deviceMap,
  modules,
  numberOption,
  numbersByName,
  type OptionKind,
  oneOf,
  onOff,
  pair,
  pathOrOff,
  pathOrOn,
  paths,
  patterns,
  sizeOption,
  textOption,
  texts,
  whole,
} from "./train-kinds.ts";

interface TrainOption<T> {
  readonly kind: OptionKind<T>;
  /** Of the value, in the help; none for a switch. */
  readonly value?: string;
  readonly help: string;
  /** The flag takes the option away: "--no-packing". */
  readonly negative?: boolean;
  /** There is the flag, and the flag with "no-" too. */
  readonly both?: string;
  /** Where the flag has another name than the key. */
  readonly flag?: string;
}

function option<T>(
  kind: OptionKind<T>,
  value: string | undefined,
  help: string,
  more: Pick<TrainOption<T>, "negative" | "both" | "flag"> = {},
): TrainOption<T> {
  return { kind, help, ...(value !== undefined && { value }), ...more };
}

// Held to the library by their types, not imported from it: that would load the engine to show the help.
const OPTIMIZERS = namesOf<OptimizerName>({ adamw: true, adam8bit: true, sgd: true });
const PRECISIONS = namesOf<Precision>({ float32: true, bfloat16: true });
const KEEP_ACTIVATIONS = namesOf<KeepActivations>({ auto: true, none: true, all: true });
const HOMES = ["auto", ...TIERS] as const;

/** By name in the config file; the flag is the same name with dashes. */
export const TRAIN_OPTIONS = {
  data: option(paths, "<file>", "rows to train on: JSONL, JSON or Parquet (may be repeated)"),
  validation: option(paths, "<file>", "held-out rows to evaluate on (may be repeated)"),
  validation_size: option(
    numberOption,
    "<n>",
    "hold out rows of the data instead: a share below 1, or a count",
  ),
  output: option(textOption, "<dir>", "where checkpoints, logs and the result go"),
  resume: option(pathOrOn, "[path]", "go on from the latest checkpoint of the output, or from the one named"),
  accept_data_changes: option(
    onOff,
    undefined,
    "go on though files of the data were changed, at the same row",
  ),
  export: option(pathOrOff, "<dir>", "where the result goes (default: model or adapter in the output)", {
    both: "write no result, only checkpoints",
  }),
  max_steps: option(count, "<n>", "optimizer steps"),
  epochs: option(count, "<n>", "times to go through the data (default 1 without --max-steps)"),
  max_length: option(count, "<tokens>", "longest sequence (default: the model's, at most 512)"),
  micro_batch_size: option(count, "<n>", "sequences that go through the model together (default 1)"),
  gradient_accumulation_steps: option(count, "<n>", "micro-batches of one step (default 1)"),
  packing: option(onOff, undefined, "one document to a sequence, rather than as many as fit", {
    negative: true,
  }),
  chat_template: option(
    textOption,
    "<template>",
    "for conversations: a Jinja template, a file of one, or a name",
  ),
  append_eos: option(onOff, undefined, "do not end texts with the end token", { negative: true }),
  seed: option(whole, "<n>", "of the order of rows, the first adapter weights and dropout (default 0)"),
  optimizer: option(oneOf(OPTIMIZERS), "<name>", `${OPTIMIZERS.join(", ")} (default adamw)`),
  learning_rate: option(numberOption, "<rate>", "the highest (default 5e-5)"),
  lr_scheduler_type: option(oneOf(SCHEDULES), "<name>", `${SCHEDULES.join(", ")} (default constant)`),
  warmup_steps: option(whole, "<n>", "steps over which the rate climbs"),
  warmup_ratio: option(numberOption, "<share>", "the same as a share of all steps"),
  min_lr_ratio: option(numberOption, "<share>", "where the cosine ends, as a share of the rate (default 0)"),
  weight_decay: option(numberOption, "<x>", "decoupled (default 0)"),
  no_decay: option(
    patterns,
    "<names>",
    'parameters without decay: what their names contain or end with (default: norms and biases; "" for none)',
  ),
  max_grad_norm: option(numberOption, "<norm>", "clip gradients to this norm, 0 for not (default 1)"),
  update_ahead: option(onOff, undefined, "do not update states on disk before the gradient's norm is known", {
    negative: true,
  }),
  keep_activations: option(
    oneOf(KEEP_ACTIVATIONS),
    "<which>",
    "stages whose results wait for backward instead of being computed again: auto, none, all (default auto)",
  ),
  betas: option(pair, "<b1,b2>", "of Adam (default 0.9,0.999)"),
  eps: option(numberOption, "<x>", "of Adam (default 1e-8)"),
  momentum: option(numberOption, "<x>", "of SGD (default 0)"),
  precision: option(oneOf(PRECISIONS), "<type>", `weights that compute: ${PRECISIONS.join(", ")}`),
  lora_r: option(count, "<rank>", "train a low-rank adapter of this rank, not the whole model"),
  use_rslora: option(onOff, undefined, "scale updates by alpha over the root of the rank", {
    flag: "rslora",
  }),
  rank_pattern: option(numbersByName, "<json>", 'ranks that differ: {"q_proj": 16}'),
  alpha_pattern: option(numbersByName, "<json>", "alphas that differ"),
  modules_to_save: option(texts, "<names>", "modules that are trained whole and saved with the adapter"),
  lora_alpha: option(numberOption, "<x>", "updates are scaled by this over the rank"),
  lora_dropout: option(numberOption, "<share>", "of the adapter's inputs"),
  lora_target_modules: option(modules, "<names>", 'modules with an adapter: "q_proj,v_proj", all-linear'),
  adapter: option(textOption, "<dir>", "go on training this PEFT adapter"),
  offload_optimizer: option(oneOf(HOMES), "<tier>", "where master weights and moments live"),
  offload_gradients: option(oneOf(["auto", "cpu", "disk"]), "<tier>", "where gradients live"),
  offload_activations: option(oneOf(HOMES), "<tier>", "where inputs of stages wait for backward"),
  offload_weights: option(deviceMap, "<map>", 'where weights live: auto, cpu, gpu, disk, {"module": "tier"}'),
  offload_folder: option(textOption, "<dir>", "where state on disk lives (default: offload in the output)"),
  gpu: option(sizeOption, "<size>", 'device memory that may be taken, "6GiB" (default: what is free)'),
  cpu: option(sizeOption, "<size>", "RAM that may be taken (default: what is free)"),
  disk: option(sizeOption, "<size>", "disk that may be taken for training state"),
  device: option(textOption, "<name>", "where arithmetic runs: auto, cpu, gpu, cuda:0, vulkan:0, metal"),
  dtype: option(
    textOption,
    "<name>",
    "type of the frozen weights under an adapter: auto, float32, float16, bfloat16",
  ),
  threads: option(
    count,
    "<n>",
    "CPU threads, always as many (default: what is fastest, measured as it runs)",
  ),
  save_steps: option(count, "<n>", "steps between checkpoints (default: one at the end)"),
  eval_steps: option(count, "<n>", "steps between evaluations (default: one at the end)"),
  logging_steps: option(count, "<n>", "steps between lines where stderr is no terminal"),
  keep: option(count, "<n>", "checkpoints to keep (default: all)"),
  keep_best: option(onOff, undefined, "save and keep the checkpoint that evaluates best"),
  tensorboard: option(onOff, undefined, "write no TensorBoard events", { negative: true }),
  report: option(textOption, "<file>", "write a page of HTML about the run"),
} as const;

type Options = typeof TRAIN_OPTIONS;
export type TrainOptionName = keyof Options;
export const TRAIN_OPTION_NAMES = Object.keys(TRAIN_OPTIONS) as TrainOptionName[];

/** What was asked for: from the config file, with what the command line says over it. */
export type TrainConfig = {
  readonly [Name in TrainOptionName]?: Options[Name] extends TrainOption<infer T> ? T : never;
};

function namesOf<Name extends string>(names: Readonly<Record<Name, true>>): readonly Name[] {
  return Object.keys(names) as Name[];
}

/** "--learning-rate" */
export function flagOf(name: string): string {
  const { flag } = (TRAIN_OPTIONS[name as TrainOptionName] ?? {}) as Partial<TrainOption<unknown>>;
  return `--${flag ?? name.replaceAll("_", "-")}`;
}

export function addTrainOptions(command: Command): Command {
  for (const name of TRAIN_OPTION_NAMES) {
    const { kind, value, help, negative, both } = TRAIN_OPTIONS[name] as TrainOption<unknown>;
    const flag = negative ? `--no-${flagOf(name).slice(2)}` : flagOf(name);
    const added = new Option(value === undefined ? flag : `${flag} ${value}`, help);
    if (value !== undefined) added.argParser((given, before) => parsed(kind, given, before));
    command.addOption(added);
    if (both !== undefined) command.addOption(new Option(`--no-${flagOf(name).slice(2)}`, both));
  }
  return command;
}

/** What the command line says, and nothing that is a default. */
export function flagsGiven(command: Command): TrainConfig {
  const given: Record<string, unknown> = {};
  for (const name of TRAIN_OPTION_NAMES) {
    const attribute = new Option(flagOf(name)).attributeName();
    if (command.getOptionValueSource(attribute) === "cli")
      given[name] = command.getOptionValue(attribute) as unknown;
  }
  return given as TrainConfig;
}

function parsed(kind: OptionKind<unknown>, given: string, before: unknown): unknown {
  try {
    const value = kind.text(given);
    return kind === paths && Array.isArray(before) ? [...before, ...(value as string[])] : value;
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}
