// The arguments of from_pretrained, which may come from plain JavaScript: names known, kinds of values right. What the values
// mean is decided where they are used.
import { refuseUnknown } from "../base/options.ts";
import { shown } from "../base/shown.ts";
import { ConfigError } from "../errors.ts";
import type { EngineOptions } from "../runtime/prepare.ts";

interface Kind {
  readonly accepts: (value: unknown) => boolean;
  /** Completes "dtype must be ...". */
  readonly range: string;
}

const text: Kind = { accepts: (v) => typeof v === "string", range: "a text" };
const folder: Kind = { accepts: (v) => typeof v === "string" && v !== "", range: "the path of a folder" };
const flag: Kind = { accepts: (v) => typeof v === "boolean", range: "true or false" };
const callback: Kind = { accepts: (v) => typeof v === "function", range: "a function" };
const number: Kind = { accepts: (v) => typeof v === "number", range: "a number" };
const object = (v: unknown): v is object => typeof v === "object" && v !== null && !Array.isArray(v);

const KINDS: Readonly<Record<keyof EngineOptions | "torch_dtype", Kind>> = {
  adapter: folder,
  dtype: text,
  torch_dtype: text,
  device: text,
  device_map: {
    accepts: (v) => typeof v === "string" || object(v),
    range: '"auto", a tier ("gpu", "cpu", "disk") or a tier for each module, such as { "": "cpu" }',
  },
  max_memory: { accepts: object, range: 'bytes for each tier, such as { cpu: "4GiB" }' },
  kv_dtype: text,
  context_length: number,
  offload_folder: folder,
  offload_packed: flag,
  low_cpu_mem_usage: flag,
  threads: number,
  progress_callback: callback,
  warning_callback: callback,
  signal: { accepts: (v) => v instanceof AbortSignal, range: "an AbortSignal" },
  training: { accepts: object, range: "an object" },
  beforeRead: callback,
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
  refuseUnknown(options, Object.keys(KINDS), "from_pretrained", ELSEWHERE);
  const given: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(options as object)) {
    if (value === undefined || value === null) continue;
    const { accepts, range } = KINDS[name as keyof typeof KINDS];
    if (!accepts(value)) throw new ConfigError(`${name} must be ${range}, got ${shown(value)}`);
    given[name] = value;
  }
  const { torch_dtype, ...rest } = given;
  if (torch_dtype === undefined) return rest as EngineOptions;
  if (rest.dtype !== undefined && rest.dtype !== torch_dtype) {
    throw new ConfigError(
      `dtype is ${shown(rest.dtype)} and torch_dtype, its older name, is ${shown(torch_dtype)}; give one of them`,
    );
  }
  return { ...rest, dtype: torch_dtype } as EngineOptions;
}
