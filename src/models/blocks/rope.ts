// Rotary position embedding: from config.json to frequencies. One path for every scaling method: the method's
// inverse frequencies are computed here and given to the kernel as divisors of the plain ones.
import { UnsupportedError } from "../../errors.ts";
import type { RopeParams } from "../../ggml/ops.ts";
import type { RawConfig } from "../config.ts";

export interface Rope {
  readonly params: RopeParams;
  /** f32 [dims / 2]: what plain frequencies are divided by; absent where they are used as they are. */
  readonly factors: Float32Array | undefined;
}

/**
 * Reads `rope_theta` and `rope_scaling` (older files) or `rope_parameters` (newer ones).
 * Methods: default, linear (Chen et al. 2023), llama3 (Llama 3.1), yarn (Peng et al. 2023).
 */
export function readRope(config: RawConfig, headDim: number, maxPositions: number): Rope {
  const scaling = config.object("rope_parameters") ?? config.object("rope_scaling");
  const theta = scaling?.has("rope_theta")
    ? scaling.positive("rope_theta")
    : config.positive("rope_theta", 10000);
  const partial = scaling?.has("partial_rotary_factor")
    ? scaling.positive("partial_rotary_factor")
    : config.positive("partial_rotary_factor", 1);
  const dims = Math.floor(headDim * partial);
  if (dims < 2 || dims > headDim || dims % 2 !== 0)
    config.fail("partial_rotary_factor", `rotates ${dims} of ${headDim} dimensions`);
  const type = scaling
    ? scaling.string(scaling.has("rope_type") ? "rope_type" : "type", "default")
    : "default";
  const plain = Float64Array.from({ length: dims / 2 }, (_, i) => theta ** ((-2 * i) / dims));
  const { inverse, attention } = scaled(type, scaling, plain, { theta, dims, maxPositions });
  const params: RopeParams = {
    dims,
    freqBase: theta,
    freqScale: 1,
    extFactor: 0,
    attnFactor: attention,
    betaFast: 32,
    betaSlow: 1,
    originalContext: maxPositions,
  };
  return { params, factors: inverse && Float32Array.from(plain, (f, i) => f / (inverse[i] as number)) };
}

interface Scaled {
  inverse?: Float64Array;
  /** Multiplies sines and cosines. */
  attention: number;
}

function scaled(
  type: string,
  scaling: RawConfig | undefined,
  plain: Float64Array,
  model: { theta: number; dims: number; maxPositions: number },
): Scaled {
  if (type === "default" || !scaling) return { attention: 1 };
  switch (type) {
    case "linear": {
      const factor = scaling.positive("factor");
      return { inverse: plain.map((f) => f / factor), attention: 1 };
    }
    case "llama3": {
      const factor = scaling.positive("factor");
      const low = scaling.positive("low_freq_factor");
      const high = scaling.positive("high_freq_factor");
      const original = scaling.positive("original_max_position_embeddings");
      const inverse = plain.map((f) => {
        const wavelength = (2 * Math.PI) / f;
        if (wavelength < original / high) return f;
        if (wavelength > original / low) return f / factor;
        const smooth = (original / wavelength - low) / (high - low);
        return ((1 - smooth) * f) / factor + smooth * f;
      });
      return { inverse, attention: 1 };
    }
    case "yarn":
      return yarn(scaling, plain, model);
    default:
      throw new UnsupportedError(
        `config.json: rope type "${type}" is not supported; supported: default, linear, llama3, yarn`,
      );
  }
}

function yarn(
  scaling: RawConfig,
  plain: Float64Array,
  model: { theta: number; dims: number; maxPositions: number },
): Scaled {
  const original = scaling.positive("original_max_position_embeddings", model.maxPositions);
  const factor = scaling.positive("factor", model.maxPositions / original);
  const magnitude = (mscale: number) => (factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1);
  const both = scaling.has("mscale") && scaling.has("mscale_all_dim");
  const attention = scaling.has("attention_factor")
    ? scaling.positive("attention_factor")
    : both && scaling.number("mscale") !== 0 && scaling.number("mscale_all_dim") !== 0
      ? magnitude(scaling.number("mscale")) / magnitude(scaling.number("mscale_all_dim"))
      : magnitude(1);
  const { dims, theta } = model;
  // The dimension whose wave turns `rotations` times within the original context.
  const dimension = (rotations: number) =>
    (dims * Math.log(original / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  const truncate = scaling.boolean("truncate", true);
  let first = dimension(scaling.positive("beta_fast", 32));
  let last = dimension(scaling.positive("beta_slow", 1));
  if (truncate) {
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
