// Memory in which packed weights are read and turned into bf16, in place. Who uses which part of it is not its concern.
import { CheckpointError, ConfigError, LibraryError } from "../../base/errors.ts";
import { formatBytes } from "../sizes.ts";
import { MOST_WASM_PAGES, WASM_PAGE } from "../wasm-pages.ts";
import {
  decodeHeader,
  GROUP,
  GROUP_BF16_BYTES,
  GROUP_BYTES,
  HEADER_BYTES,
  type PackedHeader,
  packedBytes,
} from "./format.ts";
import { type Kernels, openKernels } from "./kernels.ts";

/** Groups copied in before they are unpacked: 96 KiB, which stay in a core's cache. */
const COPIED_GROUPS = 2048;
const COPY_PAGES = Math.ceil((COPIED_GROUPS * GROUP_BYTES) / WASM_PAGE);
/** Beside the room to copy to. */
const MAX_PAGES = MOST_WASM_PAGES - COPY_PAGES;

/** Exceptions, taken out of the packed bytes before those are overwritten. */
interface Exceptions {
  readonly indices: Uint32Array;
  readonly values: Uint16Array;
}

/** A fixed piece of memory, all of it the caller's, and the unpacking of bf16 weights within it. */
export class PackedMemory {
  /** The whole memory, zero at first. It begins at a page of the system and never moves. */
  readonly bytes: Uint8Array;
  /** Behind them: room for {@link COPIED_GROUPS}. */
  readonly #copied: Uint8Array;
  readonly #kernels: Kernels;

  /**
   * Takes `bytes`, rounded up to 64 KiB; the system gives them as they are first written, and takes them back when
   * neither this object nor `bytes` is referred to any more.
   * Throws ConfigError for more than 4 GiB less 192 KiB, LibraryError where the system has no address space for it.
   */
  constructor(bytes: number) {
    const pages = Math.ceil(bytes / WASM_PAGE);
    if (!(pages >= 1 && pages <= MAX_PAGES)) {
      throw new ConfigError(
        `memory for packed weights is 1 to ${MAX_PAGES * WASM_PAGE} bytes, not ${bytes}; use several, or do not pack`,
      );
    }
    try {
      const { buffer, kernels } = openKernels(pages + COPY_PAGES);
      this.bytes = new Uint8Array(buffer, 0, pages * WASM_PAGE);
      this.#copied = new Uint8Array(buffer, pages * WASM_PAGE, COPIED_GROUPS * GROUP_BYTES);
      this.#kernels = kernels;
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      const reason = `the system has no ${formatBytes(bytes)} of address space for packed weights (${error.message})`;
      throw new LibraryError(`${reason}; lift the limit on it (ulimit -v) or do not pack`, { cause: error });
    }
  }

  /**
   * Unpacks the matrix whose `packed` bytes are at `from` to `2 * elements` bytes at `to`; nothing is written beside
   * those two ranges. The ranges may overlap if the packed one ends at or after `to + 64 * ceil(elements / 32)`:
   * packed bytes at the end of a slot of `2 * elements + 62` bytes become the matrix at its start. They are lost then,
   * otherwise kept.
   * Throws CheckpointError where the packed bytes are damaged, and ConfigError where the ranges are not as said;
   * nothing is written then.
   */
  unpack(from: number, to: number, elements: number, packed: number): void {
    for (const _ of this.unpackInTurns(from, to, elements, packed, elements)) {
      // one turn is all there is
    }
  }

  /** As {@link unpack}, but gives way after every `turn` elements, rounded up to whole groups. */
  *unpackInTurns(
    from: number,
    to: number,
    elements: number,
    packed: number,
    turn: number,
  ): Generator<void, void> {
    this.#checkRange("packed bytes", from, packed);
    this.#checkRange("unpacked elements", to, elements * 2);
    const { table, exceptions } = examine(this.bytes.subarray(from, from + packed), elements);
    const groups = Math.ceil(elements / GROUP);
    const end = from + packed;
    const overlap = to < end && from < to + elements * 2;
    if (overlap && to + groups * GROUP_BF16_BYTES > end) {
      throw new ConfigError(
        `${elements} elements cannot be unpacked in place at ${to} from bytes that end at ${end}: ` +
          `those have to end at ${to + groups * GROUP_BF16_BYTES} or later`,
      );
    }
    const input = from + HEADER_BYTES;
    if (!overlap) {
      yield* this.#unpackRange(input, to, elements, table, turn);
    } else {
      // Writing gains 16 bytes on reading with each group. The last groups, which it would overtake because the
      // exceptions lie between them and the end, are first moved over those.
      const safe = Math.min(groups, Math.max(0, Math.floor((input - to) / 16) + 1));
      const moved = end - (groups - safe) * GROUP_BYTES;
      if (safe < groups) {
        this.bytes.copyWithin(moved, input + safe * GROUP_BYTES, input + groups * GROUP_BYTES);
      }
      const first = Math.min(elements, safe * GROUP);
      yield* this.#unpackRange(input, to, first, table, turn);
      yield* this.#unpackRange(moved, to + first * 2, elements - first, table, turn);
    }
    this.#putExceptions(exceptions, to, elements);
  }

  /**
   * Unpacks a matrix whose packed bytes are elsewhere, in turns as {@link unpackInTurns}; `packed` must stay as it is
   * until the last of them. Throws as that does.
   */
  *unpackFromInTurns(packed: Uint8Array, to: number, elements: number, turn: number): Generator<void, void> {
    this.#checkRange("unpacked elements", to, elements * 2);
    const { table, exceptions } = examine(packed, elements);
    const groups = Math.ceil(elements / GROUP);
    const step = Math.max(1, Math.ceil(turn / GROUP));
    for (let group = 0; group < groups; ) {
      const end = Math.min(groups, group + step);
      while (group < end) {
        const count = Math.min(COPIED_GROUPS, end - group);
        const first = HEADER_BYTES + group * GROUP_BYTES;
        this.#copied.set(packed.subarray(first, first + count * GROUP_BYTES));
        const left = Math.min(count * GROUP, elements - group * GROUP);
        this.#unpackGroups(this.#copied.byteOffset, to + group * GROUP_BF16_BYTES, left, table);
        group += count;
      }
      if (group < groups) yield;
    }
    this.#putExceptions(exceptions, to, elements);
  }

  #putExceptions({ indices, values }: Exceptions, to: number, elements: number): void {
    const output = new DataView(this.bytes.buffer, to, elements * 2);
    for (let i = 0; i < indices.length; i++) output.setUint16(indices[i]! * 2, values[i]!, true);
  }

  *#unpackRange(from: number, to: number, elements: number, table: Uint8Array, turn: number) {
    const step = Math.max(1, Math.ceil(turn / GROUP));
    for (let group = 0; group * GROUP < elements; group += step) {
      const count = Math.min(step * GROUP, elements - group * GROUP);
      this.#unpackGroups(from + group * GROUP_BYTES, to + group * GROUP_BF16_BYTES, count, table);
      if (group * GROUP + count < elements) yield;
    }
  }

  /** Unpacks elements from the groups at `from`; only the last of them may be less than full. */
  #unpackGroups(from: number, to: number, elements: number, table: Uint8Array): void {
    const groups = Math.floor(elements / GROUP);
    const codes = new DataView(table.buffer, table.byteOffset);
    this.#kernels.unpack(from, to, groups, codes.getBigUint64(0, true), codes.getBigUint64(8, true));
    const left = elements % GROUP;
    if (left === 0) return;
    // The loop writes whole groups; the rest of this one is not ours to write.
    const group = new Uint8Array(
      this.bytes.buffer.slice(from + groups * GROUP_BYTES, from + (groups + 1) * GROUP_BYTES),
    );
    const output = new DataView(this.bytes.buffer, to + groups * GROUP_BF16_BYTES, left * 2);
    for (let i = 0; i < left; i++) {
      const pair = group[GROUP + (i % 16)]!;
      const exponent = table[i < 16 ? pair & 15 : pair >> 4]!;
      const rest = group[i]!; // mantissa << 1 | sign
      output.setUint16(i * 2, ((rest & 1) << 15) | (exponent << 7) | (rest >> 1), true);
    }
  }

  #checkRange(what: string, start: number, bytes: number): void {
    const valid = Number.isSafeInteger(start) && Number.isSafeInteger(bytes) && start >= 0 && bytes >= 0;
    if (!valid || start + bytes > this.bytes.length) {
      throw new ConfigError(
        `${bytes} ${what} at ${start} are not within the ${this.bytes.length} bytes of memory`,
      );
    }
  }
}

/** The table and the exceptions of a packed matrix. Throws CheckpointError for what is not one of `elements`. */
function examine(packed: Uint8Array, elements: number): { table: Uint8Array; exceptions: Exceptions } {
  const header = decodeHeader(packed);
  if (header.elements !== elements) {
    throw new CheckpointError(`packed weights have ${header.elements} elements, ${elements} are expected`);
  }
  const size = packedBytes(elements, header.exceptions);
  if (size !== packed.length) {
    throw new CheckpointError(
      `packed weights are ${packed.length} bytes, their header says ${size}; the file is cut short or damaged`,
    );
  }
  return { table: header.table, exceptions: readExceptions(packed, header) };
}

/** Copies the exceptions out of packed bytes. Throws CheckpointError unless their indices ascend within the matrix. */
function readExceptions(packed: Uint8Array, { elements, exceptions }: PackedHeader): Exceptions {
  const start = packedBytes(elements, 0);
  const split = start + exceptions * 4;
  const indices = new Uint32Array(packed.slice(start, split).buffer);
  const values = new Uint16Array(packed.slice(split, split + exceptions * 2).buffer);
  let previous = -1;
  for (const index of indices) {
    if (index <= previous || index >= elements) {
      throw new CheckpointError(
        `packed weights are damaged: exception at element ${index} after ${previous}, of ${elements}`,
      );
    }
    previous = index;
  }
  return { indices, values };
}
