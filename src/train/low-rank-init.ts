// The first values of low-rank weights, or those of an adapter that goes on being trained.
import type { Adapter } from "../adapters/index.ts";
import { readTensor } from "../checkpoint/index.ts";
import { CheckpointError } from "../errors.ts";
import type { NativeBuffer } from "../ggml/buffer.ts";
import type { Region } from "../memory/store.ts";
import { hash32 } from "./data/order.ts";
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

/**
 * A uniform in +-1/sqrt(in), which is PEFT's kaiming_uniform with a = sqrt(5); B zeros, so that the model begins as it is.
 * With an adapter, its values, widened to f32.
 */
export async function initialLowRank(
  parameter: Parameter,
  { lowRank }: Parameters,
  seed: number,
  adapter: Adapter | undefined,
): Promise<Float32Array> {
  if (adapter) return adapterValues(parameter, adapter);
  const use = lowRank.find(({ a }) => a === parameter.index);
  if (!use) return new Float32Array(parameter.elements);
  return uniform(parameter.elements, 1 / Math.sqrt(use.target.in), hash32(seed, parameter.index));
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
      throw new CheckpointError(`to go on training it, an adapter must be f32 or bf16, not ${entry.dtype}`, {
        tensor: name,
      });
  }
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
