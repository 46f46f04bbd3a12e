// What training made, as files others read: a model in the Hub's layout, or PEFT's adapter files.

import { mkdir } from "node:fs/promises";
import { resolve } from "node:path";
import { savedName, writeAdapter } from "../adapters/index.ts";
import { readConfigJson, type TensorSource, writeSharded } from "../checkpoint/index.ts";
import { copyOthers, namedDType } from "../checkpoint/model-folder.ts";
import { ConfigError, IoError } from "../errors.ts";
import { DTYPES, type FloatDType } from "../ggml/dtypes.ts";
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
    const named = parameters.all.map((p) => source(p, p.kind === "low-rank" ? p.name : savedName(p.name)));
    const config = {
      ...settings.lora,
      base_model_name_or_path: settings.lora.base_model_name_or_path ?? base,
      task_type: settings.lora.task_type ?? "CAUSAL_LM",
    };
    await writeAdapter(dir, config, session.spec, named, { ...(signal && { signal }) });
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

async function* bytesOnly(...args: Parameters<typeof masterBlocks>): AsyncGenerator<Uint8Array> {
  for await (const { bytes } of masterBlocks(...args)) yield bytes;
}
