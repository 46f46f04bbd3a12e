// Memory of one device, or pinned host memory a device copies from. Holds bytes; knows nothing of tensors' meaning.

import { DisposedError, LibraryError } from "../../base/errors.ts";
import { library } from "./library.ts";
import { ffi } from "./loading/ffi.ts";
import { preferHugePages } from "./system.ts";

let live = 0;

/** Buffers not yet disposed in this process; for leak tests. */
export function liveBufferCount(): number {
  return live;
}

/** Direct I/O wants addresses, offsets and lengths in multiples of this. Bytes. */
export const PAGE = 4096;

/** What a buffer is for; ggml keeps activations and weights apart on some backends. */
export const USAGE = { any: 0, weights: 1, compute: 2 } as const;

/** A native buffer type: where memory comes from. */
export class BufferType {
  readonly handle: bigint;
  readonly name: string;
  /** Whether the processor can read and write it at its address. */
  readonly host: boolean;
  /** Bytes. */
  readonly alignment: number;
  constructor(handle: bigint) {
    const { native } = library();
    this.handle = handle;
    this.name = native.ggml_backend_buft_name(handle);
    this.host = native.ggml_backend_buft_is_host(handle);
    this.alignment = Number(native.ggml_backend_buft_get_alignment(handle));
  }

  /** The most bytes one buffer of this type may have. */
  get maxSize(): number {
    return Number(library().native.ggml_backend_buft_get_max_size(this.handle));
  }

  /**
   * Allocates `size` bytes. Host buffers get a base that is a multiple of {@link PAGE}, so that direct reads can
   * land in them. Throws {@link LibraryError} when the allocation is refused.
   */
  allocate(size: number, usage: keyof typeof USAGE = "any"): NativeBuffer {
    const { native } = library();
    const slack = this.host ? PAGE : 0;
    const handle =
      size <= this.maxSize ? native.ggml_backend_buft_alloc_buffer(this.handle, size + slack) : null;
    if (!handle) throw new LibraryError(`${this.name}: an allocation of ${size} bytes was refused`);
    if (usage !== "any") native.ggml_backend_buffer_set_usage(handle, USAGE[usage]);
    const start = native.ggml_backend_buffer_get_base(handle);
    const base = this.host ? roundUp(start, BigInt(PAGE)) : start;
    if (this.host) preferHugePages(base, size);
    return new NativeBuffer(this, handle, base, size);
  }
}

/** An allocation. `dispose` may be called twice; every other use after it throws {@link DisposedError}. */
export class NativeBuffer {
  readonly type: BufferType;
  /** Bytes. */
  readonly size: number;
  #handle: bigint | undefined;
  readonly #base: bigint;
  /** The allocation this is a part of, which frees it. */
  readonly #whole: NativeBuffer | undefined;
  #view: ArrayBuffer | undefined;

  constructor(type: BufferType, handle: bigint, base: bigint, size: number, whole?: NativeBuffer) {
    this.type = type;
    this.size = size;
    this.#handle = handle;
    this.#base = base;
    this.#whole = whole;
    if (!whole) live++;
  }

  get handle(): bigint {
    if (this.#handle === undefined) throw new DisposedError("a buffer");
    return this.#whole ? this.#whole.handle : this.#handle;
  }

  /** Bytes [offset, offset + size) as a buffer of their own, usable until the whole one is disposed. */
  part(offset: number, size: number): NativeBuffer {
    if (!(offset >= 0 && size >= 0 && offset + size <= this.size)) {
      throw new LibraryError(`part of ${size} bytes at ${offset} is outside a buffer of ${this.size}`);
    }
    return new NativeBuffer(this.type, this.handle, this.address(offset), size, this);
  }

  /** The address of byte `offset`. */
  address(offset = 0): bigint {
    if (this.#handle === undefined) throw new DisposedError("a buffer");
    if (this.#whole) this.#whole.address(); // which must not be freed
    return this.#base + BigInt(offset);
  }

  /** The bytes themselves, not a copy; host buffers only. Must not be used after `dispose`. */
  view(offset = 0, length = this.size - offset): ArrayBuffer {
    if (!this.type.host) throw new LibraryError(`${this.type.name}: device memory cannot be viewed`);
    if (offset < 0 || length < 0 || offset + length > this.size) {
      throw new LibraryError(`view of ${length} bytes at ${offset} is outside a buffer of ${this.size}`);
    }
    return ffi().view(this.address(offset), length);
  }

  /**
   * The same bytes as {@link view}, as part of one view of the whole allocation: for what is done again and again, since
   * every view counts for the garbage collector as if it were memory of its own.
   */
  bytes(offset = 0, length = this.size - offset): Uint8Array {
    if (offset < 0 || length < 0 || offset + length > this.size) {
      throw new LibraryError(`${length} bytes at ${offset} are outside a buffer of ${this.size}`);
    }
    const first = this.address(offset);
    if (this.#whole) return this.#whole.bytes(Number(first - this.#whole.address()), length);
    this.#view ??= this.view();
    return new Uint8Array(this.#view, offset, length);
  }

  /** Fills the allocation with one byte value. */
  clear(value = 0): void {
    library().native.ggml_backend_buffer_clear(this.handle, value);
  }

  dispose(): void {
    if (this.#handle === undefined) return;
    if (!this.#whole) {
      library().native.ggml_backend_buffer_free(this.#handle);
      live--;
    }
    this.#handle = undefined;
    this.#view = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function roundUp(value: bigint, multiple: bigint): bigint {
  return ((value + multiple - 1n) / multiple) * multiple;
}
