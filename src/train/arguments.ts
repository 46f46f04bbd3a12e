// Arguments of a trainer's methods, which may come from plain JavaScript. What is in a batch is looked at by batch.ts.

import { ConfigError } from "../base/errors.ts";
import {
  callback,
  checkedOptions,
  flag,
  folder,
  type Kind,
  number,
  object,
  requireKind,
  signal,
  text,
} from "../base/kinds.ts";
import { shown } from "../base/shown.ts";
import type { TrainingBatch } from "./step/batch.ts";
import type { ExportOptions, ResumeOptions, SaveOptions } from "./trainer-face.ts";

const BATCHES: Kind = {
  accepts: (v) => typeof v === "object" && v !== null && (Symbol.iterator in v || Symbol.asyncIterator in v),
  range: "a list of batches, or what gives one after the other; of one batch: [batch]",
};

export function requireBatches(batches: unknown): void {
  requireKind(batches, BATCHES, "the argument of evaluate");
}

export function batchesOf(batch: TrainingBatch | readonly TrainingBatch[]): readonly TrainingBatch[] {
  return Array.isArray(batch) ? batch : [batch as TrainingBatch];
}

export function saveOptions(dir: unknown, options: SaveOptions): SaveOptions {
  requireKind(dir, folder, "the place of a checkpoint");
  const kinds = { meta: object, eval_loss: number, keep: number, keep_best: flag, signal };
  const given = checkedOptions(options, kinds, "save");
  if (given.keep !== undefined) requireCount(given.keep, "keep");
  return given;
}

export function resumeOptions(path: unknown, options: ResumeOptions): ResumeOptions {
  requireKind(path, folder, "the place of a checkpoint");
  return checkedOptions(options, { signal, warning_callback: callback }, "resume");
}

export function exportOptions(dir: unknown, options: ExportOptions): ExportOptions {
  requireKind(dir, folder, "the place of an export");
  return checkedOptions(options, { dtype: text, chat_template: text, signal }, "export");
}

export function requireCount(value: number, name: string): void {
  if (Number.isSafeInteger(value) && value >= 1) return;
  throw new ConfigError(`${name} is ${shown(value)}, expected a whole number above 0`);
}
