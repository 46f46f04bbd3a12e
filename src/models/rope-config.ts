// Which rotary settings a config.json means: rope_parameters (transformers 5), rope_scaling (before that, and added by
// hand since), and the keys at its top, put into one as transformers 5.18 does. What follows from them is in blocks/rope.ts.

import { ConfigError, UnsupportedError } from "../base/errors.ts";
import { listed } from "../base/notes.ts";
import { shown } from "../base/shown.ts";
import { RawConfig } from "./config.ts";

/** Methods of scaling that are computed, and the keys each reads. */
const METHODS = {
  default: [],
  linear: ["factor"],
  dynamic: ["factor"],
  llama3: ["factor", "low_freq_factor", "high_freq_factor"],
  yarn: ["factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"],
  longrope: ["factor", "attention_factor", "short_factor", "long_factor"],
} as const satisfies Record<string, readonly string[]>;

export type RopeMethod = keyof typeof METHODS;

/** Keys that every method has, whatever it makes of them. */
const COMMON = [
  "rope_type",
  "type",
  "rope_theta",
  "partial_rotary_factor",
  "original_max_position_embeddings",
];
/**
 * Keys without effect on text: `finetuned` marks checkpoints trained at the longer context, `mrope_section` says which
 * frequencies follow which axis of an image, and the axes of text are all the same.
 */
const HARMLESS = ["finetuned", "mrope_section", "mrope_interleaved"];

/** What names that people meet should be instead. */
const OTHER_NAMES: Readonly<Record<string, string>> = {
  su: 'an older name of "longrope"',
  mrope: 'an older name of "default" with positions of images',
  ntk: 'not a name of transformers; its "dynamic" is another method',
};

const DEFAULT_THETA = 10_000;

export interface RopeConfig {
  readonly method: RopeMethod;
  /** The values, in the object they were found in; empty where there is none. */
  readonly values: RawConfig;
  readonly theta: number;
  /** Context length before scaling. Tokens. */
  readonly original: number;
  /** The config's own number of positions. Tokens. */
  readonly maxPositions: number;
  readonly notes: readonly string[];
}

/**
 * Reads the rotary settings of a model with `maxPositions` positions. `rope_scaling` counts before `rope_parameters`,
 * with nothing taken from the other; `rope_theta` and `partial_rotary_factor` inside before those at the top;
 * `original_max_position_embeddings` at the top before the one inside.
 * Throws ConfigError, and UnsupportedError for methods and keys that are not known.
 */
export function readRopeConfig(config: RawConfig, maxPositions: number): RopeConfig {
  const notes: string[] = [];
  const scaling = filled(config, "rope_scaling");
  const parameters = filled(config, "rope_parameters");
  const values = scaling ?? parameters ?? new RawConfig({}, config.where);
  const theta = readTheta(config, values);
  const beside = scaling && parameters && bothNamed(config, scaling, parameters, theta);
  if (beside) notes.push(beside);
  const top = config.raw("rope_theta");
  if (typeof top === "number" && top !== theta)
    notes.push(`${config.where}: rope_theta ${top} is not used, ${values.where} has ${theta}`);
  const method = readMethod(values);
  checkKeys(values, method, notes);

  config.raw("partial_rotary_factor");
  const ownPart = values.names("partial_rotary_factor") ? values : config;
  const part = ownPart.has("partial_rotary_factor") ? ownPart.positive("partial_rotary_factor") : 1;
  if (part !== 1) {
    // transformers' code of these families ignores it without scaling, and fails with it.
    if (method !== "default") {
      const what = `partial_rotary_factor is ${part} with rope type "${method}"`;
      throw new UnsupportedError(`${ownPart.where}: ${what}; rotation of whole heads is supported`);
    }
    notes.push(`${ownPart.where}: partial_rotary_factor ${part} is not used: whole heads are rotated`);
  }
  const atTop = config.names("original_max_position_embeddings");
  const scaled = method === "llama3" || method === "yarn" || method === "longrope";
  const original = scaled
    ? (atTop ? config : values).positive("original_max_position_embeddings", maxPositions)
    : maxPositions;
  return { method, values, theta, original, maxPositions, notes };
}

/** The object at `key`, unless it is absent, null or empty: an empty one counts as none. */
function filled(config: RawConfig, key: string): RawConfig | undefined {
  const object = config.object(key);
  return object && object.unasked().length > 0 ? object : undefined;
}

function readTheta(config: RawConfig, values: RawConfig): number {
  const from = values.names("rope_theta") ? values : config;
  const theta = from.positive("rope_theta", DEFAULT_THETA);
  // The kernel takes it as a 32-bit float.
  if (Number.isFinite(Math.fround(theta)) && Math.fround(theta) > 0) return theta;
  throw new ConfigError(`${from.where}: rope_theta is ${theta}, out of the range of 32-bit floats`);
}

/** A note about what of `parameters` does not count, unless that says what would hold without it. */
function bothNamed(
  config: RawConfig,
  scaling: RawConfig,
  parameters: RawConfig,
  theta: number,
): string | undefined {
  const other = parameters.raw("rope_theta");
  const otherTheta = typeof other === "number" && other !== theta;
  const rest = parameters.unasked();
  const plain = rest.every((key) => /^(rope_)?type$/.test(key) && parameters.raw(key) === "default");
  if (plain && !otherTheta) return undefined;
  const lost =
    otherTheta && !scaling.names("rope_theta")
      ? `; its rope_theta ${other} does not count either, ${theta} does: write rope_theta into rope_scaling`
      : "";
  return `${config.where}: rope_scaling counts, rope_parameters beside it is not used${lost}`;
}

function readMethod(values: RawConfig): RopeMethod {
  const name = values.string(values.names("rope_type") ? "rope_type" : "type", "default");
  values.raw("type");
  if (Object.hasOwn(METHODS, name)) return name as RopeMethod;
  const hint = Object.hasOwn(OTHER_NAMES, name) ? ` (${OTHER_NAMES[name]})` : "";
  const known = listed(Object.keys(METHODS), 99);
  throw new UnsupportedError(
    `${values.where}: rope type ${shown(name)}${hint} is not supported; supported: ${known}`,
  );
}

/** Keys of another method are named in a note; keys of none are an error, because they may be a method of their own. */
function checkKeys(values: RawConfig, method: RopeMethod, notes: string[]): void {
  const own: readonly string[] = [...COMMON, ...METHODS[method], ...HARMLESS];
  const others = new Set<string>(Object.values(METHODS).flat());
  const unused: string[] = [];
  for (const key of values.unasked()) {
    if (own.includes(key)) continue;
    if (others.has(key)) unused.push(key);
    else if (/^(full|sliding|chunked)_attention$/.test(key)) {
      throw new UnsupportedError(
        `${values.where}: rotary settings for each type of layer (${shown(key)}) are not supported; give one for all`,
      );
    } else {
      const known = listed([...COMMON, ...METHODS[method]], 99);
      throw new UnsupportedError(
        `${values.where}: ${shown(key)} is not a key of rope type "${method}" (${known}); take it out if it has no effect`,
      );
    }
  }
  if (unused.length > 0) notes.push(`${values.where}: not used by rope type "${method}": ${listed(unused)}`);
}
