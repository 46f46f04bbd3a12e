// The arguments of from_pretrained, which may come from plain JavaScript: names known, kinds of values right. What the values
// mean is decided where they are used.

import { ConfigError } from "../base/errors.ts";
import {
  callback,
  checkedOptions,
  either,
  flag,
  folder,
  type Kind,
  number,
  object,
  signal,
  text,
} from "../base/kinds.ts";
import { shown } from "../base/shown.ts";
import type { EngineOptions } from "../runtime/open/prepare.ts";

const KINDS: Readonly<Record<keyof EngineOptions | "torch_dtype", Kind>> = {
  adapter: folder,
  dtype: text,
  torch_dtype: text,
  device: text,
  device_map: either(
    '"auto", a tier ("gpu", "cpu", "disk") or a tier for each module, such as { "": "cpu" }',
    text,
    object,
  ),
  compute: either(
    '"auto", "gpu", "hybrid", or a device for each module, such as { "": "gpu" }',
    text,
    object,
  ),
  max_memory: { ...object, range: 'bytes for each tier, such as { cpu: "4GiB" }' },
  kv_dtype: text,
  context_length: number,
  max_sequences: number,
  prefix_cache: flag,
  offload_folder: folder,
  offload_packed: flag,
  low_cpu_mem_usage: flag,
  threads: number,
  progress_callback: callback,
  warning_callback: callback,
  signal,
  training: object,
  beforeRead: callback,
  unitBytes: number,
};

const QUANTIZE =
  "weights are taken as the checkpoint has them, or in a dtype of float32, float16 or bfloat16";
const LOCAL = "a folder on this machine is opened, nothing is downloaded";

/** Names from other libraries, and what to do here. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  load_in_4bit: QUANTIZE,
  load_in_8bit: QUANTIZE,
  quantization_config: QUANTIZE,
  revision: LOCAL,
  cache_dir: LOCAL,
  token: LOCAL,
  local_files_only: LOCAL,
  trust_remote_code: "code of checkpoints is never run; leave it out",
  attn_implementation: "the fused kernel is used where the device has it; leave it out",
  max_seq_length: "it is called context_length here",
  max_length: "it is called context_length here",
  n_ctx: "it is called context_length here",
  offload_dir: "it is called offload_folder here",
  n_gpu_layers: "say with max_memory: { gpu: ... } or device_map what goes to the GPU",
};

/** The options with `torch_dtype` as `dtype` and without those that are null. Throws ConfigError. */
export function checkPretrained(dir: unknown, options: unknown): EngineOptions {
  if (typeof dir !== "string" || dir === "")
    throw new ConfigError(`from_pretrained takes the folder of a checkpoint, got ${shown(dir)}`);
  const given: Record<string, unknown> = checkedOptions(
    options as Record<string, unknown>,
    KINDS,
    "from_pretrained",
    ELSEWHERE,
  );
  const { torch_dtype, ...rest } = given;
  if (torch_dtype === undefined) return rest as EngineOptions;
  if (rest.dtype !== undefined && rest.dtype !== torch_dtype) {
    throw new ConfigError(
      `dtype is ${shown(rest.dtype)} and torch_dtype, its older name, is ${shown(torch_dtype)}; give one of them`,
    );
  }
  return { ...rest, dtype: torch_dtype } as EngineOptions;
}
