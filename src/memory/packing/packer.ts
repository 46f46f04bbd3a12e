// Packs a bf16 matrix of any size to 12 bits an element, reading it twice a block at a time. Reading it is the caller's.
import { CheckpointError, ConfigError } from "../../base/errors.ts";
import { WASM_PAGE } from "../wasm-pages.ts";
import {
  CODES,
  checkElements,
  decodeHeader,
  encodeHeader,
  GROUP,
  GROUP_BF16_BYTES,
  GROUP_BYTES,
  isWorthwhile,
  packedBytes,
} from "./format.ts";
import { type Kernels, type OpenedKernels, openKernels } from "./kernels.ts";

/** Elements that one call of the loops takes: little enough for the processor's second cache. */
const BLOCK = 65_536;
const EXPONENTS = 256;
/** Exponents are counted in as many tables, see bf16-12.wat. */
const COUNT_LANES = 4;

/** What is where in the loops' memory, bytes. */
const COUNTS = 0;
const TABLE = COUNTS + COUNT_LANES * EXPONENTS * 4;
const INDICES = TABLE + CODES;
const VALUES = INDICES + BLOCK * 4;
const SOURCE = VALUES + BLOCK * 2;
const PACKED = SOURCE + BLOCK * 2;
const END = PACKED + (BLOCK / GROUP) * GROUP_BYTES;

/** The memory of a packer that is done: address space for a module is scarce, and its memory goes only with the garbage. */
let spare: OpenedKernels | undefined;

/**
 * Packs one matrix in two passes over its bytes, in blocks of any size:
 * `count` all of it, `begin`, `pack` all of it again, `finish`. What `begin`, `pack` and `finish` return,
 * one after the other, is the packed matrix. Needs under a MiB, and six bytes for each exception. The second pass can be
 * another packer's, see {@link resume}.
 */
export class Packer {
  readonly elements: number;
  readonly #opened: OpenedKernels;
  readonly #kernels: Kernels;
  readonly #bytes: Uint8Array;
  readonly #buffer: ArrayBuffer;
  #phase: "counting" | "packing" | "finished" = "counting";
  /** Bytes of this pass so far, and how many of them wait in SOURCE for the rest of their group. */
  #fed = 0;
  #waiting = 0;
  #table: Uint8Array = new Uint8Array(CODES);
  #indices = new Uint32Array(0);
  #values = new Uint16Array(0);
  #found = 0;
  /** Elements packed so far. */
  #packed = 0;

  /** Throws ConfigError for a number of elements that the format has no room for. */
  constructor(elements: number) {
    checkElements(elements);
    this.elements = elements;
    this.#opened = spare ?? openKernels(Math.ceil(END / WASM_PAGE));
    spare = undefined;
    const { buffer, kernels } = this.#opened;
    this.#kernels = kernels;
    this.#buffer = buffer;
    this.#bytes = new Uint8Array(buffer);
    this.#bytes.fill(0, COUNTS, TABLE);
  }

  /** Leaves its memory to the next packer; it must not be used any more. */
  dispose(): void {
    spare = this.#opened;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** A packer at the start of its second pass, from what another's `begin` returned. */
  static resume(header: Uint8Array): Packer {
    const { elements, exceptions, table } = decodeHeader(header);
    const packer = new Packer(elements);
    packer.#startPacking(table, exceptions);
    return packer;
  }

  /** Takes the next bytes of the first pass. Throws CheckpointError if there are more than the matrix has. */
  count(block: Uint8Array): void {
    this.#expect("counting");
    this.#feed(block, (bytes) => this.#kernels.count(SOURCE, bytes / 8, COUNTS));
  }

  /**
   * Ends the first pass, settles the table of exponents, and returns the header of the packed matrix.
   * Throws CheckpointError if the pass had fewer bytes than the matrix.
   */
  begin(): Uint8Array {
    this.#expect("counting");
    this.#expectAll();
    const filling = this.#fillGroup(0);
    if (filling > 0) this.#kernels.count(SOURCE, GROUP / 4, COUNTS);
    const lanes = new Uint32Array(this.#buffer, COUNTS, COUNT_LANES * EXPONENTS);
    const counts = new Array<number>(EXPONENTS).fill(0);
    for (let i = 0; i < lanes.length; i++) counts[i % EXPONENTS]! += lanes[i]!;
    counts[0]! -= filling;

    const table = mostFrequent(counts);
    let coded = 0;
    for (const exponent of table) coded += counts[exponent]!;
    this.#startPacking(table, this.elements - coded);
    return encodeHeader({ elements: this.elements, exceptions: this.exceptions, table });
  }

  #startPacking(table: Uint8Array, exceptions: number): void {
    this.#table = table;
    this.#bytes.set(table, TABLE);
    this.#indices = new Uint32Array(exceptions);
    this.#values = new Uint16Array(exceptions);
    this.#phase = "packing";
    this.#fed = 0;
    this.#waiting = 0;
  }

  /** Elements whose exponent is not in the table. Known after `begin`. */
  get exceptions(): number {
    return this.#indices.length;
  }

  /** Size of the packed matrix. Known after `begin`. */
  get packedBytes(): number {
    return packedBytes(this.elements, this.exceptions);
  }

  /** Whether the packed matrix is at most 80 % of the matrix; otherwise there is no use in a second pass. Known after `begin`. */
  get worthwhile(): boolean {
    return isWorthwhile(this.elements, this.exceptions);
  }

  /**
   * Takes the next bytes of the second pass, and returns the groups they complete, which may be none.
   * Throws CheckpointError if the matrix is not the one of the first pass.
   */
  pack(block: Uint8Array): Uint8Array {
    this.#expect("packing");
    const groups = Math.floor((this.#waiting + block.length) / GROUP_BF16_BYTES);
    const packed = new Uint8Array(groups * GROUP_BYTES);
    let at = 0;
    this.#feed(block, (bytes) => {
      const part = this.#packGroups(bytes / GROUP_BF16_BYTES);
      packed.set(part, at);
      at += part.length;
    });
    return packed;
  }

  /**
   * Ends the second pass, and returns what is left: the last group where it is not full, and the exceptions.
   * Throws CheckpointError if the matrix is not the one of the first pass.
   */
  finish(): Uint8Array {
    this.#expect("packing");
    this.#expectAll();
    const exponent = this.#table[0]!;
    // Elements with code 0, mantissa 0 and sign 0 come out as zeros.
    const group = this.#fillGroup(exponent << 7) > 0 ? this.#packGroups(1) : new Uint8Array(0);
    if (this.#found !== this.exceptions) throw this.#changed();
    this.#phase = "finished";
    const indices = new Uint8Array(this.#indices.buffer);
    const values = new Uint8Array(this.#values.buffer);
    const rest = new Uint8Array(group.length + indices.length + values.length);
    rest.set(group);
    rest.set(indices, group.length);
    rest.set(values, group.length + indices.length);
    return rest;
  }

  /** Brings bytes into SOURCE and has `run` work on the whole groups there, until less than a group waits. */
  #feed(block: Uint8Array, run: (bytes: number) => void): void {
    if (this.#fed + block.length > this.elements * 2) {
      throw new CheckpointError(
        `a matrix of ${this.elements} bf16 elements has ${this.elements * 2} bytes, ${this.#fed + block.length} came; read it again`,
      );
    }
    this.#fed += block.length;
    for (let at = 0; at < block.length; ) {
      const taken = Math.min(BLOCK * 2 - this.#waiting, block.length - at);
      this.#bytes.set(block.subarray(at, at + taken), SOURCE + this.#waiting);
      at += taken;
      this.#waiting += taken;
      const left = this.#waiting % GROUP_BF16_BYTES;
      const whole = this.#waiting - left;
      if (whole === 0) continue;
      run(whole);
      this.#bytes.copyWithin(SOURCE, SOURCE + whole, SOURCE + whole + left);
      this.#waiting = left;
    }
  }

  /** Completes the group that waits with elements of these bits, and says how many it took; 0 where none waits. */
  #fillGroup(bits: number): number {
    if (this.#waiting === 0) return 0;
    const view = new DataView(this.#buffer, SOURCE, GROUP_BF16_BYTES);
    for (let at = this.#waiting; at < GROUP_BF16_BYTES; at += 2) view.setUint16(at, bits, true);
    return (GROUP_BF16_BYTES - this.#waiting) / 2;
  }

  /** Packs groups of SOURCE and keeps their exceptions. The bytes are good until the next call. */
  #packGroups(groups: number): Uint8Array {
    const count = this.#kernels.pack(SOURCE, groups, PACKED, TABLE, INDICES, VALUES);
    if (this.#found + count > this.exceptions) throw this.#changed();
    const indices = new Uint32Array(this.#buffer, INDICES, count);
    for (let i = 0; i < count; i++) this.#indices[this.#found + i] = this.#packed + indices[i]!;
    this.#values.set(new Uint16Array(this.#buffer, VALUES, count), this.#found);
    this.#found += count;
    this.#packed += groups * GROUP;
    return this.#bytes.subarray(PACKED, PACKED + groups * GROUP_BYTES);
  }

  #expect(phase: "counting" | "packing"): void {
    if (this.#phase !== phase)
      throw new Error(`the packer is ${this.#phase}, it was asked to go on ${phase}`);
  }

  #expectAll(): void {
    if (this.#fed !== this.elements * 2) {
      throw new CheckpointError(
        `a matrix of ${this.elements} bf16 elements has ${this.elements * 2} bytes, only ${this.#fed} came; read it again`,
      );
    }
  }

  #changed(): CheckpointError {
    return new CheckpointError(
      `the matrix changed between its two readings: it had ${this.exceptions} exceptions in the first`,
    );
  }
}

/**
 * Packs bf16 elements. Undefined where the result would be more than 80 % of `source`.
 * Throws ConfigError if `source` is not a whole number of elements.
 */
export function packBf16(source: Uint8Array): Uint8Array | undefined {
  if (source.length % 2 !== 0)
    throw new ConfigError(`bf16 elements have 2 bytes each, ${source.length} were given`);
  using packer = new Packer(source.length / 2);
  packer.count(source);
  const header = packer.begin();
  if (!packer.worthwhile) return undefined;
  const packed = new Uint8Array(packer.packedBytes);
  let at = 0;
  const append = (part: Uint8Array) => {
    packed.set(part, at);
    at += part.length;
  };
  append(header);
  for (let from = 0; from < source.length; from += BLOCK * 2) {
    append(packer.pack(source.subarray(from, from + BLOCK * 2)));
  }
  append(packer.finish());
  return packed;
}

/** The 16 most frequent exponents, ascending. They are distinct, those that never occur filling up where needed. */
function mostFrequent(counts: readonly number[]): Uint8Array {
  const order = counts.map((_, exponent) => exponent).sort((a, b) => counts[b]! - counts[a]! || a - b);
  return Uint8Array.from(order.slice(0, CODES)).sort();
}
