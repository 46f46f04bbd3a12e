// Reads and judges the header of one safetensors file. It never reads tensor data.
// Format: 8-byte little-endian length, JSON of that length, data. https://huggingface.co/docs/safetensors/index#format

import { DTYPES, type DType, type DTypeInfo, parseDType } from "../../backend/ggml/dtypes.ts";
import { CheckpointError, throwIfAborted } from "../../base/errors.ts";
import { shown } from "../../base/shown.ts";
import { readExactly, withFile } from "../files/files.ts";
import { jsonMembers } from "../files/json-members.ts";
import type { CheckpointFile, ForeignTensor, TensorEntry } from "../types.ts";

/** The length field in front of the header, bytes. */
export const LENGTH_FIELD = 8;
/** The largest header the format allows, bytes. */
export const MAX_HEADER = 100_000_000;
/** The member of the header that is not a tensor. */
export const METADATA_KEY = "__metadata__";
/** One tensor's description is some hundred bytes; more is not a description. */
const MAX_DESCRIPTION = 65_536;

/** What one safetensors file holds. */
export interface SafetensorsFile {
  readonly file: CheckpointFile;
  /** In the order of their bytes in the file. Ignored tensors are not among them. */
  readonly tensors: readonly Omit<TensorEntry, "file">[];
  /** Names of the tensors that `ignore` left out. */
  readonly ignored: readonly string[];
  /** Tensors of types that nothing here computes with, where `tolerant` keeps them. */
  readonly foreign: readonly Omit<ForeignTensor, "file">[];
  readonly metadata: Readonly<Record<string, string>>;
}

export interface ReadHeaderOptions {
  readonly signal?: AbortSignal | undefined;
  /** Tensors to leave out, such as the mask buffers of old checkpoints. Their dtype may be one we do not read. */
  readonly ignore?: readonly RegExp[] | undefined;
  /**
   * What a model might do without is no error yet: tensors of types that are not read, and tensors about which an index and
   * its shards disagree. Who knows what is needed judges them (checkSkeleton).
   */
  readonly tolerant?: boolean | undefined;
}

/**
 * Reads the header of the safetensors file at `path`; time and memory depend on the header alone.
 * Throws CheckpointError naming file and tensor when anything in it is wrong: see {@link parseHeader}.
 */
export async function readSafetensors(
  path: string,
  options: ReadHeaderOptions = {},
): Promise<SafetensorsFile> {
  throwIfAborted(options.signal);
  return withFile(path, async (handle, stats) => {
    const { size, mtimeMs } = stats;
    const bad = (problem: string) => new CheckpointError(problem, { file: path });
    if (size < LENGTH_FIELD) {
      throw bad(`is ${size} bytes, too short for a safetensors file: the download is incomplete`);
    }
    const field = new Uint8Array(LENGTH_FIELD);
    await readExactly(handle, field, 0, path);
    const length = new DataView(field.buffer).getBigUint64(0, true);
    if (length === 0n) throw bad("the header length is 0: this is not a safetensors file");
    if (length > BigInt(MAX_HEADER)) {
      throw bad(
        `the header length is ${length} bytes, the format allows ${MAX_HEADER}: this is not a safetensors file`,
      );
    }
    if (length > BigInt(size - LENGTH_FIELD)) {
      throw bad(
        `is ${size} bytes, its header alone needs ${LENGTH_FIELD + Number(length)}: the download is incomplete`,
      );
    }
    const header = new Uint8Array(Number(length));
    await readExactly(handle, header, LENGTH_FIELD, path);
    return { file: { path, size, mtimeMs }, ...parseHeader(header, path, size, options) };
  });
}

/**
 * Parses the JSON of a header and checks every statement in it against the format and the file's size.
 * `header` is the JSON alone, `size` the bytes of the whole file; offsets in the result count from its start.
 * Throws CheckpointError for text that is not the format's, repeated names, shapes that are not natural numbers,
 * unsupported dtypes, lengths that contradict shape and dtype, ranges that overlap or leave holes, and cut-off data.
 */
export function parseHeader(
  header: Uint8Array,
  path: string,
  size: number,
  options: ReadHeaderOptions = {},
): Omit<SafetensorsFile, "file"> {
  const bad = (problem: string, tensor?: string) =>
    new CheckpointError(problem, tensor === undefined ? { file: path } : { file: path, tensor });
  const text = decodeHeader(header, bad);
  const dataStart = LENGTH_FIELD + header.length;
  let metadata: Record<string, string> = {};
  const described: Described[] = [];
  for (const member of jsonMembers(text, (problem, key) => bad(`the header ${problem}`, key))) {
    // The reference takes null for no metadata.
    if (member.key === METADATA_KEY) metadata = member.text === "null" ? {} : parseMetadata(member.text, bad);
    else described.push(describe(member.key, member.text, options, bad));
  }
  // The reference orders ranges by begin, then end, and wants each to begin where the one before it ended.
  described.sort((a, b) => a.begin - b.begin || a.end - b.end);
  checkCoverage(described, dataStart, size, bad);

  const tensors: Omit<TensorEntry, "file">[] = [];
  const ignored: string[] = [];
  const foreign: Omit<ForeignTensor, "file">[] = [];
  for (const { name, dtype, foreignType: type, shape, begin, end } of described) {
    if (dtype !== undefined)
      tensors.push({ name, dtype, shape, offset: dataStart + begin, bytes: end - begin });
    else if (type !== undefined) foreign.push({ name, type, shape });
    else ignored.push(name);
  }
  return { tensors, ignored, foreign, metadata };
}

type Bad = (problem: string, tensor?: string) => CheckpointError;

interface Described {
  readonly name: string;
  /** undefined: foreign or ignored */
  readonly dtype: DType | undefined;
  readonly foreignType?: string;
  readonly shape: readonly number[];
  /** Bytes from the start of the data. */
  readonly begin: number;
  readonly end: number;
}

function decodeHeader(header: Uint8Array, bad: Bad): string {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(header);
  } catch {
    throw bad("the header is not UTF-8 text: this is not a safetensors file");
  }
  if (!text.startsWith("{")) {
    throw bad(
      `the header does not begin with "{" but with ${JSON.stringify(text.slice(0, 8))}: not a safetensors file`,
    );
  }
  return text;
}

function parseMetadata(text: string, bad: Bad): Record<string, string> {
  const entries: [string, string][] = [];
  for (const member of jsonMembers(text, (problem) => bad(`${METADATA_KEY} ${problem}`))) {
    const value = member.text.startsWith('"') ? parseJson(member.text) : undefined;
    if (typeof value !== "string")
      throw bad(`${METADATA_KEY} has a value that is not a string at "${member.key}"`);
    entries.push([member.key, value]);
  }
  return Object.fromEntries(entries);
}

/** Types of the format that nothing here computes with: bits an element. */
const FOREIGN_BITS: ReadonlyMap<string, number> = new Map([
  ...["BOOL", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"].map(
    (t) => [t, 8] as const,
  ),
  ...([
    ["F4", 4],
    ["F6_E2M3", 6],
    ["F6_E3M2", 6],
    ["U16", 16],
    ["U32", 32],
    ["U64", 64],
    ["C64", 64],
  ] as const),
]);

function describe(
  name: string,
  text: string,
  { ignore = [], tolerant }: ReadHeaderOptions,
  bad: Bad,
): Described {
  if (/\p{Surrogate}/u.test(name)) throw bad("the name holds half a surrogate pair", name);
  if (text.length > MAX_DESCRIPTION) {
    throw bad(`its description is ${text.length} characters, more than ${MAX_DESCRIPTION}`, name);
  }
  const fields = new Map<string, unknown>();
  for (const member of jsonMembers(text, (problem) => bad(`its description ${problem}`, name))) {
    const value = parseJson(member.text);
    if (value === undefined) throw bad(`"${member.key}" is not valid JSON`, name);
    fields.set(member.key, value);
  }
  const shape = fields.get("shape");
  if (!isNaturals(shape)) throw bad(`shape ${given(shape)} is not a list of natural numbers`, name);
  const offsets = fields.get("data_offsets");
  if (!isNaturals(offsets) || offsets.length !== 2) {
    throw bad(`data_offsets ${given(offsets)} is not a pair of natural numbers`, name);
  }
  const [begin, end] = offsets as [number, number];
  if (begin > end) throw bad(`data_offsets [${begin}, ${end}] are reversed`, name);
  const label = fields.get("dtype");
  if (typeof label !== "string") throw bad(`dtype ${given(label)} is not a string`, name);
  if (ignore.some((pattern) => matches(pattern, name))) return { name, dtype: undefined, shape, begin, end };

  const dtype = headerDType(label);
  const foreignBits = tolerant ? FOREIGN_BITS.get(label) : undefined;
  if (dtype === undefined && foreignBits === undefined) throw bad(`dtype ${label} is not supported`, name);
  const bytes = dtype ? tensorBytes(dtype, shape) : wholeBytes(foreignBits as number, shape);
  if (bytes === undefined) throw bad(`shape [${shape}] of ${label} overflows: more than 2^53 bytes`, name);
  if (bytes !== end - begin) {
    throw bad(
      `data_offsets [${begin}, ${end}] hold ${end - begin} bytes, shape [${shape}] of ${label} needs ${bytes}`,
      name,
    );
  }
  return { name, dtype, ...(dtype === undefined && { foreignType: label }), shape, begin, end };
}

/** Every byte of the data must belong to exactly one tensor. `ranges` are sorted. */
function checkCoverage(ranges: readonly Described[], dataStart: number, size: number, bad: Bad): void {
  const available = size - dataStart;
  let covered = 0;
  let previous = "";
  for (const { name, begin, end } of ranges) {
    if (begin < covered) {
      throw bad(
        `data_offsets [${begin}, ${end}] overlap ${covered - begin} bytes of tensor ${previous}, which ends at ${covered}`,
        name,
      );
    }
    // A range beyond the data is only wrong in itself if there is a gap before it; otherwise the data was cut off.
    if (begin > covered && begin > available) {
      throw bad(`data_offsets [${begin}, ${end}] lie outside the ${available} bytes of data`, name);
    }
    if (begin > covered) {
      throw bad(
        `data_offsets [${begin}, ${end}] leave a hole: bytes ${covered} to ${begin} belong to no tensor`,
        name,
      );
    }
    covered = end;
    previous = name;
  }
  if (covered > available) {
    throw bad(`is ${size} bytes, its header describes ${dataStart + covered}: the download is incomplete`);
  }
  if (covered < available) {
    throw bad(
      `is ${size} bytes, its header describes ${dataStart + covered}: ${available - covered} bytes at the end belong to no tensor`,
    );
  }
}

/** The type a header's dtype means. Stricter than {@link parseDType}: "float32" or "q4_k" are no safetensors names. */
function headerDType(label: string): DType | undefined {
  const dtype = parseDType(label);
  if (dtype === undefined) return undefined;
  const row: DTypeInfo = DTYPES[dtype];
  return row.safetensors === label ? dtype : undefined;
}

/** Bytes of a tensor whose elements are not in blocks; undefined past 2^53. */
export function tensorBytes(dtype: DType, shape: readonly number[]): number | undefined {
  let bytes = DTYPES[dtype].bytes as number;
  for (const dimension of shape) {
    bytes *= dimension;
    if (!Number.isSafeInteger(bytes)) return undefined;
  }
  return bytes;
}

/** Bytes of elements of `bits` bits; undefined past 2^53 bits, and where they do not fill whole bytes. */
function wholeBytes(bits: number, shape: readonly number[]): number | undefined {
  let total = bits;
  for (const dimension of shape) {
    total *= dimension;
    if (!Number.isSafeInteger(total)) return undefined;
  }
  return total % 8 === 0 ? total / 8 : undefined;
}

/** Whether a pattern matches, whatever state a global or sticky pattern was left in. */
export function matches(pattern: RegExp, name: string): boolean {
  pattern.lastIndex = 0;
  return pattern.test(name);
}

function isNaturals(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // no JSON text means undefined
  }
}

function given(value: unknown): string {
  return value === undefined ? "(missing)" : shown(value);
}
