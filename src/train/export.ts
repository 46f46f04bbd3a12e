// What training made, as files others read: a model in the Hub's layout, or PEFT's adapter files.

import { mkdir } from "node:fs/promises";
import { resolve } from "node:path";
import { type Adapter, putTokenizer, savedName, savedWeights, writeAdapter } from "../adapters/index.ts";
import { readConfigJson, type TensorSource, writeSharded } from "../checkpoint/index.ts";
import { copyOthers, namedDType } from "../checkpoint/model-folder.ts";
import { tensorBlocks } from "../checkpoint/read-tensor.ts";
import type { TensorEntry } from "../checkpoint/types.ts";
import { ConfigError, IoError } from "../errors.ts";
import { DTYPES, type FloatDType } from "../ggml/dtypes.ts";
import { resolveName } from "../models/ties.ts";
import { parseWeightDType } from "../plan/options.ts";
import type { ParameterState } from "./optimizer/state.ts";
import type { TrainerSettings } from "./options.ts";
import type { Parameter } from "./parameters.ts";
import type { Session } from "./session.ts";
import { masterBlocks } from "./state-tensors.ts";

export async function exportModel(
  dir: string,
  base: string,
  session: Session,
  settings: TrainerSettings,
  options: { dtype?: string; signal?: AbortSignal },
): Promise<void> {
  if (resolve(dir) === resolve(base))
    throw new ConfigError(`${dir} is the model that is trained; export into another folder`);
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
  const folder = resolve(dir);
  await mkdir(folder, { recursive: true }).catch((cause: unknown) => {
    throw new IoError("the folder could not be made", folder, { cause });
  });
  const tensors = parameters.all.map((p) => source(p, p.name));
  await writeSharded(folder, tensors, { ...(signal && { signal }) });
  const config = await readConfigJson(base);
  const dtype =
    wanted === "auto" ? (parameters.all.find((p) => p.kind === "matrix")?.dtype ?? "f32") : wanted;
  await copyOthers(resolve(base), folder, { ...config, ...namedDType(config, DTYPES[dtype].torch) }, true);
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
