// From what was asked for to what the library is told: options of the model, the trainer and the loop, all checked before
// anything is loaded.

import { join, resolve } from "node:path";
import { realPath, sameFileAmong } from "../../base/files/same-file.ts";
import { checkExportFolder, refuseInputs, refuseWithin } from "../../formats/export-folder.ts";
import { listFolder, statIfPresent } from "../../formats/files/files.ts";
import { readText } from "../../formats/files/json-files.ts";
import type { DeviceMap, WeightDType } from "../../plan/options.ts";
import type { EngineOptions } from "../../runtime/open/prepare.ts";
import type { CheckedData } from "../../train/fit/fit-data.ts";
import type { FitOptions } from "../../train/fit/fit-options.ts";
import { fitSettings, sequenceLength } from "../../train/fit/fit-options.ts";
import { readFitState, startingPoint } from "../../train/fit/fit-state.ts";
import { type TrainerOptions, trainerSettings } from "../../train/open/options.ts";
import { checkModel } from "../check-model.ts";
import { UsageError } from "../exit-codes.ts";
import type { Io } from "../io.ts";
import { CheckLine } from "./check-line.ts";
import type { TrainConfig } from "./train-options.ts";

export { refuseWithin };

/** Options of a new adapter, beside its rank. */
const ADAPTER_OPTIONS = [
  ...(["lora_alpha", "lora_dropout", "lora_target_modules", "modules_to_save"] as const),
  ...(["use_rslora", "rank_pattern", "alpha_pattern"] as const),
];

/** Tokens of KV cache: no text is generated here. */
const CONTEXT = 32;

export interface TrainSetup {
  /** Directory of the model. */
  readonly model: string;
  /** Absolute. */
  readonly output: string;
  readonly offload_folder: string;
  /** Where the result goes; undefined: nowhere. */
  readonly export: string | undefined;
  readonly engine: EngineOptions;
  readonly trainer: TrainerOptions;
  /** undefined where no data was named, which a plan does without. */
  readonly fit: FitOptions | undefined;
  /** What a look at all rows found, so that it need not be done again. */
  readonly checked: CheckedData | undefined;
  /** To be said once. */
  readonly warnings: readonly string[];
  readonly micro_batches: number;
  /** Steps of the whole run; undefined where only a plan was asked for and nothing says how many. */
  readonly steps: number | undefined;
}

/**
 * Reads the model's headers and looks at every row of the data. Throws UsageError and ConfigError that say what to write
 * instead, CheckpointError, IoError.
 */
export async function trainSetup(
  io: Io,
  model: string | undefined,
  config: TrainConfig,
  {
    plan = false,
    quiet = false,
  }: { readonly plan?: boolean | undefined; readonly quiet?: boolean | undefined },
): Promise<TrainSetup> {
  if (model === undefined)
    throw new UsageError("no model was named: spillway train MODEL --data FILE --output DIR");
  if (config.output === undefined)
    throw new UsageError("name a folder for checkpoints, logs and the result: --output DIR");
  if (config.data === undefined && !plan) throw new UsageError("there is no data: --data rows.jsonl");
  if (config.lora_r === undefined) {
    const odd = ADAPTER_OPTIONS.find((name) => config[name] !== undefined);
    if (odd)
      throw new UsageError(
        config.adapter === undefined
          ? `${odd} belongs to an adapter: give lora_r, its rank, too`
          : `${odd} belongs to a new adapter; one that goes on being trained has its own config`,
      );
  }
  if (config.adapter !== undefined && config.lora_r !== undefined)
    throw new UsageError("adapter goes on with an adapter and lora_r begins one: give one of them");
  if (config.dtype !== undefined && config.lora_r === undefined && config.adapter === undefined)
    throw new UsageError(
      "dtype is the type of frozen weights under an adapter; a model that trains whole has what --precision says",
    );
  const output = resolve(config.output);
  const adapts = config.lora_r !== undefined || config.adapter !== undefined;
  const target =
    config.export === false ? undefined : (config.export ?? join(output, adapts ? "adapter" : "model"));
  await checkModel(model, { chat: false });
  await refuseOverwriting(model, config, output, target);
  const { readSkeleton } = await import("../../runtime/open/skeleton.ts");
  const { spec, adapter } = await readSkeleton(model, {
    dtype: config.dtype,
    signal: io.signal,
    adapter: config.adapter,
  });
  const max_length = sequenceLength(config.max_length, spec.max_positions);
  const offload_folder = resolve(config.offload_folder ?? join(output, "offload"));
  const chat_template = config.chat_template && (await templateText(config.chat_template));
  const fit =
    config.data === undefined
      ? undefined
      : { ...fitOptions(config, config.data, output, max_length), ...(chat_template && { chat_template }) };
  // A rate that falls needs to know the end; until the steps are counted, any will do to check the rest.
  trainerSettings(trainerOptions(config, max_length, offload_folder, config.max_steps ?? 1));
  const checked =
    fit &&
    (await checkRows(io, fit, {
      model,
      adapter: config.adapter,
      max_length,
      vocab: spec.vocab_size,
      ...{ plan, target, quiet },
    }));
  const steps = checked ? checked.steps : config.max_steps;
  return {
    checked,
    warnings: [...(adapter?.notes ?? []), ...(checked?.notes ?? [])],
    ...{
      model,
      output,
      offload_folder,
      steps,
      export: target,
      engine: engineOptions(config, offload_folder, spec.max_positions),
    },
    trainer: trainerOptions(config, max_length, offload_folder, steps),
    fit: fit && { ...fit, epochs: undefined, max_steps: steps },
    micro_batches: config.gradient_accumulation_steps ?? 1,
  };
}

/** Outputs must not be inputs, under whatever name: links and mounts lead to one folder from many places. */
async function refuseOverwriting(
  model: string,
  config: TrainConfig,
  output: string,
  target: string | undefined,
): Promise<void> {
  const folders = [model, ...(config.adapter === undefined ? [] : [config.adapter])];
  if (target !== undefined && (await sameFileAmong(target, folders)) !== undefined)
    throw new UsageError("the result would replace the model it was trained from: give another --export");
  await refuseInputs(output, folders, "write checkpoints and logs");
  const written = { "--output": output, "--export": target, "--offload-folder": config.offload_folder };
  for (const [option, path] of Object.entries(written))
    if (path !== undefined) await refuseWithin(path, folders, option);
  if (config.report === undefined) return;
  const files = [...(config.data ?? []), ...(config.validation ?? [])];
  const weights = (await listFolder(model)).map((name) => join(model, name));
  const input = await sameFileAmong(config.report, [...files, ...weights]);
  if (input !== undefined) throw new UsageError(`the report would replace ${input}: give another --report`);
}

/** Looks at every row, with a line of progress where it takes longer than a moment. */
async function checkRows(
  io: Io,
  fit: FitOptions,
  o: {
    readonly model: string;
    readonly adapter: string | undefined;
    readonly max_length: number;
    readonly vocab: number;
    readonly plan: boolean;
    /** Where the result goes. */
    readonly target: string | undefined;
    readonly quiet: boolean;
  },
): Promise<CheckedData> {
  const settings = fitSettings(fit);
  const from = o.plan ? undefined : await startingPoint(settings);
  const saved = from === undefined ? undefined : await readFitState(from);
  // Found out now, not after a night of training.
  if (o.target !== undefined && !o.plan) await checkExportFolder(await realPath(o.target), saved?.run);
  const { AutoTokenizer } = await import("../../generate/text/tokenizer.ts");
  const { checkData } = await import("../../train/fit/fit-data.ts");
  const tokenizer = await AutoTokenizer.from_pretrained(o.model, o.adapter ? { adapter: o.adapter } : {});
  const line = o.quiet ? undefined : new CheckLine(io);
  try {
    const options = {
      ...{ tokenizer, max_length: o.max_length, vocab_size: o.vocab, signal: io.signal },
      ...(line && { progress: line.update }),
    };
    return await checkData(settings, options, saved?.state);
  } finally {
    line?.end();
  }
}

/** A template, or the text of the file of one. A name of one of the model's templates stays a name. */
async function templateText(given: string): Promise<string> {
  if (given.includes("{") || (await statIfPresent(given)) === undefined) return given;
  return readText(given);
}

/** The trainer loads the model again, beside its own state: until then the weights may stay where they are. */
function engineOptions(config: TrainConfig, offload_folder: string, max_positions: number): EngineOptions {
  const { gpu, cpu, disk, device, dtype, threads } = config;
  return {
    device_map: "disk",
    context_length: Math.min(CONTEXT, max_positions),
    max_memory: {
      ...(gpu !== undefined && { gpu }),
      ...(cpu !== undefined && { cpu }),
      ...(disk !== undefined && { disk }),
    },
    offload_folder,
    ...(device !== undefined && { device }),
    ...(dtype !== undefined && { dtype: dtype as WeightDType }),
    ...(threads !== undefined && { threads }),
  };
}

function trainerOptions(
  c: TrainConfig,
  max_length: number,
  offload_folder: string,
  max_steps: number | undefined,
): TrainerOptions {
  return {
    ...{ learning_rate: c.learning_rate ?? 5e-5, lr_scheduler_type: c.lr_scheduler_type, max_steps },
    ...{ warmup_steps: c.warmup_steps, warmup_ratio: c.warmup_ratio, min_lr_ratio: c.min_lr_ratio },
    ...{ optimizer: c.optimizer, betas: c.betas, eps: c.eps, momentum: c.momentum },
    ...{ weight_decay: c.weight_decay, no_decay: c.no_decay, max_grad_norm: c.max_grad_norm },
    ...{ update_ahead: c.update_ahead, keep_activations: c.keep_activations },
    ...{ precision: c.precision, micro_batch_size: c.micro_batch_size, max_length, seed: c.seed },
    ...{ adapter: c.adapter, offload_folder },
    offload: {
      optimizer: c.offload_optimizer,
      gradients: c.offload_gradients,
      activations: c.offload_activations,
      weights: (c.offload_weights as DeviceMap | undefined) ?? "auto",
    },
    ...(c.lora_r !== undefined && {
      lora: {
        r: c.lora_r,
        ...(c.lora_alpha !== undefined && { lora_alpha: c.lora_alpha }),
        ...(c.use_rslora !== undefined && { use_rslora: c.use_rslora }),
        ...(c.rank_pattern !== undefined && { rank_pattern: c.rank_pattern }),
        ...(c.alpha_pattern !== undefined && { alpha_pattern: c.alpha_pattern }),
        ...(c.modules_to_save !== undefined && { modules_to_save: c.modules_to_save }),
        ...(c.lora_dropout !== undefined && { lora_dropout: c.lora_dropout }),
        ...(c.lora_target_modules !== undefined && { target_modules: c.lora_target_modules }),
      },
    }),
  };
}

function fitOptions(
  c: TrainConfig,
  data: readonly string[],
  output_dir: string,
  max_length: number,
): FitOptions {
  return {
    ...{ data, output_dir, max_length, validation: c.validation, validation_size: c.validation_size },
    ...{ micro_batch_size: c.micro_batch_size, gradient_accumulation_steps: c.gradient_accumulation_steps },
    ...{ packing: c.packing, append_eos: c.append_eos, seed: c.seed },
    ...{ epochs: c.epochs, max_steps: c.max_steps, eval_steps: c.eval_steps, save_steps: c.save_steps },
    ...{
      keep: c.keep,
      keep_best: c.keep_best,
      resume: c.resume,
      accept_data_changes: c.accept_data_changes,
      logging: { tensorboard: c.tensorboard },
    },
  };
}
