// States to save and their contents, for the tests of this folder and the program that crash.test.ts kills; runs without
// a test runner. Not for the program.
import type { DType } from "../../backend/ggml/dtypes.ts";
import type { Region, Store } from "../../memory/store.ts";
import { hostBytes } from "../../memory/stores/testing.ts";
import type { StateTensor } from "./tensors.ts";

export interface Spec {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** Sizes that are whole blocks, odd, one byte, nothing, and more than one piece of staging. */
export const SPECS: readonly Spec[] = [
  { name: "h.0.weight", dtype: "f32", shape: [64, 32], bytes: 8192 },
  { name: "h.0.weight.exp_avg", dtype: "i8", shape: [2113], bytes: 2113 },
  { name: "h.0.norm", dtype: "f32", shape: [33], bytes: 132 },
  { name: "h.0.working", dtype: "bf16", shape: [1, 1], bytes: 2 },
  { name: "nothing", dtype: "f32", shape: [0, 7], bytes: 0 },
];
export const LARGE: readonly Spec[] = [
  { name: "large", dtype: "f32", shape: [2, 1_310_720], bytes: 10_485_760 },
  { name: "large and odd", dtype: "i8", shape: [5_000_001], bytes: 5_000_001 },
];

/** Bytes of a tensor in the state of a step: no two tensors, steps or blocks are alike. */
export function contents({ name, bytes }: Spec, step: number): Uint8Array {
  const salt = step * 31 + name.length * 7;
  const data = new Uint8Array(bytes);
  for (let i = 0; i < bytes; i++) data[i] = (i ^ (i >>> 8) ^ ((i >>> 16) * 31)) + salt;
  return data;
}

/** Tensors of a state in a store, each at an offset in its region where `offset` is given, with a step's contents. */
export async function stateIn(
  store: Store,
  { specs = SPECS, step, offset = 0 }: { specs?: readonly Spec[]; step?: number; offset?: number } = {},
): Promise<StateTensor[]> {
  const tensors: StateTensor[] = [];
  for (const spec of specs) {
    const region = await store.allocate(Math.max(1, spec.bytes + offset), spec.name);
    tensors.push({ ...spec, region, offset });
  }
  if (step !== undefined) await fill(tensors, step);
  return tensors;
}

/** Makes the state that of another step. */
export async function fill(tensors: readonly StateTensor[], step: number): Promise<void> {
  for (const tensor of tensors) {
    using memory = hostBytes(contents(tensor, step));
    await tensor.region.write(memory, 0, tensor.offset ?? 0, tensor.bytes);
  }
}

export async function bytesOfRegion(region: Region, offset: number, length: number): Promise<Uint8Array> {
  using memory = hostBytes(length);
  await region.read(memory, 0, offset, length);
  return new Uint8Array(memory.view(0, length)).slice();
}

/** More than one piece, so that a crash can fall between two. */
export const CRASH_SPECS: readonly Spec[] = [...SPECS, ...LARGE.slice(1)];
