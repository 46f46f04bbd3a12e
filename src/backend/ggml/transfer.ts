// Bytes between host memory and tensors of any device, between buffers, and host memory that others own as a buffer. The addresses are their
// callers' to answer for; ranges within the tensor are checked here, because the library would end the process over them.
import { LibraryError } from "../../base/errors.ts";
import { NativeBuffer } from "./buffer.ts";
import { cpuMemory, type Device } from "./device.ts";
import { HeaderArena } from "./graph.ts";
import { library, onThread } from "./library.ts";
import { ffi } from "./loading/ffi.ts";
import type { Tensor } from "./tensor.ts";

/** Copies `bytes` bytes from host memory to the tensor's byte `at`, on a thread of the pool. */
export function upload(tensor: Tensor, from: bigint, bytes: number, at = 0): Promise<void> {
  check(tensor, at, bytes);
  return onThread(library().native.ggml_backend_tensor_set, tensor.handle, from, at, bytes);
}

/** As {@link upload}, at once: for a few bytes. */
export function uploadNow(tensor: Tensor, values: ArrayBufferView): void {
  check(tensor, 0, values.byteLength);
  library().native.ggml_backend_tensor_set(tensor.handle, values, 0, values.byteLength);
}

/** As {@link upload}, on the device's second stream where it has one, so that what computes goes on. */
export async function uploadBeside(
  device: Device,
  tensor: Tensor,
  from: bigint,
  bytes: number,
): Promise<void> {
  if (!device.asyncCopies) return upload(tensor, from, bytes);
  check(tensor, 0, bytes);
  const { native } = library();
  await onThread(native.ggml_backend_tensor_set_async, device.copyBackend, tensor.handle, from, 0, bytes);
  await onThread(native.ggml_backend_synchronize, device.copyBackend);
}

/** Copies `bytes` bytes from the tensor's byte `at` on to host memory, on a thread of the pool. */
export function download(
  to: bigint | ArrayBufferView,
  tensor: Tensor,
  at = 0,
  bytes = tensor.bytes - at,
): Promise<void> {
  check(tensor, at, bytes);
  const address = typeof to === "bigint" ? to : ffi().address(to);
  return onThread(library().native.ggml_backend_tensor_get, tensor.handle, address, at, bytes);
}

/** Rows of a tensor and where they go in host memory, in elements. */
export interface StridedRows {
  /** The first row that is copied, and how many. */
  readonly first: number;
  readonly count: number;
  /** Where the first element of the first row goes in `to`, and from one row's to the next. */
  readonly at: number;
  readonly stride: number;
}

/**
 * Copies rows of a contiguous f32 tensor [width, rows] into host memory in one go: on a thread of the pool, or at once where
 * the tensor is in host memory and they are few.
 */
export async function downloadRows(
  device: Device,
  to: Float32Array,
  tensor: Tensor,
  rows: StridedRows,
): Promise<void> {
  const { first, count, at, stride } = rows;
  const [width] = tensor.ne;
  const bytes = width * 4;
  check(tensor, first * bytes, count * bytes);
  if (count === 0) return;
  const end = at + (count - 1) * stride + width;
  if (at < 0 || (count > 1 && stride < width) || end > to.length)
    throw new LibraryError(`rows of ${tensor} up to element ${end} are outside host memory of ${to.length}`);
  const { native } = library();
  const address = ffi().address(to) + BigInt(at * 4);
  const range = [tensor.handle, address, first * bytes, bytes, count, bytes, stride * 4] as const;
  if (count * bytes <= AT_ONCE && device.onHost) native.ggml_backend_tensor_get_2d(...range);
  else await onThread(native.ggml_backend_tensor_get_2d, ...range);
}

/** Copied without keeping the event loop from other work for long: a tenth of a millisecond or so. Bytes. */
const AT_ONCE = 2 ** 20;

/** As {@link download}, at once: for a few bytes. Fills `to`. */
export function downloadNow(to: ArrayBufferView, tensor: Tensor, at = 0): void {
  check(tensor, at, to.byteLength);
  library().native.ggml_backend_tensor_get(tensor.handle, to, at, to.byteLength);
}

/** Sets all bytes of a tensor to zero, on a thread of the pool. */
export function zeroTensor(tensor: Tensor): Promise<void> {
  return onThread(library().native.ggml_backend_tensor_memset, tensor.handle, 0, 0, tensor.bytes);
}

/** Sets all bytes of an allocation to zero, on a thread of the pool. */
export function zeroBuffer(buffer: NativeBuffer): Promise<void> {
  return onThread(library().native.ggml_backend_buffer_clear, buffer.handle, 0);
}

/** The handle of a buffer over host memory that its caller keeps; the address must be a multiple of 32. */
export function hostBufferHandle(address: bigint, bytes: number): bigint {
  return library().native.ggml_backend_cpu_buffer_from_ptr(address, bytes);
}

/** Host memory that its caller keeps, or addresses that nothing touches, as a buffer. */
export function hostBuffer(address: bigint, bytes: number): NativeBuffer {
  return new NativeBuffer(cpuMemory(), hostBufferHandle(address, bytes), address, bytes);
}

function check(tensor: Tensor, at: number, bytes: number): void {
  if (at >= 0 && bytes >= 0 && at + bytes <= tensor.bytes) return;
  throw new LibraryError(`${bytes} bytes at ${at} are outside ${tensor}, which has ${tensor.bytes}`);
}

/** Bytes [at, at + bytes) of one buffer. */
export interface ByteRange {
  readonly buffer: NativeBuffer;
  readonly at: number;
}

/** Moves bytes within a buffer, now: nothing may be computing on it; the two ranges may overlap. */
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

/** Copies `bytes` bytes, now: nothing may be computing on either buffer; the two ranges must not overlap. */
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

/** Copies `bytes` bytes between buffers of two devices, one of which may be the CPU, on a thread of the pool. */
export async function copyAcross(from: ByteRange, to: ByteRange, bytes: number): Promise<void> {
  if (bytes === 0) return;
  const headers = new HeaderArena(2);
  try {
    const bind = ({ buffer, at }: ByteRange) => headers.bind(buffer, at, "i8", [bytes]);
    if (from.buffer.type.host) await upload(bind(to), from.buffer.address(from.at), bytes);
    else if (to.buffer.type.host) await download(to.buffer.address(to.at), bind(from), 0, bytes);
    else {
      const { native } = library();
      await onThread(native.ggml_backend_tensor_copy, bind(from).handle, bind(to).handle);
    }
  } finally {
    headers.dispose();
  }
}
