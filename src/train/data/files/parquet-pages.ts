// Looks through the pages of a Parquet column before they are decoded. The decoder believes counts and sizes: a damaged
// one makes it allocate without end, or go round for ever. Checks those; whether the values make sense shows in decoding.
import type { ColumnMetaData, Compressors, DataPageHeader, PageHeader } from "hyparquet";

/** Values of one column in one row group: more is a mistake, or an attempt on memory. */
const MAX_VALUES = 2 ** 24;

/** What the walk needs of the decoder's library, which is loaded on first use. */
export interface PageTools {
  parquetHeader(reader: { view: DataView; offset: number }): PageHeader;
  readonly compressors: Compressors;
}

export interface ColumnChunk {
  readonly column: Pick<ColumnMetaData, "codec" | "type">;
  /** From the schema: how often the value and what it is in may repeat, and may be absent. */
  readonly maxRepetition: number;
  readonly maxDefinition: number;
  readonly rows: number;
  /** Most bytes the pages may take when they are decompressed. */
  readonly maxBytes: number;
}

/**
 * Throws RangeError with what is wrong if the pages in `bytes` are not whole, do not add up to `rows`, or claim more than
 * they may. `bytes` begin with the first page's header.
 */
export function checkPages(bytes: Uint8Array, chunk: ColumnChunk, tools: PageTools): void {
  const reader = { view: viewOf(bytes), offset: 0 };
  let rows = 0;
  let values = 0;
  let decompressed = 0;
  while (rows < chunk.rows || (chunk.maxRepetition > 0 && reader.offset < bytes.length - 1)) {
    if (reader.offset >= bytes.length - 1) break;
    const header = tools.parquetHeader(reader);
    const begin = reader.offset;
    const end = begin + size(header.compressed_page_size, bytes.length - begin, "bytes of a page");
    decompressed += size(
      header.uncompressed_page_size,
      chunk.maxBytes - decompressed,
      "bytes of decompressed pages",
    );
    reader.offset = end;
    const body = bytes.subarray(begin, end);
    const { data_page_header: v1, data_page_header_v2: v2 } = header;
    if (header.type === "DICTIONARY_PAGE") {
      size(header.dictionary_page_header?.num_values, MAX_VALUES, "values of a dictionary");
    } else if (header.type === "DATA_PAGE" && v1 !== undefined) {
      values += size(v1.num_values, MAX_VALUES - values, "values of a column");
      rows += checkPage(v1, header, body, chunk, tools);
    } else if (header.type === "DATA_PAGE_V2" && v2 !== undefined) {
      values += size(v2.num_values, MAX_VALUES - values, "values of a column");
      rows += checkPageV2(v2, header, body, chunk, tools);
    }
  }
  if (rows !== chunk.rows) throw new RangeError(`its pages hold ${rows} rows of ${chunk.rows}`);
}

/** Levels and values are compressed together; each run of levels has its length in front. Returns the rows that begin in it. */
function checkPage(
  page: DataPageHeader,
  header: PageHeader,
  body: Uint8Array,
  chunk: ColumnChunk,
  tools: PageTools,
): number {
  const count = page.num_values;
  const view = viewOf(decompress(body, header.uncompressed_page_size, chunk, tools));
  let offset = 0;
  const levels = (max: number) => {
    const length = size(view.getUint32(offset, true), view.byteLength - offset - 4, "bytes of levels");
    const read = readLevels(view, offset + 4, bitsOf(max), count);
    offset += 4 + length;
    return read;
  };
  const rows = chunk.maxRepetition > 0 ? occurrences(levels(chunk.maxRepetition), 0) : count;
  const present =
    chunk.maxDefinition > 0 ? occurrences(levels(chunk.maxDefinition), chunk.maxDefinition) : count;
  checkIndices(page.encoding, view, offset, present, chunk);
  return rows;
}

type DataPageHeaderV2 = NonNullable<PageHeader["data_page_header_v2"]>;

/** Levels are before the values, not compressed, and their lengths in the header. Returns the rows that begin in it. */
function checkPageV2(
  page: DataPageHeaderV2,
  header: PageHeader,
  body: Uint8Array,
  chunk: ColumnChunk,
  tools: PageTools,
): number {
  const { num_values: count, repetition_levels_byte_length: r, definition_levels_byte_length: d } = page;
  size(r, body.length, "bytes of levels");
  size(d, body.length - r, "bytes of levels");
  const nulls = size(page.num_nulls, count, "nulls of a page");
  const view = viewOf(body);
  const rows =
    chunk.maxRepetition > 0 ? occurrences(readLevels(view, 0, bitsOf(chunk.maxRepetition), count), 0) : count;
  if (chunk.maxDefinition > 0) {
    const present = occurrences(readLevels(view, r, bitsOf(chunk.maxDefinition), count), chunk.maxDefinition);
    if (present !== count - nulls)
      throw new RangeError(`a page says it has ${nulls} nulls and has ${count - present}`);
  }
  let data = body.subarray(r + d);
  if (page.is_compressed !== false)
    data = decompress(data, header.uncompressed_page_size - r - d, chunk, tools);
  checkIndices(page.encoding, viewOf(data), 0, count - nulls, chunk);
  return rows;
}

/** Indices into a dictionary, and booleans, come in runs that say how long they are. */
function checkIndices(
  encoding: string,
  view: DataView,
  offset: number,
  count: number,
  chunk: ColumnChunk,
): void {
  if (encoding === "PLAIN_DICTIONARY" || encoding === "RLE_DICTIONARY") {
    if (offset < view.byteLength && view.getUint8(offset) > 0)
      checkRuns(view, offset + 1, view.getUint8(offset), count);
  } else if (encoding === "RLE" && chunk.column.type === "BOOLEAN") {
    checkRuns(view, offset + 4, 1, count);
  }
}

/** Called with the value and length of a run; of packed values one by one. */
type OnRun = (value: number, length: number) => void;

/** Walks runs until `count` values are seen (the format's "RLE / bit-packing hybrid"), each no longer than what is left. */
function checkRuns(view: DataView, from: number, width: number, count: number, onRun?: OnRun): void {
  let offset = from;
  let seen = 0;
  while (seen < count) {
    let header = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = view.getUint8(offset++);
      header += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) break;
      if (shift > 28) throw new RangeError("the length of a run is not a number");
    }
    const packed = header % 2 === 1;
    const length = Math.floor(header / 2) * (packed ? 8 : 1);
    // The last packed values fill up a group; writers differ in how large their groups are.
    if (length > count - seen + (packed ? 512 : 0))
      throw new RangeError(`a run of ${length} where ${count - seen} values are left`);
    if (packed && onRun !== undefined) unpack(view, offset, width, Math.min(length, count - seen), onRun);
    let value = 0;
    const bytes = packed ? (length / 8) * width : Math.ceil(width / 8);
    if (!packed)
      for (let i = 0; i < Math.min(4, bytes); i++) value += view.getUint8(offset + i) * 2 ** (8 * i);
    if (!packed) onRun?.(value, length);
    offset += bytes;
    seen += length;
  }
}

function unpack(view: DataView, offset: number, width: number, length: number, onRun: OnRun): void {
  for (let i = 0; i < length; i++) {
    let value = 0;
    for (let bit = 0; bit < width; bit++) {
      const at = i * width + bit;
      value |= ((view.getUint8(offset + (at >>> 3)) >>> (at & 7)) & 1) << bit;
    }
    onRun(value, 1);
  }
}

/** `count` levels: small numbers that say how deep a value stands in the schema. */
function readLevels(view: DataView, from: number, width: number, count: number): Uint8Array {
  const levels = new Uint8Array(count);
  let filled = 0;
  checkRuns(view, from, width, count, (value, length) => {
    levels.fill(value, filled, filled + length);
    filled += length;
  });
  return levels;
}

function occurrences(levels: Uint8Array, level: number): number {
  let found = 0;
  for (const one of levels) if (one === level) found++;
  return found;
}

function decompress(
  bytes: Uint8Array,
  length: number,
  { column }: ColumnChunk,
  { compressors }: PageTools,
): Uint8Array {
  if (column.codec === "UNCOMPRESSED") return bytes;
  const decompressor = compressors[column.codec];
  if (decompressor === undefined)
    throw new RangeError(`its compression ${column.codec} is not one that can be undone`);
  if (!(length >= 0)) throw new RangeError(`a page is ${length} bytes long without its levels`);
  return decompressor(bytes, length);
}

function bitsOf(max: number): number {
  return 32 - Math.clz32(max);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function size(value: number | undefined, most: number, what: string): number {
  if (value !== undefined && Number.isSafeInteger(value) && value >= 0 && value <= most) return value;
  throw new RangeError(`the number of ${what} is ${value}, at most ${most} is possible`);
}
