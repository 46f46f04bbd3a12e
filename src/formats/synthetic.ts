// Makes checkpoints with random weights, in the shapes and under the names of published families, for tests and
// benchmarks. Bounded memory; with `sparse` a 131 GiB checkpoint takes a few kilobytes of disk.
import { join, resolve } from "node:path";
import { bytesOf, DTYPES, type FloatDType } from "../backend/ggml/dtypes.ts";
import { ConfigError } from "../base/errors.ts";
import { replaceFile } from "./files/staged-file.ts";
import { type TensorSource, writeSharded } from "./safetensors/writer.ts";
import { type Config, SYNTHETIC_FAMILIES, type SyntheticFamily, sizeIn } from "./synthetic/families.ts";
import { PRESETS, type Preset, type PresetName } from "./synthetic/presets.ts";
import { tokenizerConfigJson, tokenizerJson } from "./synthetic/tokenizer.ts";
import { ValueSource } from "./synthetic/values.ts";

export type { SyntheticFamily } from "./synthetic/families.ts";
export { PRESETS, type PresetName } from "./synthetic/presets.ts";

/** Keeps a mistyped number from filling memory with names. */
const MAX_LAYERS = 10_000;

export interface SyntheticOptions {
  /** May be left out where `shape` is a preset, which has a family. */
  readonly family?: SyntheticFamily | undefined;
  /** A named size, or config.json values that replace those of the family's tiny one. */
  readonly shape?: PresetName | Config | undefined;
  /** Number of layers, where it is to differ from the shape's. */
  readonly layers?: number | undefined;
  /** Default bf16. */
  readonly dtype?: FloatDType | undefined;
  /** A whole number; the same seed gives the same bytes. Default 0. */
  readonly seed?: number | undefined;
  /** Headers only: the weights are holes that read as zeros. Default false, except for presets too big to write by accident. */
  readonly sparse?: boolean | undefined;
  /** Most bytes of weights in a file. Default: one file. */
  readonly max_shard_bytes?: number | undefined;
  readonly tie_word_embeddings?: boolean | undefined;
  /** Called with the bytes of weights so far and in all. */
  readonly progress?: ((done: number, total: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface SyntheticCheckpoint {
  /** Absolute path of the folder. */
  readonly path: string;
  /** Safetensors file names. */
  readonly files: readonly string[];
  /** Elements of all tensors. */
  readonly parameters: number;
  /** Bytes of all tensors. */
  readonly bytes: number;
  /** What is in config.json. */
  readonly config: Config;
}

/**
 * Writes a checkpoint into the folder `dir` (made if need be): weights, config.json, generation_config.json,
 * tokenizer.json and tokenizer_config.json, all of which replace what has their names.
 * Throws ConfigError for values that make no model, IoError when the device is full or refuses, AbortError.
 */
export async function makeCheckpoint(dir: string, options: SyntheticOptions): Promise<SyntheticCheckpoint> {
  const { family, config, sparse, dtype, seed } = settle(options);
  const layers = sizeIn(config, SYNTHETIC_FAMILIES[family].layersKey);
  if (layers > MAX_LAYERS)
    throw new ConfigError(`${layers} layers are more than the ${MAX_LAYERS} a checkpoint may have`);
  const tensors = [...SYNTHETIC_FAMILIES[family].tensors(config)];
  const positions = sizeIn(config, SYNTHETIC_FAMILIES[family].positionsKey);
  const tokenizer = tokenizerJson(config);
  const values = new ValueSource(dtype, seed);
  const path = resolve(dir);
  const files = await writeSharded(
    path,
    tensors.map(({ name, shape, init }): TensorSource => {
      const data = sparse ? "zeros" : values.chunks(name, elementsOf(shape), init);
      return { name, dtype, shape, data };
    }),
    {
      max_shard_bytes: options.max_shard_bytes ?? Number.POSITIVE_INFINITY,
      progress: options.progress,
      signal: options.signal,
    },
  );
  const { bos_token_id, eos_token_id } = config;
  await writeJson(join(path, "generation_config.json"), {
    _from_model_config: true,
    bos_token_id,
    eos_token_id,
  });
  await writeJson(join(path, "tokenizer.json"), tokenizer);
  await writeJson(join(path, "tokenizer_config.json"), tokenizerConfigJson(positions));
  await writeJson(join(path, "config.json"), config);
  const parameters = tensors.reduce((sum, { shape }) => sum + elementsOf(shape), 0);
  return { path, files, parameters, bytes: bytesOf(dtype, parameters), config };
}

interface Settled {
  readonly family: SyntheticFamily;
  readonly config: Config;
  readonly sparse: boolean;
  readonly dtype: FloatDType;
  readonly seed: number;
}

/** Options made definite. Callers may be plain JavaScript, so names are looked up rather than believed. */
function settle(options: SyntheticOptions): Settled {
  const { shape = {}, dtype = "bf16", seed = 0 } = options;
  const preset: Preset | undefined = typeof shape === "string" ? lookUp("preset", shape, PRESETS) : undefined;
  const family = options.family ?? preset?.family;
  if (family === undefined) {
    throw new ConfigError(
      `give a family (${Object.keys(SYNTHETIC_FAMILIES).join(", ")}) or a preset as shape`,
    );
  }
  const row = lookUp("family", family, SYNTHETIC_FAMILIES);
  if (preset && preset.family !== family) {
    throw new ConfigError(`preset ${shape} is of family ${preset.family}, not ${family}`);
  }
  const torch_dtype = lookUp("dtype", dtype, { f32: DTYPES.f32, f16: DTYPES.f16, bf16: DTYPES.bf16 }).torch;
  if (!Number.isSafeInteger(seed)) throw new ConfigError(`seed is ${seed}, it must be a whole number`);
  const config: Record<string, unknown> = {
    ...row.config,
    ...(preset ? preset.config : (shape as Config)),
    torch_dtype,
  };
  if (options.layers !== undefined) config[row.layersKey] = options.layers;
  if (options.tie_word_embeddings !== undefined) config.tie_word_embeddings = options.tie_word_embeddings;
  return { family, config, dtype, seed, sparse: options.sparse ?? preset?.sparse ?? false };
}

function lookUp<T>(what: string, name: string, table: Readonly<Record<string, T>>): T {
  const row = Object.hasOwn(table, name) ? table[name] : undefined;
  if (row === undefined) {
    throw new ConfigError(`there is no ${what} "${name}"; there are ${Object.keys(table).join(", ")}`);
  }
  return row;
}

function elementsOf(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

async function writeJson(path: string, value: unknown): Promise<void> {
  const bytes = new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`);
  await replaceFile(path, bytes.length, (sink) => sink.append(bytes));
}
