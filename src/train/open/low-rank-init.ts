// The first values of low-rank weights, or those of an adapter that goes on being trained.
import type { Adapter } from "../../adapters/index.ts";
import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import { CheckpointError } from "../../base/errors.ts";
import { readTensor } from "../../formats/index.ts";
import type { Region } from "../../memory/store.ts";
import { hash32 } from "../data/order.ts";
import type { Parameter, Parameters } from "./parameters.ts";

/** Uniform in [-bound, bound): xorshift32 (Marsaglia 2003) from a seed. */
function uniform(length: number, bound: number, seed: number): Float32Array {
  let x = seed | 1;
  return Float32Array.from({ length }, () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return ((x >>> 0) / 2 ** 31 - 1) * bound;
  });
}

/** Of mean 0 and standard deviation `deviation`: Box and Muller's pairs over the same generator. */
function normal(length: number, deviation: number, seed: number): Float32Array {
  const flat = uniform(2 * Math.ceil(length / 2), 1, seed);
  return Float32Array.from({ length }, (_, i) => {
    const [u, v] = [(flat[i & ~1] as number) / 2 + 0.5, flat[i | 1] as number];
    const radius = deviation * Math.sqrt(-2 * Math.log(1 - Math.min(u, 1 - 2 ** -24)));
    return radius * (i & 1 ? Math.sin(Math.PI * v) : Math.cos(Math.PI * v));
  });
}

/**
 * A uniform in +-1/sqrt(in), which is PEFT's kaiming_uniform with a = sqrt(5); B zeros, so that the model begins as it is.
 * `init_lora_weights` may ask for "gaussian" (A normal, of deviation 1/r), or be false (B drawn as A is).
 * With an adapter, its values, widened to f32.
 */
export async function initialLowRank(
  parameter: Parameter,
  { lowRank }: Parameters,
  { seed, init, adapter }: { seed: number; init: boolean | string; adapter: Adapter | undefined },
): Promise<Float32Array> {
  if (adapter) return adapterValues(parameter, adapter);
  const { index, elements } = parameter;
  const asA = lowRank.find(({ a }) => a === index)?.target;
  const asB = lowRank.find(({ b }) => b === index)?.target;
  if (asA && init === "gaussian") return normal(elements, 1 / asA.r, hash32(seed, index));
  if (asA) return uniform(elements, 1 / Math.sqrt(asA.in), hash32(seed, index));
  if (asB && init === false) return uniform(elements, 1 / Math.sqrt(asB.r), hash32(seed, index));
  return new Float32Array(elements);
}

async function adapterValues({ name, elements }: Parameter, { checkpoint }: Adapter): Promise<Float32Array> {
  const entry = checkpoint.tensors.get(name);
  if (!entry) throw new CheckpointError("the adapter lacks this tensor", { tensor: name });
  const bytes = await readTensor(checkpoint, name);
  const at = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  switch (entry.dtype) {
    case "f32":
      return Float32Array.from({ length: elements }, (_, i) => at.getFloat32(4 * i, true));
    case "bf16": {
      const bits = Uint32Array.from({ length: elements }, (_, i) => at.getUint16(2 * i, true) << 16);
      return new Float32Array(bits.buffer);
    }
    default:
      return Float32Array.from({ length: elements }, (_, i) => halfToFloat(at.getUint16(2 * i, true)));
  }
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

/** Writes values into a region through host memory of at least their size. */
export async function writeValues(region: Region, values: Float32Array, host: NativeBuffer): Promise<void> {
  const most = Math.floor(host.size / 4);
  for (let first = 0; first < values.length; first += most) {
    const part = values.subarray(first, Math.min(values.length, first + most));
    new Float32Array(host.view(0, part.length * 4)).set(part);
    await region.write(host, 0, first * 4, part.length * 4);
  }
}
