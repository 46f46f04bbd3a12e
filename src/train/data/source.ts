// The rows of a dataset, whatever files they are in: numbered from 0 across the files, read by number.
// Order, splitting and tokens are not decided here.
import { readExactly, withFile } from "../../checkpoint/files.ts";
import { ConfigError, DisposedError } from "../../errors.ts";
import { openJsonl } from "./jsonl.ts";
import { GroupCache, openParquet } from "./parquet.ts";
import { badRow, type Row, RowProblem } from "./row.ts";
import { numbered, type RowFile, type RowGroup } from "./row-file.ts";

/** The rows of all files. Close it when done. */
export interface RowSource extends AsyncDisposable {
  readonly rows: number;
  /** Of all files. */
  readonly bytes: number;
  /** As in {@link RowFile}. */
  readonly groups: readonly RowGroup[] | undefined;
  /** Throws ConfigError that names file and line if the row cannot be used, IoError. */
  read(row: number): Promise<Row>;
  locate(row: number): Promise<string>;
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
const MAGIC: readonly { readonly bytes: readonly number[]; readonly format: "parquet" | string }[] = [
  { bytes: [0x50, 0x41, 0x52, 0x31], format: "parquet" }, // PAR1
  { bytes: [0x1f, 0x8b], format: "compressed with gzip" },
  { bytes: [0x28, 0xb5, 0x2f, 0xfd], format: "compressed with zstd" },
  { bytes: [0x50, 0x4b, 0x03, 0x04], format: "a zip archive" },
];

/**
 * Opens JSONL or Parquet files as one dataset: the first bytes say which, and they must all be the same.
 * Memory: 8 bytes a row of JSONL; of Parquet the footers, and row groups of 64 MiB or one that is larger.
 * Throws ConfigError that names the files and lines of rows that cannot be used, UnsupportedError, CheckpointError for
 * files that are not there, IoError, AbortError.
 */
export async function openRows(
  paths: string | readonly string[],
  options: OpenRowsOptions = {},
): Promise<RowSource> {
  const list = typeof paths === "string" ? [paths] : paths;
  const { validate = true, max_row_bytes = MAX_ROW_BYTES, signal } = options;
  if (list.length === 0) throw new ConfigError("no dataset: give one JSONL or Parquet file or more");
  if (!Number.isSafeInteger(max_row_bytes) || max_row_bytes < 1 || max_row_bytes > LONGEST_ROW_BYTES) {
    throw new ConfigError(
      `max_row_bytes is ${max_row_bytes}, expected a whole number up to ${LONGEST_ROW_BYTES}`,
    );
  }
  const files: RowFile[] = [];
  try {
    const cache = new GroupCache();
    for (const path of list) {
      const parquet = await isParquet(path);
      files.push(
        parquet
          ? await openParquet(path, cache, signal)
          : await openJsonl(path, { max_row_bytes, validate, signal }),
      );
    }
    return new Files(files);
  } catch (error) {
    for (const file of files) await file.close();
    throw error;
  }
}

async function isParquet(path: string): Promise<boolean> {
  const head = await withFile(path, async (handle, { size }) => {
    const bytes = new Uint8Array(Math.min(size, 4));
    await readExactly(handle, bytes, 0, path);
    return bytes;
  });
  const known = MAGIC.find(({ bytes }) => bytes.every((byte, i) => head[i] === byte));
  if (known === undefined || known.format === "parquet") return known !== undefined;
  throw new ConfigError(`${path}: is ${known.format}: unpack it first`);
}

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
    const { file, local } = this.#find(row);
    const value = await file.read(local);
    if (value instanceof RowProblem) throw badRow(await file.locate(local), value.problem);
    return value;
  }

  async locate(row: number): Promise<string> {
    const { file, local } = this.#find(row);
    return file.locate(local);
  }

  async close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    for (const file of this.#files) await file.close();
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
