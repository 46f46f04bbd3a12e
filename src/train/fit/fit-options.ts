// What the training loop is told: options as people write them, checked and completed. Opens nothing.
import { join, resolve } from "node:path";
import { ConfigError } from "../../base/errors.ts";
import type { RoomRequest } from "../../base/files/room.ts";
import {
  callback,
  checkedOptions,
  either,
  flag,
  having,
  type Kind,
  list,
  number,
  object,
  path,
  signal,
  text,
} from "../../base/kinds.ts";
import { shown } from "../../base/shown.ts";
import type { FileLock } from "../../memory/locks/file-lock.ts";
import type { TrainingRecord } from "../../report/training-log.ts";
import type { DataLoaderOptions, RowTokenizer } from "../data/index.ts";
import type { ResumeInfo } from "./fit-result.ts";

/** Files of rows: JSONL, JSON arrays or Parquet. */
export type DataPaths = string | readonly string[];

/** Options of fit(). Names are those of transformers' TrainingArguments where it has them. */
export interface FitOptions
  extends Pick<
    DataLoaderOptions,
    | "micro_batch_size"
    | "gradient_accumulation_steps"
    | "packing"
    | "append_eos"
    | "eos_token_id"
    | "template_options"
  > {
  /** A Jinja template for conversations, or the name of one of the model's. Default: the model's, or the adapter's. */
  readonly chat_template?: string | undefined;
  readonly data: DataPaths;
  /** Held-out rows in files of their own. Without them and without `validation_size` nothing is evaluated. */
  readonly validation?: DataPaths | undefined;
  /** Rows of `data` held out: a share below 1, or a count. */
  readonly validation_size?: number | undefined;
  /** Default: the model's. */
  readonly tokenizer?: RowTokenizer | undefined;
  /** Most tokens of a sequence. Default: the model's, at most 512. */
  readonly max_length?: number | undefined;
  /** Times to go through the data; 1 where `max_steps` is not given either. */
  readonly epochs?: number | undefined;
  /** Steps at which the run ends, if `epochs` does not end it before. */
  readonly max_steps?: number | undefined;
  /** Of the order of rows and of the held-out ones. Default 0. */
  readonly seed?: number | undefined;
  /** Steps between evaluations. Default: only after the last step. */
  readonly eval_steps?: number | undefined;
  /** Steps between checkpoints. Default: only after the last step. */
  readonly save_steps?: number | undefined;
  /** Gets `checkpoints/`, `log.jsonl` and `tensorboard/`. Made if need be. */
  readonly output_dir: string;
  /** Checkpoints to keep (transformers' save_total_limit). Default: all. */
  readonly keep?: number | undefined;
  /** Saves after each evaluation better than all before, and keeps the best one whatever its age. */
  readonly keep_best?: boolean | undefined;
  /**
   * Goes on bit for bit: `true` from the latest checkpoint in `output_dir`, or from the start where there is none yet
   * (see `on_resume`); a path from that checkpoint, or the latest in that folder. A damaged one is an error.
   */
  readonly resume?: boolean | string | undefined;
  /**
   * Goes on though files of the data were changed since the checkpoint, at the same row: for a file with a row mended. The
   * number of rows must be the same. Default false.
   */
  readonly accept_data_changes?: boolean | undefined;
  /** What is written as the run goes on; both by default. */
  readonly logging?:
    | { readonly jsonl?: boolean | undefined; readonly tensorboard?: boolean | undefined }
    | undefined;
  /** After each step. What it throws ends the run; a promise is awaited. */
  readonly on_step?: ((record: TrainingRecord, total_steps: number) => void | Promise<void>) | undefined;
  /** After each checkpoint, with its folder. */
  readonly on_save?: ((path: string) => void | Promise<void>) | undefined;
  /** Where a run that resumes begins, before its first step; with `resume: true` also where there was nothing to resume. */
  readonly on_resume?: ((info: ResumeInfo) => void | Promise<void>) | undefined;
  /**
   * A checkpoint could not be saved because the disk is full. The state stays in memory: a folder that is returned is
   * tried instead; otherwise the run goes on, and the next save tries again. The error is thrown where it was the last.
   */
  readonly on_save_failed?:
    | ((
        error: Error,
        info: { readonly step: number; readonly last: boolean },
      ) => string | undefined | Promise<string | undefined>)
    | undefined;
  /** What will be written to disk beside the run's own files; the room for it is asked for before the first step. */
  readonly room_beside?: readonly RoomRequest[] | undefined;
  /** The caller's lock on `output_dir`; without it fit takes its own. */
  readonly lock?: FileLock | undefined;
  /** While rows are looked at, before the first step: how many have been, and all. */
  readonly check_callback?: ((done: number, total: number) => void) | undefined;
  /** What is worth knowing and no error, once each: columns that are not used, steps that were skipped. */
  readonly warning_callback?: ((warning: string) => void) | undefined;
  /** Ends the run in order: after the step under way a checkpoint is written. */
  readonly signal?: AbortSignal | undefined;
}

/** {@link FitOptions} made whole. */
export interface FitSettings {
  readonly data: readonly string[];
  readonly validation: readonly string[] | undefined;
  readonly validation_size: number;
  readonly loader: Omit<DataLoaderOptions, "tokenizer" | "max_length">;
  readonly epochs: number;
  readonly max_steps: number;
  /** Infinity: only after the last step. */
  readonly eval_steps: number;
  readonly save_steps: number;
  readonly checkpoints: string;
  readonly log: string | undefined;
  readonly tensorboard: string | undefined;
  readonly keep: number | undefined;
  readonly keep_best: boolean;
  readonly resume: boolean | string;
  readonly accept_data_changes: boolean;
  /** Absolute. */
  readonly output: string;
}

/** The default of `max_length`, where the model has as many positions. Tokens. */
export const DEFAULT_LENGTH = 512;

/** Where a run in `output_dir` leaves what. */
export function outputPaths(output_dir: string) {
  const dir = resolve(output_dir);
  return {
    checkpoints: join(dir, "checkpoints"),
    log: join(dir, "log.jsonl"),
    tensorboard: join(dir, "tensorboard"),
  };
}

const paths: Kind = {
  accepts: (v) => path.accepts(v) || (Array.isArray(v) && v.length > 0 && Array.from(v).every(path.accepts)),
  range: "the path of a file, or a list of them",
};

const KINDS: Readonly<Record<keyof FitOptions, Kind>> = {
  ...{ micro_batch_size: number, gradient_accumulation_steps: number, packing: flag, append_eos: flag },
  ...{ eos_token_id: number, template_options: object, chat_template: text, data: paths, validation: paths },
  ...{ validation_size: number, tokenizer: having(["encode"], "a tokenizer, such as AutoTokenizer opens") },
  ...{ max_length: number, epochs: number, max_steps: number, seed: number, eval_steps: number },
  ...{ save_steps: number, output_dir: text, keep: number, keep_best: flag, logging: object },
  ...{ resume: either("true, false or the path of a checkpoint", flag, path), accept_data_changes: flag },
  ...{ on_step: callback, on_save: callback, on_resume: callback, on_save_failed: callback },
  ...{ check_callback: callback, warning_callback: callback, room_beside: list, signal },
  lock: having(["release"], "a lock on output_dir"),
};

/** Names of transformers' TrainingArguments, and of the trainer's options, that have another place here. */
const OPTIONS_ELSEWHERE = {
  num_train_epochs: "epochs is its name",
  per_device_train_batch_size: "micro_batch_size is its name",
  save_total_limit: "keep is its name",
  load_best_model_at_end: "keep_best keeps the checkpoint that evaluates best",
  max_row_bytes: "rows may have 64 MiB; longer ones are split in the file",
  learning_rate: "it is an option of Trainer.create",
  weight_decay: "it is an option of Trainer.create",
  lr_scheduler_type: "it is an option of Trainer.create",
  warmup_steps: "it is an option of Trainer.create",
  lora: "it is an option of Trainer.create",
};

/** The options that are given, none of them null. Throws ConfigError that names one that is unknown or of another kind. */
export function checkFitOptions(options: FitOptions): FitOptions {
  return checkedOptions(options, KINDS, "fit", OPTIONS_ELSEWHERE);
}

/** Throws ConfigError that names the option. */
export function fitSettings(given: FitOptions): FitSettings {
  const options = checkFitOptions(given);
  if (options.tokenizer !== undefined) requireTokenizer(options.tokenizer);
  if (options.data === undefined) throw new ConfigError("data: name a file of rows, or several");
  const { output_dir, validation, validation_size = 0, epochs, max_steps, eval_steps, save_steps } = options;
  const { keep, keep_best = false, resume = false, logging = {}, seed = 0 } = options;
  if (typeof output_dir !== "string" || output_dir === "")
    throw new ConfigError("output_dir: name a folder for checkpoints and logs");
  for (const [name, value] of Object.entries({ epochs, max_steps, eval_steps, save_steps, keep })) {
    if (value !== undefined && !(Number.isSafeInteger(value) && value >= 1))
      throw new ConfigError(`${name} is ${shown(value)}, expected a whole number above 0`);
  }
  if (validation !== undefined && validation_size > 0)
    throw new ConfigError("validation and validation_size both say what is held out: give one of them");
  checkedOptions(logging, { jsonl: flag, tensorboard: flag }, "logging");
  if (options.chat_template === "")
    throw new ConfigError(
      `chat_template is ${shown(options.chat_template)}, expected a Jinja template or a name`,
    );
  const held = validation !== undefined || validation_size > 0;
  for (const [name, value] of Object.entries({ eval_steps, keep_best: keep_best || undefined })) {
    if (value !== undefined && !held)
      throw new ConfigError(`${name} needs held-out data: give validation or validation_size`);
  }
  const paths = outputPaths(output_dir);
  return {
    data: listed(options.data),
    validation: validation === undefined ? undefined : listed(validation),
    validation_size,
    loader: {
      seed,
      micro_batch_size: options.micro_batch_size,
      gradient_accumulation_steps: options.gradient_accumulation_steps,
      packing: options.packing,
      append_eos: options.append_eos,
      eos_token_id: options.eos_token_id,
      template_options:
        options.chat_template === undefined
          ? options.template_options
          : { ...options.template_options, chat_template: options.chat_template },
    },
    epochs: epochs ?? (max_steps === undefined ? 1 : Number.POSITIVE_INFINITY),
    max_steps: max_steps ?? Number.POSITIVE_INFINITY,
    eval_steps: eval_steps ?? Number.POSITIVE_INFINITY,
    save_steps: save_steps ?? Number.POSITIVE_INFINITY,
    checkpoints: paths.checkpoints,
    log: logging.jsonl === false ? undefined : paths.log,
    tensorboard: logging.tensorboard === false ? undefined : paths.tensorboard,
    keep,
    keep_best,
    resume,
    accept_data_changes: options.accept_data_changes ?? false,
    output: resolve(output_dir),
  };
}

/** Tokens of the longest sequence. Throws ConfigError where the model has fewer positions than are asked for. */
export function sequenceLength(max_length: number | undefined, max_positions: number): number {
  if (max_length === undefined) return Math.min(DEFAULT_LENGTH, max_positions);
  if (max_length <= max_positions) return max_length;
  throw new ConfigError(
    `max_length is ${max_length}, more than the model's ${max_positions} positions: give ${max_positions} or less`,
  );
}

function requireTokenizer(tokenizer: Partial<RowTokenizer> | null): void {
  const { encode, apply_chat_template, eos_token_ids } = tokenizer ?? {};
  if (
    typeof encode === "function" &&
    typeof apply_chat_template === "function" &&
    Array.isArray(eos_token_ids)
  )
    return;
  throw new ConfigError(
    "tokenizer must have encode(), apply_chat_template() and eos_token_ids, as what AutoTokenizer.from_pretrained gives",
  );
}

function listed(paths: DataPaths): readonly string[] {
  return typeof paths === "string" ? [paths] : paths;
}
