// The first values of low-rank weights, or those of an adapter that goes on being trained, made piece by piece.
import type { Adapter, LoraTarget } from "../../adapters/index.ts";
import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import type { DType } from "../../backend/ggml/dtypes.ts";
import { CheckpointError } from "../../base/errors.ts";
import { readTensor } from "../../formats/index.ts";
import type { Region } from "../../memory/store.ts";
import { hash32 } from "../data/order.ts";
import type { Parameter } from "./parameters.ts";

/** Gives the values from an element on. Called in the order of the elements, each of them once. */
type Values = (into: Float32Array, first: number) => void;

/** Uniform in [-bound, bound): xorshift32 (Marsaglia 2003) from a seed. */
function uniform(bound: number, seed: number): Values {
  let x = seed | 1;
  return (into) => {
    for (let i = 0; i < into.length; i++) {
      x ^= x << 13;
      x ^= x >>> 17;
      x ^= x << 5;
      into[i] = ((x >>> 0) / 2 ** 31 - 1) * bound;
    }
  };
}

/** Of mean 0 and standard deviation `deviation`: Box and Muller's pairs over the same generator. */
function normal(deviation: number, seed: number): Values {
  const flat = uniform(1, seed);
  const pair = new Float32Array(2);
  return (into, first) => {
    for (let i = 0; i < into.length; i++) {
      const odd = (first + i) & 1;
      if (!odd) flat(pair, first + i);
      const [u, v] = [(pair[0] as number) / 2 + 0.5, pair[1] as number];
      const radius = deviation * Math.sqrt(-2 * Math.log(1 - Math.min(u, 1 - 2 ** -24)));
      into[i] = radius * (odd ? Math.sin(Math.PI * v) : Math.cos(Math.PI * v));
    }
  };
}

/**
 * A uniform in +-1/sqrt(in), which is PEFT's kaiming_uniform with a = sqrt(5); B zeros, so that the model begins as it is.
 * `init_lora_weights` may ask for "gaussian" (A normal, of deviation 1/r), or be false (B drawn as A is).
 * With an adapter, its values, widened to f32.
 */
export async function initialLowRank(
  parameter: Parameter,
  use: { which: "a" | "b"; target: LoraTarget },
  { seed, init, adapter }: { seed: number; init: boolean | string; adapter: Adapter | undefined },
): Promise<Values> {
  if (adapter) return adapterValues(parameter, adapter);
  const { which, target } = use;
  const drawn = hash32(seed, parameter.index);
  if (which === "a")
    return init === "gaussian" ? normal(1 / target.r, drawn) : uniform(1 / Math.sqrt(target.in), drawn);
  if (init === false) return uniform(1 / Math.sqrt(target.r), drawn);
  return (into) => void into.fill(0);
}

async function adapterValues({ name }: Parameter, { checkpoint }: Adapter): Promise<Values> {
  const entry = checkpoint.tensors.get(name);
  if (!entry) throw new CheckpointError("the adapter lacks this tensor", { tensor: name });
  const bytes = await readTensor(checkpoint, name);
  const at = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const value = valueIn(at, entry.dtype);
  return (into, first) => {
    for (let i = 0; i < into.length; i++) into[i] = value(first + i);
  };
}

/** Element `i` of values in a type. */
function valueIn(at: DataView, dtype: DType): (i: number) => number {
  if (dtype === "f32") return (i) => at.getFloat32(4 * i, true);
  if (dtype === "bf16") {
    const bits = new DataView(new ArrayBuffer(4));
    return (i) => {
      bits.setUint32(0, at.getUint16(2 * i, true) << 16);
      return bits.getFloat32(0);
    };
  }
  return (i) => halfToFloat(at.getUint16(2 * i, true));
}

/** IEEE 754 binary16. */
function halfToFloat(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 0x1f;
  const fraction = half & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/**
 * Writes a parameter's values into each of some regions, as many at a time as fit into the host memory, so that other work has
 * its turn in between.
 */
export async function writeValues(
  regions: readonly Region[],
  elements: number,
  values: Values,
  host: NativeBuffer,
): Promise<void> {
  const most = Math.floor(host.size / 4);
  for (let first = 0; first < elements; first += most) {
    if (first > 0) await new Promise((resolve) => setImmediate(resolve));
    const count = Math.min(most, elements - first);
    values(new Float32Array(host.view(0, count * 4)), first);
    for (const region of regions) await region.write(host, 0, first * 4, count * 4);
  }
}
