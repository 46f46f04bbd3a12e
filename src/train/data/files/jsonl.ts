// One JSONL file: an index of where its rows are, and rows read one by one from there. Rows are never all in memory.
// JSON Lines (https://jsonlines.org): one JSON object a line, UTF-8; CRLF, a byte order mark and blank lines are taken.
import { type FileHandle, open } from "node:fs/promises";
import { readExactly, readFailure } from "../../../formats/files/files.ts";
import { badRow, type Row, RowProblem } from "../row.ts";
import { parseJsonRow } from "./json-row.ts";
import { Offsets, scanLines } from "./lines.ts";
import type { RowFile } from "./row-file.ts";
import { UnchangedFile } from "./unchanged.ts";

export interface JsonlOptions {
  /** Longest row, bytes. */
  readonly max_row_bytes: number;
  /** Look at every row now, rather than when its turn comes. */
  readonly validate: boolean;
  readonly signal?: AbortSignal | undefined;
}

/** Bad rows listed in a message before the rest is only counted. */
const LISTED = 5;
/** Most rows are shorter than this, so that one read gets them. */
const FIRST_READ = 2 ** 16;
const BOM = Buffer.from([0xef, 0xbb, 0xbf]);

/**
 * Indexes the file: 8 bytes of memory a row, and one pass over the file. Keeps it open until `close`.
 * Throws ConfigError that names file and line of the rows that cannot be used, CheckpointError if there is no such file,
 * IoError, AbortError.
 */
export async function openJsonl(path: string, options: JsonlOptions): Promise<RowFile> {
  const handle = await open(path, "r").catch((error: unknown) => {
    throw readFailure(error, path);
  });
  try {
    const unchanged = new UnchangedFile(handle, path, await handle.stat());
    return new JsonlFile(handle, unchanged, await index(handle, path, options), options.max_row_bytes);
  } catch (error) {
    await handle.close();
    throw readFailure(error, path);
  }
}

async function index(handle: FileHandle, path: string, options: JsonlOptions): Promise<Offsets> {
  const { max_row_bytes: max_bytes, validate, signal } = options;
  const offsets = new Offsets();
  const problems: string[] = [];
  let bad = 0;
  await scanLines(handle, path, { max_bytes, signal }, (bytes, offset, line) => {
    const mark = offset === 0 && bytes.subarray(0, BOM.length).equals(BOM) ? BOM.length : 0;
    const content = bytes.subarray(mark);
    if (isBlank(content)) return;
    offsets.push(offset + mark);
    if (!validate) return;
    const row = parseJsonRow(content);
    if (row instanceof RowProblem && ++bad <= LISTED) problems.push(`line ${line}: ${row.problem}`);
    return undefined;
  });
  if (bad === 1) throw badRow(path, problems[0]!);
  if (bad > 1) {
    const more = bad > LISTED ? `\n  and ${bad - LISTED} more` : "";
    throw badRow(path, `${bad} of ${offsets.length} rows cannot be used:\n  ${problems.join("\n  ")}${more}`);
  }
  return offsets;
}

/** Spaces, tabs and carriage returns only. */
function isBlank(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0x20 || byte === 0x09 || byte === 0x0d);
}

class JsonlFile implements RowFile {
  readonly path: string;
  readonly bytes: number;
  readonly unchanged: UnchangedFile;
  readonly groups = undefined;
  readonly unused = new Set<string>();
  readonly #handle: FileHandle;
  readonly #offsets: Offsets;
  readonly #maxRow: number;

  constructor(handle: FileHandle, unchanged: UnchangedFile, offsets: Offsets, maxRow: number) {
    this.#handle = handle;
    this.unchanged = unchanged;
    this.path = unchanged.path;
    this.bytes = unchanged.bytes;
    this.#offsets = offsets;
    this.#maxRow = maxRow;
  }

  get rows(): number {
    return this.#offsets.length;
  }

  async read(row: number): Promise<Row | RowProblem> {
    return parseJsonRow(await this.#line(row), this.unused);
  }

  /** Counts lines up to the row: only errors ask. */
  async locate(row: number): Promise<string> {
    const target = this.#offsets.at(row)!;
    let found = 0;
    // The first row may stand after a byte order mark on its line.
    await scanLines(
      this.#handle,
      this.path,
      { max_bytes: Number.POSITIVE_INFINITY },
      (bytes, offset, line) => {
        found = line;
        return offset + bytes.length >= target;
      },
    );
    return `${this.path}: line ${found}`;
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  /** The bytes of a row. Up to the next row there is its newline, and perhaps blank lines. */
  async #line(row: number): Promise<Uint8Array> {
    const start = this.#offsets.at(row)!;
    const room = (this.#offsets.at(row + 1) ?? this.bytes) - start;
    for (const length of [Math.min(room, FIRST_READ), Math.min(room, this.#maxRow + 1)]) {
      const bytes = Buffer.allocUnsafe(length);
      try {
        await readExactly(this.#handle, bytes, start, this.path);
      } catch (error) {
        throw readFailure(error, this.path);
      }
      const end = bytes.indexOf(0x0a);
      if (end !== -1) return bytes.subarray(0, end);
      if (length === room) return bytes;
    }
    throw badRow(await this.locate(row), "has changed since the file was opened: open it again");
  }
}
