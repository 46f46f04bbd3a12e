// Copies bytes between buffers of one device, now: nothing may be computing on either.
import type { NativeBuffer } from "./buffer.ts";
import { HeaderArena } from "./graph.ts";
import { library } from "./library.ts";

/** Bytes [at, at + bytes) of one buffer. */
export interface ByteRange {
  readonly buffer: NativeBuffer;
  readonly at: number;
}

/** Moves bytes within a buffer; the two ranges may overlap. */
export function moveWithin(buffer: NativeBuffer, from: number, to: number, bytes: number): void {
  if (from === to) return;
  if (buffer.type.host) {
    buffer.bytes().copyWithin(to, from, from + bytes);
    return;
  }
  // Devices copy in any order: in pieces that do not overlap, from the end that is overwritten last.
  const piece = Math.min(bytes, Math.abs(from - to));
  const pieces = Math.ceil(bytes / piece);
  for (let i = 0; i < pieces; i++) {
    const first = (to < from ? i : pieces - 1 - i) * piece;
    const count = Math.min(piece, bytes - first);
    copyBytes({ buffer, at: from + first }, { buffer, at: to + first }, count);
  }
}

/** Copies `bytes` bytes; the two ranges must not overlap. */
export function copyBytes(from: ByteRange, to: ByteRange, bytes: number): void {
  if (bytes === 0) return;
  if (from.buffer.type.host && to.buffer.type.host) {
    to.buffer.bytes(to.at, bytes).set(from.buffer.bytes(from.at, bytes));
    return;
  }
  const headers = new HeaderArena(2);
  try {
    const source = headers.bind(from.buffer, from.at, "i8", [bytes]);
    const target = headers.bind(to.buffer, to.at, "i8", [bytes]);
    library().native.ggml_backend_tensor_copy(source.handle, target.handle);
  } finally {
    headers.dispose();
  }
}
