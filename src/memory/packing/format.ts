// The format of bf16 weights packed to 12 bits without loss: sizes and header. The work on the elements is in bf16-12.wat.
//
// The exponents of a trained matrix take few values, so an element's 8-bit exponent becomes a 4-bit code into a table
// of 16; elements with another exponent (zeros and the smallest values, some in a hundred thousand) are exceptions.
// Little-endian, no alignment needed:
//   header      64 bytes: see HEADER
//   groups      48 bytes for 32 elements, the last one filled up with zeros:
//                 bytes 0-31   mantissa << 1 | sign, of elements 0-31
//                 bytes 32-47  code of element i | code of element 16 + i << 4
//   exceptions  u32 indices of elements, ascending, then as many u16: their bits. In its group an exception has code 0.
import { CheckpointError, ConfigError } from "../../base/errors.ts";

/** Byte offsets of the header's fields; the rest of it is zero. */
const HEADER = {
  magic: 0, // 8 bytes
  version: 8, // u32
  exceptions: 12, // u32
  elements: 16, // u64
  table: 24, // 16 bytes: the exponent of each code
  end: 40,
} as const;
const MAGIC = new TextEncoder().encode("SWB12\0\0\0");
const VERSION = 1;

export const HEADER_BYTES = 64;
/** Elements that are packed together. */
export const GROUP = 32;
/** A group's bytes, packed. */
export const GROUP_BYTES = 48;
/** A group's bytes as bf16. */
export const GROUP_BF16_BYTES = 64;
/** Codes, and so exponents in the table. */
export const CODES = 16;
/** Exceptions name their element with 32 bits. */
export const MAX_ELEMENTS = 2 ** 32 - 1;
const EXCEPTION_BYTES = 6;
/** Packing is worth its trouble where it leaves at most this part of the bytes. */
const WORTHWHILE = 0.8;

export interface PackedHeader {
  readonly elements: number;
  readonly exceptions: number;
  /** [CODES]: the exponent that each code stands for. */
  readonly table: Uint8Array;
}

/** Bytes of a packed matrix. */
export function packedBytes(elements: number, exceptions: number): number {
  return HEADER_BYTES + Math.ceil(elements / GROUP) * GROUP_BYTES + exceptions * EXCEPTION_BYTES;
}

/** Whether packing saves enough. 75 % of the bytes is the best there is, at one exception in 60 elements it is 80 %. */
export function isWorthwhile(elements: number, exceptions: number): boolean {
  return packedBytes(elements, exceptions) <= largestPacked(elements);
}

/** The most bytes that a matrix takes packed: one that would take more is left as it is. */
export function largestPacked(elements: number): number {
  return Math.floor(WORTHWHILE * 2 * elements);
}

/** Throws ConfigError for a number of elements that the format has no room for. */
export function checkElements(elements: number): void {
  if (!Number.isSafeInteger(elements) || elements < 0 || elements > MAX_ELEMENTS) {
    throw new ConfigError(`a packed matrix has 0 to ${MAX_ELEMENTS} elements, not ${elements}`);
  }
}

/** [HEADER_BYTES] */
export function encodeHeader({ elements, exceptions, table }: PackedHeader): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(MAGIC, HEADER.magic);
  view.setUint32(HEADER.version, VERSION, true);
  view.setUint32(HEADER.exceptions, exceptions, true);
  view.setBigUint64(HEADER.elements, BigInt(elements), true);
  bytes.set(table, HEADER.table);
  return bytes;
}

/** Reads the header at the start of `bytes`. Throws CheckpointError when it is cut short or none that we write. */
export function decodeHeader(bytes: Uint8Array): PackedHeader {
  if (bytes.length < HEADER_BYTES) {
    throw new CheckpointError(
      `packed weights are cut short: ${bytes.length} bytes of a ${HEADER_BYTES}-byte header`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_BYTES);
  if (MAGIC.some((byte, i) => bytes[HEADER.magic + i] !== byte)) {
    throw new CheckpointError("these are not packed weights: they do not begin with SWB12");
  }
  const version = view.getUint32(HEADER.version, true);
  if (version !== VERSION) {
    throw new CheckpointError(`packed weights of version ${version}, this program reads version ${VERSION}`);
  }
  const exceptions = view.getUint32(HEADER.exceptions, true);
  const elements = view.getBigUint64(HEADER.elements, true);
  if (elements > BigInt(MAX_ELEMENTS) || BigInt(exceptions) > elements) {
    throw new CheckpointError(
      `the header of packed weights is damaged: ${exceptions} exceptions among ${elements} elements`,
    );
  }
  if (bytes.subarray(HEADER.end, HEADER_BYTES).some((byte) => byte !== 0)) {
    throw new CheckpointError("the header of packed weights is damaged: its end is not zero");
  }
  return {
    elements: Number(elements),
    exceptions,
    table: new Uint8Array(bytes.subarray(HEADER.table, HEADER.table + CODES)),
  };
}
