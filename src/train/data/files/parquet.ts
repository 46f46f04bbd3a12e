// One Parquet file (https://parquet.apache.org/docs/file-format), read a row group at a time and only the columns that
// rows are made of. Decoding is hyparquet's; here are bounds, the cache, and errors that name the file.
import { type FileHandle, open } from "node:fs/promises";
import type { FileMetaData } from "hyparquet";
import { ConfigError, SpillwayError, throwIfAborted, UnsupportedError } from "../../../base/errors.ts";
import { readExactly, readFailure } from "../../../formats/files/files.ts";
import { formatBytes } from "../../../memory/sizes.ts";
import { badRow, makesRows, parseRow, ROW_COLUMNS, ROW_KINDS, type Row, type RowProblem } from "../row.ts";
import { checkPages } from "./parquet-pages.ts";
import { type Converters, plainRow, type SchemaNode, takeAnnotations } from "./parquet-values.ts";
import { numbered, type RowFile, type RowGroup } from "./row-file.ts";
import { UnchangedFile } from "./unchanged.ts";

/** Decoded groups kept: the order of a shuffled epoch moves in windows of this size (order.ts). */
export const GROUP_CACHE_BYTES = 64 * 2 ** 20;
/** The largest row group that is decoded, bytes of the columns in use. */
const MAX_GROUP_BYTES = 512 * 2 ** 20;
/** The longest one. */
const MAX_GROUP_ROWS = 2 ** 22;

/** What is used of the libraries. Loaded on first use, so that those who have no such files do not wait for it. */
type Library = Awaited<ReturnType<typeof loadLibrary>>;

async function loadLibrary() {
  const [{ parquetMetadataAsync, parquetReadObjects, parquetSchema }, column, schema, { compressors }] =
    await Promise.all([
      import("hyparquet"),
      import("hyparquet/src/column.js"),
      import("hyparquet/src/schema.js"),
      import("hyparquet-compressors"),
    ]);
  const { parquetHeader } = column;
  const { getMaxDefinitionLevel, getMaxRepetitionLevel, getTreePath } = schema;
  return {
    ...{ parquetMetadataAsync, parquetReadObjects, parquetSchema },
    ...{ parquetHeader, getMaxDefinitionLevel, getMaxRepetitionLevel, getTreePath, compressors },
  };
}

/**
 * Opens the file and reads its footer; keeps it open until `close`.
 * Throws ConfigError if it is malformed or has no column rows are made of, UnsupportedError for a row group over 512 MiB,
 * IoError, AbortError.
 */
export async function openParquet(path: string, cache: GroupCache, signal?: AbortSignal): Promise<RowFile> {
  throwIfAborted(signal);
  const library = await loadLibrary();
  const handle = await open(path, "r").catch((error: unknown) => {
    throw readFailure(error, path);
  });
  try {
    const unchanged = new UnchangedFile(handle, path, await handle.stat());
    return await readFooter(library, new Bytes(handle, unchanged), cache);
  } catch (error) {
    await handle.close();
    throw readFailure(error, path);
  }
}

async function readFooter(library: Library, file: Bytes, cache: GroupCache): Promise<RowFile> {
  try {
    const metadata = await library.parquetMetadataAsync(file, { geoparquet: false });
    const converters = takeAnnotations(metadata);
    const columns = usedColumns(library, metadata, file.path);
    const groups = groupsOf(metadata, columns, file.path);
    return new ParquetFile(library, file, { metadata, converters, columns, groups }, cache);
  } catch (error) {
    throw malformed(error, file.path, "its footer");
  }
}

function usedColumns(library: Library, metadata: FileMetaData, path: string): string[] {
  const names = library.parquetSchema(metadata).children.map(({ element }) => element.name);
  const used = ROW_COLUMNS.filter((name) => names.includes(name));
  if (makesRows(used)) return used;
  throw new ConfigError(
    `${path}: has the columns ${names.slice(0, 16).join(", ") || "(none)"}; rows are made of ${ROW_KINDS}: rename the columns`,
  );
}

function groupsOf(metadata: FileMetaData, columns: readonly string[], path: string): RowGroup[] {
  return metadata.row_groups.map((group, i) => {
    const rows = Number(group.num_rows);
    let bytes = 0;
    for (const { meta_data: column } of group.columns) {
      if (column === undefined || columns.includes(column.path_in_schema[0] ?? ""))
        bytes += Number(column?.total_uncompressed_size ?? 0n);
    }
    if (!Number.isSafeInteger(rows) || rows < 0 || !Number.isSafeInteger(bytes) || bytes < 0) {
      throw new ConfigError(
        `${path}: row group ${i} claims ${rows} rows of ${bytes} bytes: the file is malformed`,
      );
    }
    if (bytes > MAX_GROUP_BYTES || rows > MAX_GROUP_ROWS) {
      throw new UnsupportedError(
        `${path}: row group ${i} is ${formatBytes(bytes)} in ${rows} rows; a group is decoded whole, up to ` +
          `${formatBytes(MAX_GROUP_BYTES)} and ${MAX_GROUP_ROWS} rows: write smaller ones (row_group_size in pyarrow)`,
      );
    }
    return { rows, bytes };
  });
}

/** What is known of the file before any of its rows. */
interface Footer {
  readonly metadata: FileMetaData;
  readonly converters: Converters;
  /** In use. */
  readonly columns: string[];
  readonly groups: readonly RowGroup[];
}

class ParquetFile implements RowFile {
  readonly path: string;
  readonly rows: number;
  readonly bytes: number;
  readonly unchanged: UnchangedFile;
  readonly groups: readonly RowGroup[];
  readonly unused: ReadonlySet<string>;
  readonly #library: Library;
  readonly #file: Bytes;
  readonly #metadata: FileMetaData;
  readonly #converters: Converters;
  readonly #schema: SchemaNode;
  readonly #columns: string[];
  readonly #cache: GroupCache;
  /** Number of the first row of each group. */
  readonly #starts: readonly number[];

  constructor(
    library: Library,
    file: Bytes,
    { metadata, converters, columns, groups }: Footer,
    cache: GroupCache,
  ) {
    this.#library = library;
    this.#file = file;
    this.#metadata = metadata;
    this.#converters = converters;
    this.#schema = library.parquetSchema(metadata);
    this.#columns = columns;
    this.#cache = cache;
    const names = this.#schema.children.map(({ element }) => element.name);
    this.unused = new Set(names.filter((name) => !columns.includes(name)));
    this.path = file.path;
    this.unchanged = file.unchanged;
    this.bytes = file.byteLength;
    this.groups = groups;
    const { starts, rows } = numbered(groups);
    this.#starts = starts;
    this.rows = rows;
  }

  async read(row: number): Promise<Row | RowProblem> {
    const group = this.#starts.findLastIndex((start) => start <= row);
    const start = this.#starts[group]!;
    const { rows, bytes } = this.groups[group]!;
    const decoded = await this.#cache.get(`${group} ${this.path}`, bytes, () =>
      this.#decode(group, start, rows),
    );
    return parseRow(decoded[row - start]);
  }

  async locate(row: number): Promise<string> {
    return `${this.path}: row ${row + 1}`;
  }

  async close(): Promise<void> {
    await this.#file.handle.close();
  }

  async #decode(group: number, start: number, rows: number): Promise<readonly unknown[]> {
    const { compressors } = this.#library;
    let decoded: readonly Record<string, unknown>[];
    try {
      await this.#check(group, rows);
      decoded = await this.#library.parquetReadObjects({
        file: this.#file,
        metadata: this.#metadata,
        columns: this.#columns,
        rowStart: start,
        rowEnd: start + rows,
        compressors,
        utf8: false, // bytes that are not annotated as text may be anything
        parsers: { stringFromBytes, timestampFromNanoseconds: (nanos) => nanos },
      });
    } catch (error) {
      throw malformed(error, this.path, `row group ${group}`);
    }
    if (decoded.length === rows) {
      return decoded.map((row) => plainRow(row, this.#schema, this.#converters));
    }
    throw badRow(this.path, `row group ${group} holds ${decoded.length} rows, the footer says ${rows}`);
  }

  /** Looks through the pages of the group's columns in use. The bytes are read twice; the second time they are in the page cache. */
  async #check(group: number, rows: number): Promise<void> {
    const { parquetSchema, getTreePath, getMaxRepetitionLevel, getMaxDefinitionLevel } = this.#library;
    const tree = parquetSchema(this.#metadata);
    for (const { meta_data: column } of this.#metadata.row_groups[group]!.columns) {
      if (column === undefined) throw new RangeError("the columns are in another file");
      if (!this.#columns.includes(column.path_in_schema[0] ?? "")) continue;
      const path = getTreePath(tree, column.path_in_schema);
      const start = Number(column.dictionary_page_offset || column.data_page_offset);
      const bytes = new Uint8Array(
        await this.#file.slice(start, start + Number(column.total_compressed_size)),
      );
      const levels = {
        maxRepetition: getMaxRepetitionLevel(path),
        maxDefinition: getMaxDefinitionLevel(path),
      };
      checkPages(bytes, { column, ...levels, rows, maxBytes: MAX_GROUP_BYTES }, this.#library);
    }
  }
}

/** Strings are UTF-8; another encoding would otherwise be learned as U+FFFD. */
function stringFromBytes(bytes: Uint8Array | undefined): string | undefined {
  return bytes && utf8.decode(bytes);
}
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function malformed(error: unknown, path: string, what: string): unknown {
  if (error instanceof SpillwayError) return error;
  const reason = error instanceof Error ? error.message : String(error);
  return new ConfigError(`${path}: ${what} cannot be read (${reason})`, { cause: error });
}

/** The file as hyparquet asks for it, with every range checked against the file: the numbers come from the file itself. */
class Bytes {
  readonly handle: FileHandle;
  readonly unchanged: UnchangedFile;
  readonly path: string;
  readonly byteLength: number;

  constructor(handle: FileHandle, unchanged: UnchangedFile) {
    this.handle = handle;
    this.unchanged = unchanged;
    this.path = unchanged.path;
    this.byteLength = unchanged.bytes;
  }

  async slice(start: number, end = this.byteLength): Promise<ArrayBuffer> {
    if (!(start >= 0 && start <= end && end <= this.byteLength)) {
      throw new RangeError(
        `bytes ${start} to ${end} of ${this.byteLength} are asked for: the file is cut short`,
      );
    }
    if (end - start > MAX_GROUP_BYTES) throw new RangeError(`a range of ${end - start} bytes is asked for`);
    const into = new Uint8Array(end - start);
    await readExactly(this.handle, into, start, this.path);
    return into.buffer;
  }
}

/** Decoded row groups of all files, the latest ones used, up to {@link GROUP_CACHE_BYTES} or one that is larger. */
export class GroupCache {
  readonly #kept = new Map<string, { readonly bytes: number; readonly rows: Promise<readonly unknown[]> }>();
  #bytes = 0;

  get(key: string, bytes: number, decode: () => Promise<readonly unknown[]>): Promise<readonly unknown[]> {
    const known = this.#kept.get(key);
    if (known !== undefined) {
      this.#kept.delete(key); // to the end: the map's order is that of use
      this.#kept.set(key, known);
      return known.rows;
    }
    for (const [oldest] of this.#kept) {
      if (this.#bytes + bytes <= GROUP_CACHE_BYTES) break;
      this.#drop(oldest);
    }
    const rows = decode();
    rows.catch(() => this.#drop(key)); // whoever asked gets the error; the next one tries again
    this.#kept.set(key, { bytes, rows });
    this.#bytes += bytes;
    return rows;
  }

  #drop(key: string): void {
    const entry = this.#kept.get(key);
    if (entry === undefined) return;
    this.#kept.delete(key);
    this.#bytes -= entry.bytes;
  }
}
