// The compiled loops of bf16-12.wat, bound to a memory. Like them it checks nothing: the callers do.
import { BF16_12_WASM } from "./bf16-12.wasm.ts";

/** The exported functions; addresses are bytes from the start of the memory. They are described in bf16-12.wat. */
export interface Kernels {
  unpack(from: number, to: number, groups: number, low: bigint, high: bigint): void;
  count(from: number, quads: number, counts: number): void;
  pack(from: number, groups: number, to: number, table: number, indices: number, values: number): number;
}

/** A memory, and the loops bound to it. */
export interface OpenedKernels {
  readonly buffer: ArrayBuffer;
  readonly kernels: Kernels;
}

let compiled: WebAssembly.Module | undefined;

/**
 * A memory of its own, zeroed and never moved, and the loops bound to it; both go when nothing refers to them any more.
 * Throws RangeError where the system has no memory for it.
 */
export function openKernels(pages: number): OpenedKernels {
  compiled ??= new WebAssembly.Module(Buffer.from(BF16_12_WASM, "base64"));
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  const instance = new WebAssembly.Instance(compiled, { host: { memory } });
  return { buffer: memory.buffer, kernels: instance.exports as Kernels };
}
