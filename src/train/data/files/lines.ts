// The lines of a text file with their byte offsets, in bounded memory. What is in a line is the caller's business.
import type { FileHandle } from "node:fs/promises";
import { throwIfAborted } from "../../../base/errors.ts";
import { badRow } from "../row.ts";

const NEWLINE = 0x0a;
const CHUNK = 2 ** 20;

export interface ScanOptions {
  /** Byte to start at. Default 0. */
  readonly from?: number;
  /** Longest line, bytes; a longer one is an error. */
  readonly max_bytes: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Called for each line, in order, without its newline; `bytes` may be kept only until the call returns.
 * `line` counts from 1 at the byte the scan started from. Returns true to stop.
 */
export type OnLine = (bytes: Buffer, offset: number, line: number) => boolean | undefined;

/**
 * Calls `onLine` for every line of a file, with 1 MiB of memory or twice the longest line.
 * Throws ConfigError for a line over `max_bytes`, AbortError, and what reading throws.
 */
export async function scanLines(
  handle: FileHandle,
  path: string,
  options: ScanOptions,
  onLine: OnLine,
): Promise<void> {
  let buffer = Buffer.allocUnsafe(CHUNK);
  let filled = 0;
  let offset = options.from ?? 0; // of buffer[0]
  let line = 1;
  const check = (length: number) => {
    if (length <= options.max_bytes) return;
    throw badRow(
      `${path}: line ${line}`,
      `is longer than ${options.max_bytes} bytes: split it into several rows`,
    );
  };
  for (;;) {
    throwIfAborted(options.signal);
    const { bytesRead } = await handle.read(buffer, filled, buffer.length - filled, offset + filled);
    const searchFrom = filled;
    filled += bytesRead;
    let start = 0;
    let newline = buffer.subarray(0, filled).indexOf(NEWLINE, searchFrom);
    while (newline !== -1) {
      check(newline - start);
      if (onLine(buffer.subarray(start, newline), offset + start, line)) return;
      line++;
      start = newline + 1;
      newline = buffer.subarray(0, filled).indexOf(NEWLINE, start);
    }
    const rest = filled - start;
    check(rest);
    if (bytesRead === 0) {
      if (rest > 0) onLine(buffer.subarray(start, filled), offset + start, line);
      return;
    }
    const target = rest > buffer.length / 2 ? Buffer.allocUnsafe(buffer.length * 2) : buffer;
    buffer.copy(target, 0, start, filled);
    buffer = target;
    filled = rest;
    offset += start;
  }
}

/** A list of byte offsets, 8 bytes each. Grows by blocks, so that growing never holds the list twice. */
export class Offsets {
  static readonly #BLOCK = 2 ** 16;
  readonly #blocks: Float64Array[] = [];
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(offset: number): void {
    const at = this.#length % Offsets.#BLOCK;
    if (at === 0) this.#blocks.push(new Float64Array(Offsets.#BLOCK));
    this.#blocks.at(-1)![at] = offset;
    this.#length++;
  }

  /** Undefined past the end. */
  at(index: number): number | undefined {
    if (index >= this.#length) return undefined;
    return this.#blocks[Math.floor(index / Offsets.#BLOCK)]?.[index % Offsets.#BLOCK];
  }
}
