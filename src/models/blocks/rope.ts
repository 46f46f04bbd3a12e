// Rotary position embedding: from rotary settings to frequencies. One path for every scaling method: the method's
// inverse frequencies are computed here and given to the kernel as divisors of the plain ones.

import type { RopeParams } from "../../backend/ggml/ops.ts";
import { ConfigError } from "../../base/errors.ts";
import type { RopeConfig } from "../rope-config.ts";

export interface Rope {
  readonly params: RopeParams;
  /** f32 [dims / 2]: what plain frequencies are divided by; absent where they are used as they are. */
  readonly factors: Float32Array | undefined;
}

/** The frequencies of heads of `headDim` elements. Throws ConfigError for values that give none. */
export function rope(config: RopeConfig, headDim: number): Rope {
  if (headDim < 2 || headDim % 2 !== 0) {
    throw new ConfigError(
      `config.json: heads have ${headDim} elements; pairs are rotated, so it must be even`,
    );
  }
  const { theta, values } = config;
  const plain = Float64Array.from({ length: headDim / 2 }, (_, i) => theta ** ((-2 * i) / headDim));
  const { inverse, attention } = scaled(config, plain);
  const factors = inverse && Float32Array.from(plain, (f, i) => f / (inverse[i] as number));
  const usable = (n: number) => Number.isFinite(n) && n !== 0;
  if (!usable(Math.fround(attention)) || !(factors?.every(usable) ?? true)) {
    throw new ConfigError(
      `${values.where}: rope type "${config.method}" with these values gives frequencies that are not finite numbers`,
    );
  }
  const params: RopeParams = {
    dims: headDim,
    freqBase: theta,
    freqScale: 1,
    extFactor: 0,
    attnFactor: attention,
    betaFast: 32,
    betaSlow: 1,
    originalContext: config.maxPositions,
  };
  return { params, factors };
}

interface Scaled {
  readonly inverse?: Float64Array;
  /** Multiplies sines and cosines. */
  readonly attention: number;
}

function scaled(config: RopeConfig, plain: Float64Array): Scaled {
  switch (config.method) {
    case "default":
      return { attention: 1 };
    case "dynamic": // as it is up to the length it was trained for, where positions end
      config.values.positive("factor");
      return { attention: 1 };
    case "linear":
      return { inverse: linear(config, plain), attention: 1 };
    case "llama3":
      return { inverse: llama3(config, plain), attention: 1 };
    case "yarn":
      return yarn(config, plain);
    case "longrope":
      return longrope(config, plain);
    default:
      return config.method satisfies never;
  }
}

/** Chen et al. 2023. */
function linear({ values }: RopeConfig, plain: Float64Array): Float64Array {
  const factor = values.positive("factor");
  return plain.map((f) => f / factor);
}

/** Llama 3.1 (Grattafiori et al. 2024). */
function llama3({ values, original }: RopeConfig, plain: Float64Array): Float64Array {
  const factor = values.positive("factor");
  const low = values.positive("low_freq_factor");
  const high = values.positive("high_freq_factor");
  return plain.map((f) => {
    const wavelength = (2 * Math.PI) / f;
    if (wavelength > original / low) return f / factor;
    if (wavelength < original / high) return f;
    const smooth = (original / wavelength - low) / (high - low);
    return ((1 - smooth) * f) / factor + smooth * f;
  });
}

/** Peng et al. 2023. */
function yarn({ values, theta, original, maxPositions }: RopeConfig, plain: Float64Array): Scaled {
  const dims = 2 * plain.length;
  const factor = namedFactor(values, maxPositions / original);
  const magnitude = (mscale: number) => (factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1);
  const ofConfig = (key: string) => (values.has(key) ? values.number(key) : 0);
  const [mscale, allDims] = [ofConfig("mscale"), ofConfig("mscale_all_dim")];
  const attention = values.has("attention_factor")
    ? values.positive("attention_factor")
    : mscale !== 0 && allDims !== 0
      ? magnitude(mscale) / magnitude(allDims)
      : magnitude(1);
  // The dimension whose wave turns `rotations` times within the original context.
  const dimension = (rotations: number) =>
    (dims * Math.log(original / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  // As in transformers, null and 0 mean the paper's values, and truncate: null is false.
  let first = dimension(ofConfig("beta_fast") === 0 ? 32 : values.positive("beta_fast"));
  let last = dimension(ofConfig("beta_slow") === 0 ? 1 : values.positive("beta_slow"));
  if (!values.names("truncate") || (values.has("truncate") && values.boolean("truncate"))) {
    first = Math.floor(first);
    last = Math.ceil(last);
  }
  first = Math.max(first, 0);
  last = Math.min(last, dims - 1);
  if (first === last) last += 0.001;
  const inverse = plain.map((f, i) => {
    const ramp = Math.min(1, Math.max(0, (i - first) / (last - first)));
    return (f / factor) * ramp + f * (1 - ramp);
  });
  return { inverse, attention };
}

/** Ding et al. 2024: the factors for contexts up to the original one; beyond it positions end. */
function longrope({ values, original, maxPositions }: RopeConfig, plain: Float64Array): Scaled {
  const short = values.numbers("short_factor", plain.length);
  values.numbers("long_factor", plain.length);
  const factor = values.has("factor") ? values.positive("factor") : maxPositions / original;
  const attention = values.has("attention_factor")
    ? values.positive("attention_factor")
    : factor <= 1
      ? 1
      : Math.sqrt(1 + Math.log(factor) / Math.log(original));
  return { inverse: plain.map((f, i) => f / (short[i] as number)), attention };
}

/** `factor`, which must be named, and where it is null follows from the lengths. */
function namedFactor(values: RopeConfig["values"], implied: number): number {
  return values.names("factor") && !values.has("factor") ? implied : values.positive("factor");
}
