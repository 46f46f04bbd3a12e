// One JSON file that is an array of objects, pretty-printed or not: an index of where its elements are, and elements read
// one by one from there, so that the file is never all in memory.
import { type FileHandle, open } from "node:fs/promises";
import { Slices } from "../../../base/async/event-loop.ts";
import { ConfigError, throwIfAborted } from "../../../base/errors.ts";
import { readExactly, readFailure } from "../../../formats/files/files.ts";
import { badRow, type Row, RowProblem } from "../row.ts";
import { parseJsonRow } from "./json-row.ts";
import type { JsonlOptions } from "./jsonl.ts";
import { Offsets } from "./lines.ts";
import type { RowFile } from "./row-file.ts";
import { UnchangedFile } from "./unchanged.ts";

const CHUNK = 2 ** 20;
const [QUOTE, BACKSLASH, COMMA, NEWLINE] = [0x22, 0x5c, 0x2c, 0x0a];
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * Indexes the file in one pass, 16 bytes of memory a row, and keeps it open until `close`.
 * Throws ConfigError for what is no array, with the line; CheckpointError, IoError, AbortError.
 */
export async function openJsonArray(path: string, options: JsonlOptions): Promise<RowFile> {
  const handle = await open(path, "r").catch((error: unknown) => {
    throw readFailure(error, path);
  });
  try {
    const unchanged = new UnchangedFile(handle, path, await handle.stat());
    const { starts, ends } = await scanElements(handle, path, options);
    const file = new JsonArrayFile(handle, unchanged, starts, ends);
    if (options.validate) await validate(file, options.signal);
    return file;
  } catch (error) {
    await handle.close();
    throw readFailure(error, path);
  }
}

async function validate(file: RowFile, signal: AbortSignal | undefined): Promise<void> {
  for (let row = 0; row < file.rows; row++) {
    throwIfAborted(signal);
    const found = await file.read(row);
    if (found instanceof RowProblem) throw badRow(await file.locate(row), found.problem);
  }
}

/** Where the elements of the array begin and end. What is in them is not looked at. */
async function scanElements(
  handle: FileHandle,
  path: string,
  { max_row_bytes, signal }: JsonlOptions,
): Promise<{ starts: Offsets; ends: Offsets }> {
  const [starts, ends] = [new Offsets(), new Offsets()];
  const buffer = Buffer.allocUnsafe(CHUNK);
  const slices = new Slices();
  let expecting = "array" as "array" | "element" | "comma" | "end"; // finish() changes it, unseen by the compiler
  let depth = 0; // within an element
  let inString = false;
  let escaped = false;
  let start = -1; // of the element under way
  let line = 1;
  const fail = (problem: string): never => {
    throw new ConfigError(`${path}: line ${line}: ${problem}`);
  };
  const finish = (end: number) => {
    if (end - start > max_row_bytes)
      fail(`ends a row longer than ${max_row_bytes} bytes: split it into several`);
    starts.push(start);
    ends.push(end);
    start = -1;
    expecting = "comma";
  };
  for (let offset = 0; ; ) {
    throwIfAborted(signal);
    await slices.next();
    const { bytesRead } = await handle.read(buffer, 0, CHUNK, offset);
    if (bytesRead === 0) break;
    for (let i = 0; i < bytesRead; i++) {
      const byte = buffer[i] as number;
      const at = offset + i;
      if (byte === NEWLINE) line++;
      if (inString) {
        if (escaped) escaped = false;
        else if (byte === BACKSLASH) escaped = true;
        else if (byte === QUOTE) {
          inString = false;
          if (depth === 0) finish(at + 1);
        }
        continue;
      }
      if (start >= 0) {
        if (byte === QUOTE) inString = true;
        else if (byte === OPEN_OBJECT || byte === OPEN_LIST) depth++;
        else if (depth > 0) {
          if ((byte === CLOSE_OBJECT || byte === CLOSE_LIST) && --depth === 0) finish(at + 1);
        } else if (byte === COMMA || byte === CLOSE_LIST || isSpace(byte)) {
          finish(at); // a number or a word
          i--;
          if (byte === NEWLINE) line--;
        }
        continue;
      }
      if (isSpace(byte) || (at < 3 && byte >= 0xbb)) continue; // a byte order mark
      if (expecting === "array" && byte === OPEN_LIST) expecting = "element";
      else if (byte === CLOSE_LIST && (expecting === "comma" || starts.length === 0)) expecting = "end";
      else if (expecting === "comma" && byte === COMMA) expecting = "element";
      else if (expecting === "element") {
        start = at;
        inString = byte === QUOTE;
        depth = byte === OPEN_OBJECT || byte === OPEN_LIST ? 1 : 0;
      } else if (expecting === "end")
        fail("goes on after the end of the array: write one array, or one object a line");
      else fail("has no comma between two rows of the array");
    }
    offset += bytesRead;
  }
  if (expecting !== "end") fail("ends before the array does: the file is cut short");
  return { starts, ends };
}

function isSpace(byte: number): boolean {
  return byte === 0x20 || (byte >= 0x09 && byte <= 0x0d);
}

class JsonArrayFile implements RowFile {
  readonly path: string;
  readonly bytes: number;
  readonly unchanged: UnchangedFile;
  readonly groups = undefined;
  readonly unused = new Set<string>();
  readonly #handle: FileHandle;
  readonly #starts: Offsets;
  readonly #ends: Offsets;

  constructor(handle: FileHandle, unchanged: UnchangedFile, starts: Offsets, ends: Offsets) {
    this.#handle = handle;
    this.unchanged = unchanged;
    this.path = unchanged.path;
    this.bytes = unchanged.bytes;
    this.#starts = starts;
    this.#ends = ends;
  }

  get rows(): number {
    return this.#starts.length;
  }

  async read(row: number): Promise<Row | RowProblem> {
    const start = this.#starts.at(row) as number;
    const bytes = Buffer.allocUnsafe((this.#ends.at(row) as number) - start);
    try {
      await readExactly(this.#handle, bytes, start, this.path);
    } catch (error) {
      throw readFailure(error, this.path);
    }
    return parseJsonRow(bytes, this.unused);
  }

  /** Counts lines up to the row: only errors ask. */
  async locate(row: number): Promise<string> {
    const target = this.#starts.at(row) as number;
    const buffer = Buffer.allocUnsafe(CHUNK);
    let line = 1;
    for (let at = 0; at < target; ) {
      const { bytesRead } = await this.#handle.read(buffer, 0, Math.min(CHUNK, target - at), at);
      if (bytesRead === 0) break;
      for (let i = 0; i < bytesRead; i++) if (buffer[i] === NEWLINE) line++;
      at += bytesRead;
    }
    return `${this.path}: line ${line}, row ${row + 1}`;
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}
