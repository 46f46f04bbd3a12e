// Host memory that WebAssembly of ours reaches from any thread: compiled loops run over it in place, as fast as it can be
// read, where other memory has to be copied to them piece by piece. For ggml and for reads it is memory like any other.
//
// It comes from WebAssembly memories of up to 4 GiB each, which grow as they are needed; the system is asked for pages when
// they are first written, and gets them back when a buffer is disposed.

import { type BufferType, NativeBuffer, PAGE } from "../backend/ggml/buffer.ts";
import { cpuMemory } from "../backend/ggml/device.ts";
import { ffi } from "../backend/ggml/loading/ffi.ts";
import { canGiveBack, giveBack, preferHugePages } from "../backend/ggml/system.ts";
import { hostBufferHandle } from "../backend/ggml/transfer.ts";
import type { LimitedSource } from "./allocate.ts";
import { FreeList } from "./free-list.ts";
import { MOST_WASM_PAGES, WASM_PAGE } from "./wasm-pages.ts";

/** Bytes at the start of every memory that are nobody's buffer: for scratch of the threads that run loops over it. */
export const RESERVED = 16 * 2 ** 20;

/**
 * Streams that are read side by side must not begin a power of two apart: they would fight for the same banks of the
 * memory and the same sets of the caches (AdamW over four such streams takes three times as long). Bytes.
 */
const GAP = 17 * PAGE;
/** Buffers from this size on get such a gap behind them. Bytes. */
const LARGE = 2 ** 20;

/** What a stream of `bytes` takes where others are laid beside it: whole pages, and the gap. */
export function streamBytes(bytes: number): number {
  return Math.ceil(Math.max(1, bytes) / PAGE) * PAGE + (bytes >= LARGE ? GAP : 0);
}

/** One WebAssembly memory. */
export class SharedSpace {
  readonly memory: WebAssembly.Memory;
  /** The address of its first byte; it never moves. */
  readonly base: bigint;
  #length: number;
  readonly #free = new FreeList();
  #buffers = 0;

  /** `bytes` beside those reserved. Throws RangeError where the system has no address space for it. */
  constructor(bytes = 0) {
    const initial = Math.ceil((RESERVED + bytes) / WASM_PAGE);
    this.memory = new WebAssembly.Memory({ initial, maximum: MOST_WASM_PAGES, shared: true });
    const all = new Uint8Array(this.memory.buffer);
    this.base = ffi().address(all);
    this.#length = all.length;
    if (all.length > RESERVED) this.#free.give(RESERVED, all.length);
  }

  get empty(): boolean {
    return this.#buffers === 0;
  }

  /** The offset of `bytes`, whole pages of the system; undefined where they do not fit. */
  take(bytes: number): number | undefined {
    const found = this.#free.take(bytes);
    if (found !== undefined) {
      this.#buffers++;
      return found;
    }
    const pages = Math.ceil((bytes - this.#free.tail(this.#length)) / WASM_PAGE);
    if (this.#length / WASM_PAGE + pages > MOST_WASM_PAGES) return undefined;
    try {
      this.memory.grow(pages);
    } catch (error) {
      if (error instanceof RangeError) return undefined;
      throw error;
    }
    this.#free.give(this.#length, this.#length + pages * WASM_PAGE);
    this.#length += pages * WASM_PAGE;
    return this.take(bytes);
  }

  /** Gives back what {@link take} gave. */
  give(offset: number, bytes: number): void {
    giveBack(this.base + BigInt(offset), bytes);
    this.#free.give(offset, offset + bytes);
    this.#buffers--;
  }

  /** The offset of a range of addresses that is in it as a whole. */
  offsetOf(address: bigint, bytes: number): number | undefined {
    if (address < this.base || address + BigInt(bytes) > this.base + BigInt(this.#length)) return undefined;
    return Number(address - this.base);
  }
}

/** Those with buffers in them, and one without for the next. */
const spaces: SharedSpace[] = [];
let plain: BufferType | undefined;

function plainMemory(): BufferType {
  plain ??= cpuMemory();
  return plain;
}

/** The space that holds a range of addresses, which need not be a buffer of it. */
export function sharedSpace(address: bigint, bytes: number): SharedSpace | undefined {
  return spaces.find((space) => space.offsetOf(address, bytes) !== undefined);
}

class SharedBuffer extends NativeBuffer {
  readonly #space: SharedSpace;
  readonly #offset: number;
  #bytes: number;

  constructor(space: SharedSpace, offset: number, size: number, bytes: number) {
    const address = space.base + BigInt(offset);
    const handle = hostBufferHandle(address, bytes);
    super(plainMemory(), handle, address, size);
    this.#space = space;
    this.#offset = offset;
    this.#bytes = bytes;
    preferHugePages(address, size);
  }

  override dispose(): void {
    super.dispose();
    if (this.#bytes === 0) return;
    this.#space.give(this.#offset, this.#bytes);
    this.#bytes = 0;
    if (this.#space.empty && spaces.length > 1) spaces.splice(spaces.indexOf(this.#space), 1);
  }
}

/** Gives buffers of such memory; plain ones where there is none: beyond 4 GiB, without address space, beside Linux. */
export const sharedMemory: LimitedSource = {
  get maxSize() {
    return plainMemory().maxSize;
  },
  allocate(size) {
    const bytes = streamBytes(size);
    for (const space of spaces) {
      const offset = space.take(bytes);
      if (offset !== undefined) return new SharedBuffer(space, offset, size, bytes);
    }
    // Elsewhere a page that was written once stays the process's.
    if (!canGiveBack() || bytes > MOST_WASM_PAGES * WASM_PAGE - RESERVED) return plainMemory().allocate(size);
    try {
      const space = new SharedSpace(bytes);
      spaces.push(space);
      return new SharedBuffer(space, space.take(bytes) as number, size, bytes);
    } catch (error) {
      if (error instanceof RangeError) return plainMemory().allocate(size);
      throw error;
    }
  },
};
