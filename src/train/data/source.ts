// The rows of a dataset, whatever files they are in: numbered from 0 across the files, read by number.
// Order, splitting and tokens are not decided here.

import { runAll, undoAfter } from "../../base/async/cleanup.ts";
import { ConfigError, DisposedError } from "../../base/errors.ts";
import { readExactly, withFile } from "../../formats/files/files.ts";
import { openJsonArray } from "./files/json-array.ts";
import { openJsonl } from "./files/jsonl.ts";
import { GroupCache, openParquet } from "./files/parquet.ts";
import { numbered, type RowFile, type RowGroup } from "./files/row-file.ts";
import { badRow, type Row, RowProblem } from "./row.ts";

/** The rows of all files. Close it when done. */
export interface RowSource extends AsyncDisposable {
  readonly rows: number;
  /** Of all files. */
  readonly bytes: number;
  /** As in {@link RowFile}. */
  readonly groups: readonly RowGroup[] | undefined;
  /** Throws ConfigError that names file and line if the row cannot be used, IoError. */
  read(row: number): Promise<Row>;
  /** The same, with what is wrong with the row instead of an error. */
  look(row: number): Promise<Row | RowProblem>;
  locate(row: number): Promise<string>;
  /** Columns of the rows read so far that nothing uses, by file. */
  readonly unused: ReadonlyMap<string, readonly string[]>;
  /** May be called twice. */
  close(): Promise<void>;
}

export interface OpenRowsOptions {
  /** Look at every row of JSONL files now, rather than when its turn comes. Default true. */
  readonly validate?: boolean | undefined;
  /** Longest row of JSONL files, bytes. Default 64 MiB. */
  readonly max_row_bytes?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

const MAX_ROW_BYTES = 64 * 2 ** 20;
/** A JavaScript string cannot be much longer than this. */
const LONGEST_ROW_BYTES = 256 * 2 ** 20;

/** First bytes that tell what a file is. Everything else is taken for JSONL, which says more about what is wrong. */
const MAGIC: readonly {
  readonly bytes: readonly number[];
  readonly format: string;
  readonly advice: string;
}[] = [
  { bytes: [0x50, 0x41, 0x52, 0x31], format: "parquet", advice: "" }, // PAR1
  { bytes: [0x1f, 0x8b], format: "compressed with gzip", advice: "unpack it first" },
  { bytes: [0x28, 0xb5, 0x2f, 0xfd], format: "compressed with zstd", advice: "unpack it first" },
  { bytes: [0x50, 0x4b, 0x03, 0x04], format: "a zip archive", advice: "unpack it first" },
  {
    ...{ bytes: [0x41, 0x52, 0x52, 0x4f, 0x57, 0x31], format: "an Arrow file" }, // ARROW1
    advice: "write it as Parquet (to_parquet in datasets)",
  },
  {
    ...{ bytes: [0xff, 0xff, 0xff, 0xff], format: "an Arrow stream, as save_to_disk of datasets writes it" },
    advice: "write it as Parquet (to_parquet)",
  },
];

/**
 * Opens JSONL, JSON (an array of objects) or Parquet files as one dataset: the first bytes say which, and Parquet does
 * not go with the others. Memory: 8 bytes a row of JSONL, 16 of JSON; of Parquet the footers, and row groups of 64 MiB or one that is larger.
 * Throws ConfigError that names the files and lines of rows that cannot be used, UnsupportedError, CheckpointError for
 * files that are not there, IoError, AbortError.
 */
export async function openDataRows(
  paths: string | readonly string[],
  options: OpenRowsOptions = {},
): Promise<RowSource> {
  const list = typeof paths === "string" ? [paths] : paths;
  const { validate = true, max_row_bytes = MAX_ROW_BYTES, signal } = options;
  if (list.length === 0) throw new ConfigError("no dataset: give one JSONL, JSON or Parquet file or more");
  if (!Number.isSafeInteger(max_row_bytes) || max_row_bytes < 1 || max_row_bytes > LONGEST_ROW_BYTES) {
    throw new ConfigError(
      `max_row_bytes is ${max_row_bytes}, expected a whole number up to ${LONGEST_ROW_BYTES}`,
    );
  }
  const files: RowFile[] = [];
  try {
    const cache = new GroupCache();
    for (const path of list) {
      switch (await formatOf(path)) {
        case "parquet":
          files.push(await openParquet(path, cache, signal));
          break;
        case "json":
          files.push(await openJsonArray(path, { max_row_bytes, validate, signal }));
          break;
        default:
          files.push(await openJsonl(path, { max_row_bytes, validate, signal }));
      }
    }
    return new Files(files);
  } catch (error) {
    return await undoAfter(
      error,
      files.map((file) => () => file.close()),
    );
  }
}

/** Text that is looked at for its first character. */
const HEAD_BYTES = 4096;

async function formatOf(path: string): Promise<"parquet" | "json" | "jsonl"> {
  const head = await withFile(path, async (handle, { size }) => {
    const bytes = new Uint8Array(Math.min(size, HEAD_BYTES));
    await readExactly(handle, bytes, 0, path);
    return bytes;
  });
  const known = MAGIC.find(({ bytes }) => bytes.every((byte, i) => head[i] === byte));
  if (known?.format === "parquet") return "parquet";
  if (known) throw new ConfigError(`${path}: is ${known.format}: ${known.advice}`);
  const separated = /\.([ct]sv)$/i.exec(path)?.[1];
  if (separated !== undefined) {
    throw new ConfigError(
      `${path}: is a table of ${separated.toUpperCase()}, whose values have no types: write it as JSON Lines or Parquet ` +
        "(pandas.read_csv(path).to_json(path, orient='records', lines=True))",
    );
  }
  const first = head.findIndex((byte, i) => !isSpace(byte) && !(i < BOM.length && byte === BOM[i]));
  return head[first] === 0x5b ? "json" : "jsonl";
}

const BOM = [0xef, 0xbb, 0xbf];
const isSpace = (byte: number) => byte === 0x20 || (byte >= 0x09 && byte <= 0x0d);

/** Files one after the other. */
class Files implements RowSource {
  readonly rows: number;
  readonly bytes: number;
  readonly groups: readonly RowGroup[] | undefined;
  readonly #files: readonly RowFile[];
  /** Number of the first row of each file. */
  readonly #starts: readonly number[];
  #open = true;

  constructor(files: readonly RowFile[]) {
    this.#files = files;
    const { starts, rows } = numbered(files);
    this.#starts = starts;
    this.rows = rows;
    this.bytes = files.reduce((sum, file) => sum + file.bytes, 0);
    const grouped = files.filter(({ groups }) => groups !== undefined);
    if (grouped.length > 0 && grouped.length < files.length) {
      const other = files.find(({ groups }) => groups === undefined)!;
      throw new ConfigError(`${grouped[0]!.path} is Parquet and ${other.path} is not: convert one of them`);
    }
    if (rows === 0) throw new ConfigError(`${files.map(({ path }) => path).join(", ")}: no rows in it`);
    this.groups = grouped.length > 0 ? files.flatMap(({ groups }) => groups ?? []) : undefined;
  }

  async read(row: number): Promise<Row> {
    const value = await this.look(row);
    if (value instanceof RowProblem) throw badRow(await this.locate(row), value.problem);
    return value;
  }

  async look(row: number): Promise<Row | RowProblem> {
    const { file, local } = this.#find(row);
    let value: Row | RowProblem;
    try {
      value = await file.read(local);
    } catch (error) {
      await file.unchanged.check(); // which would be the reason
      throw error;
    }
    await (value instanceof RowProblem ? file.unchanged.check() : file.unchanged.afterRead());
    return value;
  }

  /** Columns of the rows read so far that nothing uses, by file. */
  get unused(): ReadonlyMap<string, readonly string[]> {
    const found = this.#files.map(({ path, unused }) => [path, [...unused]] as const);
    return new Map(found.filter(([, columns]) => columns.length > 0));
  }

  async locate(row: number): Promise<string> {
    const { file, local } = this.#find(row);
    return file.locate(local);
  }

  async close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await runAll(this.#files.map((file) => () => file.close()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #find(row: number): { file: RowFile; local: number } {
    if (!this.#open) throw new DisposedError("a dataset");
    let low = 0;
    for (let high = this.#starts.length; high - low > 1; ) {
      const middle = (low + high) >>> 1;
      if (this.#starts[middle]! <= row) low = middle;
      else high = middle;
    }
    return { file: this.#files[low]!, local: row - this.#starts[low]! };
  }
}
