// Fields of native tensor headers that may change between two runs of one graph: where data lies and how many rows there
// are. Everything else of a header is as ggml made it.

import { disposeAll } from "../../base/async/cleanup.ts";
import type { Device } from "./device.ts";
import { HeaderArena } from "./graph.ts";
import { library } from "./library.ts";
import { ffi } from "./loading/ffi.ts";
import type { Tensor } from "./tensor.ts";

/** Bytes from the start of `struct ggml_tensor` (ggml.h of ggml 0.25, 64-bit platforms). */
const NE1 = 24;
const DATA = 248;

let known: boolean | undefined;

/**
 * Whether graphs of a device can be changed by {@link setViewRows} and {@link setData}. GPU backends keep more of a graph
 * than its headers; and the layout of headers is no promise of ggml's, so it is tried once.
 */
export function headersCanChange(device: Device): boolean {
  if (!device.onHost) return false;
  known ??= layoutIsKnown(device);
  return known;
}

function layoutIsKnown(device: Device): boolean {
  const arena = new HeaderArena(1);
  const buffer = device.memory.allocate(4096);
  try {
    const tensor = arena.bind(buffer, 64, "f32", [3, 5, 7]);
    const ne = [0, 1, 2, 3].map((i) => Number(ffi().decode(tensor.handle, NE1 - 8 + i * 8, "int64_t")));
    return ne.join() === "3,5,7,1" && ffi().decode(tensor.handle, DATA, "void *") === dataOf(tensor);
  } finally {
    disposeAll([buffer, arena]);
  }
}

/** The address of a tensor's first element. */
export function dataOf(tensor: Tensor): bigint {
  return library().native.ggml_get_data(tensor.handle);
}

/** Changes dimension 1 of a view, strides as they were. The caller knows that the rows are there. */
export function setViewRows(view: Tensor, rows: number): void {
  ffi().encode(view.handle, NE1, "int64_t", rows);
}

/** Changes where a tensor lies. The caller knows that all of it fits there. */
export function setData(tensor: Tensor, address: bigint): void {
  ffi().encode(tensor.handle, DATA, "void *", address);
}
