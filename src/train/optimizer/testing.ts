// States and gradients for tests of the optimizer. Not for the program.
import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import { Device, findDevice } from "../../backend/ggml/device.ts";
import type { FloatDType } from "../../backend/ggml/dtypes.ts";
import type { Store } from "../../memory/store.ts";
import { hostBytes } from "../../memory/stores/testing.ts";
import type { UpdateRule } from "./rules/rule.ts";
import { allocateState, type ParameterState, regionsOf } from "./state.ts";
import type { Gradient } from "./updater.ts";

export function openCpu(): Device {
  return Device.open(findDevice("cpu"), { threads: 2 });
}

/** Numbers in (-1, 1), the same for the same seed (mulberry32). */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 31 - 1;
  };
}

/** Values of very different sizes, as gradients are. */
export function gradientValues(elements: number, seed: number): Float32Array {
  const next = random(seed);
  return Float32Array.from({ length: elements }, (_, i) => next() * 10 ** ((i % 7) - 5));
}

export function weightValues(elements: number, seed = 1): Float32Array {
  const next = random(seed);
  return Float32Array.from({ length: elements }, () => next());
}

/** A gradient in host memory; dispose its buffer. */
export function hostGradient(values: Float32Array): Gradient {
  return {
    buffer: hostBytes(new Uint8Array(values.buffer, values.byteOffset, values.byteLength)),
    offset: 0,
  };
}

/** A state with its master copy written. */
export async function makeState(
  rule: UpdateRule,
  weights: Float32Array,
  stores: { master: Store; moments?: Store; working?: { store: Store; dtype: FloatDType } | undefined },
): Promise<ParameterState> {
  const { master, moments = master, working } = stores;
  const state = await allocateState("model.norm.weight", weights.length, rule, { master, moments, working });
  using values = hostGradient(weights).buffer;
  await state.master.write(values, 0, 0, weights.byteLength);
  return state;
}

/** The bytes of every region, master copy first. */
export async function allBytes(state: ParameterState): Promise<Uint8Array[]> {
  const found: Uint8Array[] = [];
  for (const region of regionsOf(state)) {
    using memory: NativeBuffer = hostBytes(region.bytes);
    await region.read(memory, 0, 0, region.bytes);
    found.push(new Uint8Array(memory.view(0, region.bytes)).slice());
  }
  return found;
}

/** Whether two states hold the same bytes: much faster to say than an expectation of equal elements. */
export function sameBytes(a: readonly Uint8Array[], b: readonly Uint8Array[]): boolean {
  return a.length === b.length && a.every((bytes, i) => Buffer.compare(bytes, b[i] as Uint8Array) === 0);
}

/** The f32 values of the first `elements` of a region's bytes. */
export function floats(bytes: Uint8Array | undefined, elements: number): Float32Array {
  if (!bytes) throw new Error("there is no such region");
  return new Float32Array(bytes.slice().buffer, 0, elements);
}

/** The largest difference between two arrays, and the largest value of the second. */
export function difference(actual: ArrayLike<number>, expected: ArrayLike<number>) {
  let largest = 0;
  let scale = 0;
  for (let i = 0; i < expected.length; i++) {
    const apart = Math.abs((actual[i] as number) - (expected[i] as number));
    largest = Math.max(largest, apart); // NaN, once there is one
    scale = Math.max(scale, Math.abs(expected[i] as number));
  }
  return { largest, scale };
}
