// Whether a file of rows is still the one that was opened: rows are found by their places in it, so a file that is written
// to meanwhile would give parts of rows, or rows that were never looked at.
import type { Stats } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { IoError } from "../../../base/errors.ts";
import { readFailure } from "../../../formats/files/files.ts";

/** It is asked for again after so many reads, or so long. Asking is a call of the system. */
const READS = 64;
const MILLISECONDS = 500;

/**
 * Of one open file. A file that another takes the place of, as editors do it, is no concern: the open one keeps its rows to
 * its end.
 */
export class UnchangedFile {
  readonly #handle: Pick<FileHandle, "stat">;
  readonly path: string;
  readonly #before: Pick<Stats, "size" | "mtimeMs">;
  #reads = 0;
  #asked = performance.now();

  constructor(handle: Pick<FileHandle, "stat">, path: string, before: Pick<Stats, "size" | "mtimeMs">) {
    this.#handle = handle;
    this.path = path;
    this.#before = before;
  }

  /** Of the file when it was opened. */
  get bytes(): number {
    return this.#before.size;
  }

  /** To be called after each read. Throws IoError, naming the file. */
  async afterRead(): Promise<void> {
    if (++this.#reads < READS && performance.now() - this.#asked < MILLISECONDS) return;
    await this.check();
  }

  /** Asks now. Throws IoError, naming the file. */
  async check(): Promise<void> {
    this.#reads = 0;
    this.#asked = performance.now();
    const { size, mtimeMs } = await this.#handle.stat().catch((error: unknown) => {
      throw readFailure(error, this.path);
    });
    const before = this.#before;
    if (size === before.size && mtimeMs === before.mtimeMs) return;
    const what = size === before.size ? "it was written to" : `it had ${before.size} bytes and has ${size}`;
    throw new IoError(
      `changed while its rows are in use (${what}): leave it alone until the run ends; to go on with the changed file, ` +
        "resume with accept_data_changes (--accept-data-changes)",
      this.path,
    );
  }
}
