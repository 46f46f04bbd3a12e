// adapter_config.json of PEFT LoRA adapters (peft/tuners/lora/config.py): what is in it, and what of it this version can do.
// Which modules a config means is targets.ts.
import { UnsupportedError } from "../base/errors.ts";
import { RawConfig } from "../models/config.ts";

/** PEFT's LoraConfig, with its names and its defaults. */
export interface LoraConfig {
  /** Rank of the update: the inner dimension of B A. */
  readonly r: number;
  /** The update is scaled by `lora_alpha / r`, or by `lora_alpha / sqrt(r)` with `use_rslora`. */
  readonly lora_alpha: number;
  readonly lora_dropout: number;
  /** Names that module paths end with, a regular expression for whole paths, or "all-linear". Null: the family's default. */
  readonly target_modules: string | readonly string[] | null;
  /** Like `target_modules`, for modules to leave out. */
  readonly exclude_modules: string | readonly string[] | null;
  /** Indices of the only layers to change. */
  readonly layers_to_transform: number | readonly number[] | null;
  /** Names of the module that layers are numbered in. */
  readonly layers_pattern: string | readonly string[] | null;
  /** Ranks that differ, by a pattern for the end of module paths. */
  readonly rank_pattern: Readonly<Record<string, number>>;
  readonly alpha_pattern: Readonly<Record<string, number>>;
  readonly use_rslora: boolean;
  /** Whether the base stores its weights [in, out]. Says nothing about the adapter's tensors. */
  readonly fan_in_fan_out: boolean;
  /** Modules that are trained and saved whole. */
  readonly modules_to_save: readonly string[] | null;
  readonly init_lora_weights: boolean | string;
  readonly base_model_name_or_path: string | null;
  readonly task_type: string | null;
  /** Biases that are trained and saved whole: none, all of the model's, or those of the target modules. */
  readonly bias: "none" | "all" | "lora_only";
  /** Every other key, as it was read: written back unchanged. */
  readonly other: Readonly<Record<string, unknown>>;
}

/** The keys of {@link LoraConfig}: what is in them is done. */
export const LORA_KEYS = Object.keys({
  ...{ r: true, lora_alpha: true, lora_dropout: true, target_modules: true, exclude_modules: true },
  ...{ layers_to_transform: true, layers_pattern: true, rank_pattern: true, alpha_pattern: true },
  ...{ use_rslora: true, fan_in_fan_out: true, modules_to_save: true, init_lora_weights: true },
  ...{ base_model_name_or_path: true, task_type: true, bias: true },
} satisfies Record<Exclude<keyof LoraConfig, "other">, true>);

/** Keys about where an adapter comes from, how its first values were found, or how PEFT keeps it in memory. */
const HARMLESS = [
  "peft_type",
  ...["auto_mapping", "peft_version", "revision", "inference_mode", "runtime_config", "megatron_core"],
  ...["loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"],
];

/** Keys that this version cannot do anything but PEFT's default for: all of them are off when empty, false or null. */
const MUST_BE_OFF = [
  ...["use_dora", "lora_bias", "use_qalora", "use_bdlora", "ensure_weight_tying", "layer_replication"],
  ...["alora_invocation_tokens", "alora_invocation_string", "trainable_token_indices", "target_parameters"],
  ...["megatron_config", "arrow_config", "velora_config", "kasa_config", "monteclora_config"],
];

/** What to do about the one or other of them. */
const ADVICE: Readonly<Record<string, string>> = {
  use_dora:
    "train it without DoRA, or merge it into its base with PEFT's merge_and_unload and open the result",
  trainable_token_indices: "merge it into its base with PEFT's merge_and_unload and open the result",
};

/** Set keys of a config that this version does not know: from a newer PEFT, or from elsewhere. */
export function unknownKeys({ other }: LoraConfig): string[] {
  const known = new Set<string>([...HARMLESS, ...MUST_BE_OFF]);
  return Object.keys(other).filter((key) => !known.has(key) && !isOff(other[key]));
}

const BIASES = ["none", "all", "lora_only"] as const;

/** Ways to begin that change the base's weights, so that the adapter belongs to weights the checkpoint does not hold. */
const CHANGES_THE_BASE = /^(pissa|olora|corda|loftq|lora_ga)/;

/**
 * The config in a parsed JSON file, or in options of the same names: keys that are missing have PEFT's defaults.
 * Throws ConfigError that names the key for a value that cannot be used, UnsupportedError that names the key for one that is not supported.
 */
export function parseLoraConfig(json: unknown, where = "adapter_config.json"): LoraConfig {
  const raw = new RawConfig(json, where);
  const bad = (key: string, expected: string): never =>
    raw.fail(key, `is ${JSON.stringify(raw.raw(key))}, expected ${expected}`);
  const names = (key: string): string | string[] | null => {
    const value = raw.raw(key) ?? null;
    if (value === null || typeof value === "string" || isListOf(value, isString)) return value;
    return bad(key, "a string or a list of strings");
  };
  const numbers = (key: string, isFine: (value: unknown) => value is number, expected: string) => {
    const value = raw.raw(key) ?? {};
    if (!isObject(value) || !Object.values(value).every(isFine))
      return bad(key, `an object with ${expected} in it`);
    return value as Record<string, number>;
  };
  const peftType = raw.string("peft_type", "LORA");
  if (peftType !== "LORA") throw new UnsupportedError(`${where}: peft_type "${peftType}"; supported: LORA`);
  const bias = BIASES.find((one) => one === raw.string("bias", "none"));
  if (bias === undefined) return bad("bias", `one of ${BIASES.join(", ")}`);
  for (const key of MUST_BE_OFF) {
    if (isOff(raw.raw(key))) continue;
    const advice = ADVICE[key] === undefined ? "" : `: ${ADVICE[key]}`;
    throw new UnsupportedError(
      `${where}: ${key} is ${JSON.stringify(raw.raw(key))}, which is not supported${advice}`,
    );
  }
  const init = raw.raw("init_lora_weights") ?? true;
  if (typeof init !== "boolean" && typeof init !== "string")
    bad("init_lora_weights", "true, false or a name");
  if (typeof init === "string" && CHANGES_THE_BASE.test(init)) {
    throw new UnsupportedError(
      `${where}: init_lora_weights "${init}" changes the weights of the base; save the adapter with ` +
        "path_initial_model_for_weight_conversion, which makes it one for the unchanged base",
    );
  }
  const layers = raw.raw("layers_to_transform") ?? null;
  if (layers !== null && !isCount(layers) && !isListOf(layers, isCount))
    bad("layers_to_transform", "layer numbers");
  const target_modules = names("target_modules");
  if (typeof target_modules === "string" && layers !== null)
    raw.fail("layers_to_transform", "goes with a list of target_modules, not with a pattern");
  const dropout = raw.number("lora_dropout", 0);
  if (dropout < 0 || dropout >= 1) bad("lora_dropout", "a share from 0 to below 1");
  const modules_to_save = raw.raw("modules_to_save") ?? null;
  if (modules_to_save !== null && !isListOf(modules_to_save, isString))
    bad("modules_to_save", "a list of strings");
  const config: Omit<LoraConfig, "other"> = {
    r: raw.size("r", 8),
    lora_alpha: raw.number("lora_alpha", 8),
    lora_dropout: dropout,
    target_modules,
    exclude_modules: names("exclude_modules"),
    layers_to_transform: layers as LoraConfig["layers_to_transform"],
    layers_pattern: names("layers_pattern"),
    rank_pattern: numbers("rank_pattern", isRank, "a rank above 0"),
    alpha_pattern: numbers("alpha_pattern", isNumber, "a number"),
    use_rslora: raw.boolean("use_rslora", false),
    fan_in_fan_out: raw.boolean("fan_in_fan_out", false),
    modules_to_save: modules_to_save as LoraConfig["modules_to_save"],
    init_lora_weights: init as LoraConfig["init_lora_weights"],
    base_model_name_or_path: raw.has("base_model_name_or_path")
      ? raw.string("base_model_name_or_path")
      : null,
    task_type: raw.has("task_type") ? raw.string("task_type") : null,
    bias,
  };
  const other = Object.entries(json as object).filter(([key]) => !Object.hasOwn(config, key));
  return { ...config, other: Object.fromEntries(other) };
}

/** What is written: all keys in alphabetical order, as PEFT writes them. */
export function loraConfigJson({ other, ...config }: LoraConfig): Record<string, unknown> {
  const json = {
    peft_type: "LORA",
    inference_mode: true,
    use_dora: false,
    ...other,
    ...config,
  };
  return Object.fromEntries(Object.entries(json).sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Rank, alpha and scale where `rank` and `alpha` are what the patterns say for a module, if anything. */
export function loraScale(config: LoraConfig, rank = config.r, alpha = config.lora_alpha): number {
  return config.use_rslora ? alpha / Math.sqrt(rank) : alpha / rank;
}

function isOff(value: unknown): boolean {
  if (value === undefined || value === null || value === false) return true;
  return typeof value === "object" && Object.keys(value).length === 0;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isListOf<T>(value: unknown, is: (item: unknown) => item is T): value is T[] {
  return Array.isArray(value) && value.every(is);
}

const isString = (value: unknown): value is string => typeof value === "string";
const isNumber = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);
const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
const isRank = (value: unknown): value is number => isCount(value) && value > 0;
