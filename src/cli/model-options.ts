// The options of every command that opens a model, and what they mean to the engine. One table, so that run, chat and
// inspect cannot drift apart.

import { stat } from "node:fs/promises";
import { type Command, InvalidArgumentError } from "commander";
import { ConfigError, IoError } from "../base/errors.ts";
import { parseJson } from "../base/json.ts";
import { readText } from "../formats/files/json-files.ts";
import { parseSize } from "../memory/sizes.ts";
import { TIERS } from "../memory/tiers.ts";
import type { CacheDType, ComputeMap, DeviceMap, WeightDType } from "../plan/options.ts";
import type { EngineOptions } from "../runtime/open/prepare.ts";

export interface ModelFlags {
  readonly adapter?: string;
  readonly gpu?: number;
  readonly cpu?: number;
  readonly disk?: number;
  readonly device?: string;
  readonly deviceMap?: string;
  readonly compute?: string;
  readonly offloadFolder?: string;
  readonly offloadPacked?: boolean;
  readonly dtype?: string;
  readonly kvDtype?: string;
  readonly contextLength?: number;
  readonly maxSequences?: number;
  readonly threads?: number;
  readonly prefixCache: boolean;
  readonly lowCpuMemUsage: boolean;
  readonly json?: boolean;
}

/** Adds MODEL and the shared options. */
export function addModelOptions(command: Command): Command {
  return command
    .argument("<model>", "directory of a checkpoint in the Hub's layout (config.json, *.safetensors)")
    .option("--adapter <dir>", "PEFT LoRA adapter to add (adapter_config.json, adapter_model.safetensors)")
    .option("--gpu <size>", 'device memory that may be taken, "6GiB" (default: what is free)', size("--gpu"))
    .option("--cpu <size>", "RAM that may be taken (default: what is free)", size("--cpu"))
    .option("--disk <size>", "disk that may be taken for converted and packed copies", size("--disk"))
    .option("--device <name>", "where arithmetic runs: auto, cpu, gpu, cuda:0, vulkan:0, metal")
    .option(
      "--device-map <map>",
      'where weights live: auto, cpu, gpu, disk, {"module": "tier"} or @file.json',
    )
    .option(
      "--compute <how>",
      'on a GPU, where what is not in its memory is computed: auto, gpu, hybrid, {"module": "cpu"} or @file.json',
    )
    .option("--offload-folder <dir>", "where converted and packed copies of weights go")
    .option(
      "--offload-packed",
      "where not all fits, stream and keep bfloat16 weights a quarter smaller, without loss (copy in the offload folder)",
    )
    .option("--dtype <name>", "type of the weights: auto, float32, float16, bfloat16")
    .option("--kv-dtype <name>", "type of the KV cache: float16, float32")
    .option("--context-length <tokens>", "tokens of KV cache to plan for", wholeNumber)
    .option("--max-sequences <n>", "sequences of that length to plan for at once (default: 1)", wholeNumber)
    .option("--no-prefix-cache", "read every prompt anew, also where it begins like the text before")
    .option(
      "--threads <n>",
      "CPU threads, always as many (default: what is fastest, measured as it runs)",
      wholeNumber,
    )
    .option(
      "--no-low-cpu-mem-usage",
      "read everything first and copy it, for comparison: needs the memory twice",
    )
    .option("--json", "one JSON document on stdout");
}

/** The engine's options that the flags stand for. Throws ConfigError that names the flag. */
export async function engineOptions(flags: ModelFlags): Promise<EngineOptions> {
  const max_memory = Object.fromEntries(
    TIERS.flatMap((tier) => (flags[tier] === undefined ? [] : [[tier, flags[tier]]])),
  );
  return {
    max_memory,
    low_cpu_mem_usage: flags.lowCpuMemUsage,
    prefix_cache: flags.prefixCache,
    ...(flags.adapter !== undefined && { adapter: flags.adapter }),
    ...(flags.device !== undefined && { device: flags.device }),
    ...(flags.deviceMap !== undefined && { device_map: await mapOf("--device-map", flags.deviceMap) }),
    ...(flags.compute !== undefined && { compute: (await mapOf("--compute", flags.compute)) as ComputeMap }),
    ...(flags.offloadFolder !== undefined && { offload_folder: flags.offloadFolder }),
    ...(flags.offloadPacked !== undefined && { offload_packed: flags.offloadPacked }),
    ...(flags.dtype !== undefined && { dtype: flags.dtype as WeightDType }),
    ...(flags.kvDtype !== undefined && { kv_dtype: flags.kvDtype as CacheDType }),
    ...(flags.contextLength !== undefined && { context_length: flags.contextLength }),
    ...(flags.maxSequences !== undefined && { max_sequences: flags.maxSequences }),
    ...(flags.threads !== undefined && { threads: flags.threads }),
  };
}

/** A name of a tier, a JSON object, or @file with one. The engine checks names against the model. */
async function mapOf(option: string, text: string): Promise<DeviceMap> {
  if (!text.startsWith("@") && !text.startsWith("{")) return text as DeviceMap;
  const where = text.startsWith("@") ? text.slice(1) : option;
  const json = text.startsWith("@") ? await readMap(where) : text;
  let value: unknown;
  try {
    value = parseJson(json);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ConfigError(`${where}: not JSON (${reason}); write {"model.layers.0": "cpu", "": "disk"}`);
  }
  if (typeof value === "string") return value as DeviceMap;
  const entries =
    typeof value === "object" && value !== null && !Array.isArray(value) ? Object.entries(value) : [];
  const odd = entries.find(([, tier]) => typeof tier !== "string" && typeof tier !== "number");
  if (entries.length === 0 || odd) {
    const what = odd ? `"${odd[0]}" is ${JSON.stringify(odd[1])}` : "it is not an object with entries";
    throw new ConfigError(`${where}: ${what}; expected a tier for each module: {"model.layers.0": "cpu"}`);
  }
  return value as DeviceMap;
}

async function readMap(path: string): Promise<string> {
  try {
    await stat(path);
    return await readText(path); // of a bounded size, and never from a pipe
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new IoError(`the device map could not be read (${reason})`, path, { cause: error });
  }
}

/** Parses a size when the option is met, so that the error names the option as it was typed. */
function size(option: string): (text: string) => number {
  return (text) => {
    try {
      return parseSize(text, option);
    } catch (error) {
      throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
    }
  };
}

/** A whole number above 0. */
export function wholeNumber(text: string): number {
  if (!/^\d+$/.test(text) || Number(text) < 1)
    throw new InvalidArgumentError("Expected a whole number above 0.");
  return Number(text);
}

/** Any number; the library says which it accepts. */
export function anyNumber(text: string): number {
  if (text.trim() === "" || !Number.isFinite(Number(text)))
    throw new InvalidArgumentError("Expected a number.");
  return Number(text);
}

/** One more of a repeatable option. */
export function appended(text: string, before: readonly string[] = []): string[] {
  return [...before, text];
}
