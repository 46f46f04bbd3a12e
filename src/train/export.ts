// What training made, as files others read: a model in the Hub's layout, or PEFT's adapter files.

import { dirname, join, resolve } from "node:path";
import { type Adapter, putTokenizer, savedName, savedWeights, writeAdapter } from "../adapters/index.ts";
import { bytesOf, DTYPES, type FloatDType } from "../backend/ggml/dtypes.ts";
import { realPath } from "../base/files/same-file.ts";
import {
  ANYTHING,
  checkExportFolder,
  exportedFiles,
  markExport,
  refuseInputs,
} from "../formats/export-folder.ts";
import { statIfPresent } from "../formats/files/files.ts";
import { replaceFile } from "../formats/files/staged-file.ts";
import { readConfigJson, type TensorSource, writeSharded } from "../formats/index.ts";
import { copyOthers, filesBeside, namedDType } from "../formats/model-folder.ts";
import { tensorBlocks } from "../formats/safetensors/read-tensor.ts";
import type { TensorEntry } from "../formats/types.ts";
import { lockFolder } from "../memory/locks/file-lock.ts";
import { modelSpec } from "../models/families.ts";
import { resolveName } from "../models/ties.ts";
import { parseWeightDType } from "../plan/options.ts";
import { masterBlocks } from "./checkpoints/state-tensors.ts";
import type { TrainerSettings } from "./open/options.ts";
import type { Parameter } from "./open/parameters.ts";
import type { ParameterState } from "./optimizer/state.ts";
import type { Session } from "./session.ts";
import type { ExportOptions } from "./trainer-face.ts";

/** Headers and configs. */
const SMALL_FILES = 256 * 1024;

export async function exportModel(
  dir: string,
  base: string,
  session: Session,
  settings: TrainerSettings,
  options: ExportOptions & { readonly run: string },
): Promise<void> {
  const target = await realPath(dir);
  const inputs = [base, ...(session.adapter ? [dirname(session.adapter.checkpoint.path)] : [])];
  await refuseInputs(target, inputs, "export");
  await checkExportFolder(target, options.run);
  await using _lock = await lockFolder(target, "the folder of the export");
  await checkExportFolder(target, options.run);
  await markExport(target, options.run, [ANYTHING]);
  await writeExport(target, base, session, settings, options);
  if (options.chat_template !== undefined) await putTemplate(target, options.chat_template);
  await markExport(target, options.run, await exportedFiles(target));
}

async function writeExport(
  dir: string,
  base: string,
  session: Session,
  settings: TrainerSettings,
  options: ExportOptions,
): Promise<void> {
  const wanted = parseWeightDType(options.dtype ?? "auto");
  const { parameters, trained, cpu, ledger } = session;
  const { signal } = options;
  const source = (p: Parameter, name: string): TensorSource => {
    const dtype: FloatDType = wanted === "auto" ? p.dtype : wanted;
    const state = trained.states[p.index] as ParameterState;
    return { name, dtype, shape: p.shape, data: bytesOnly(p, state, dtype, { cpu, ledger, signal }) };
  };
  if (settings.lora) {
    const { spec, adapter } = session;
    // Base checkpoints may name a parameter without the family's prefix; PEFT's files never do.
    const full = new Map(
      savedWeights(settings.lora, spec).map(({ name }) => [
        resolveName(spec, session.checkpoint, name),
        name,
      ]),
    );
    const named = parameters.all.map((p) =>
      source(p, p.kind === "low-rank" ? p.name : savedName(full.get(p.name) ?? p.name)),
    );
    const config = {
      ...settings.lora,
      base_model_name_or_path: settings.lora.base_model_name_or_path ?? base,
      task_type: settings.lora.task_type ?? "CAUSAL_LM",
    };
    await writeAdapter(dir, config, spec, named, {
      ...(signal && { signal }),
      tables: adapter ? tablesOf(adapter) : [],
    });
    if (adapter && resolve(adapter.dir) !== resolve(dir))
      await putTokenizer(resolve(adapter.dir), resolve(dir));
    return;
  }
  const folder = dir;
  const tensors = parameters.all.map((p) => source(p, p.name));
  await writeSharded(folder, tensors, { ...(signal && { signal }) });
  const config = await readConfigJson(base);
  const dtype =
    wanted === "auto" ? (parameters.all.find((p) => p.kind === "matrix")?.dtype ?? "f32") : wanted;
  const changed = {
    ...namedDType(config, DTYPES[dtype].torch),
    ...(breaksTie(config, session) && { tie_word_embeddings: false }),
  };
  await copyOthers(resolve(base), folder, { ...config, ...changed }, true);
}

/** In the place of any other: it counts before one in tokenizer_config.json. */
async function putTemplate(folder: string, template: string): Promise<void> {
  const bytes = Buffer.from(template);
  await replaceFile(join(folder, "chat_template.jinja"), bytes.length, (sink) => sink.append(bytes));
}

/** Whether config.json calls two weights one that were trained as two: readers that go by it would take one for the other. */
function breaksTie(config: Readonly<Record<string, unknown>>, { spec }: Session): boolean {
  const named = Object.entries(modelSpec(config, "config.json").tied);
  return named.some(([alias, name]) => spec.tied[alias] !== name && spec.tied[name] !== alias);
}

/** What an adapter's file has of the vocabulary is not trained: it goes into the next one as it is. */
function tablesOf({ tables, checkpoint }: Adapter): TensorSource[] {
  return tables.map(({ stored }) => {
    const entry = checkpoint.tensors.get(stored) as TensorEntry; // openAdapter has checked it
    return { ...entry, name: stored, data: tensorBlocks(checkpoint, entry) };
  });
}

async function* bytesOnly(...args: Parameters<typeof masterBlocks>): AsyncGenerator<Uint8Array> {
  for await (const { bytes } of masterBlocks(...args)) yield bytes;
}

/** Bytes that an export takes, about. */
export async function exportBytes(base: string, { parameters }: Session, lora: boolean): Promise<number> {
  const weights = parameters.all.reduce((sum, p) => sum + bytesOf(p.dtype, p.elements), 0);
  if (lora) return weights + SMALL_FILES;
  const { copied } = await filesBeside(base, {});
  const sizes = await Promise.all(copied.map((name) => statIfPresent(join(base, name))));
  return sizes.reduce((sum, stats) => sum + (stats?.size ?? 0), weights + SMALL_FILES);
}
