// Writes a new file from start to end past the page cache, so that gigabytes of it neither push out what others need nor
// wait as dirty pages in the memory of the process's cgroup. Buffered, and flushed as it goes, where direct writes are
// refused. Who makes the file, names it and closes it: staged files.

import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { ffi } from "../../backend/ggml/loading/ffi.ts";
import { systemCode } from "../../base/files/system-code.ts";
import { ALIGNMENT } from "./direct-io.ts";
import { ATTEMPTS, MAX_TRANSFER, TRANSIENT } from "./system-errors.ts";

/** Bytes that are written at a time; two such pieces are held: one that is filled and one on its way to the disk. */
const PIECE = 2 * 2 ** 20;
/** Buffered writes are flushed this often. Bytes. */
const FLUSH = 16 * 2 ** 20;

/** Memory that direct I/O can take, kept until this is. */
function alignedPiece(): Uint8Array {
  const memory = new Uint8Array(PIECE + ALIGNMENT);
  const past = Number(ffi().address(memory) % BigInt(ALIGNMENT));
  return memory.subarray(past === 0 ? 0 : ALIGNMENT - past).subarray(0, PIECE);
}

export class DirectWriter {
  readonly #handle: FileHandle;
  /** The same file, opened for direct writes; undefined where, or until, it is written through the page cache. */
  #direct: FileHandle | undefined;
  #tried: boolean;
  #pieces: [Uint8Array, Uint8Array] | undefined;
  /** Which piece is filled, from where in the file on, and how far. */
  #turn: 0 | 1 = 0;
  #start = 0;
  #filled = 0;
  /** Nothing but the end of a hole is in it: it need not be written. */
  #empty = true;
  #inFlight: Promise<void> = Promise.resolve();
  #unflushed = 0;

  /** `handle`: of an empty file, open for writing; it stays the caller's. `direct`: false always writes buffered. */
  constructor(handle: FileHandle, { direct = true }: { direct?: boolean } = {}) {
    this.#handle = handle;
    this.#tried = !direct || !constants.O_DIRECT;
  }

  /** Bytes appended and skipped so far. */
  get position(): number {
    return this.#start + this.#filled;
  }

  /** Whether what is written goes past the page cache; known once a piece has been written. */
  get direct(): boolean {
    return this.#direct !== undefined;
  }

  /** Appends bytes, which may be reused once the promise settles. Throws the system's error. */
  async append(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      this.#pieces ??= [alignedPiece(), alignedPiece()];
      const piece = this.#pieces[this.#turn];
      const count = Math.min(bytes.length - done, PIECE - this.#filled);
      piece.set(bytes.subarray(done, done + count), this.#filled);
      this.#empty = false;
      this.#filled += count;
      done += count;
      if (this.#filled === PIECE) await this.#submit(PIECE);
    }
  }

  /** Appends zeros as a hole, which takes no room on file systems that have them. */
  async skip(bytes: number): Promise<void> {
    const to = this.position + bytes;
    if (this.#pieces && !this.#empty) {
      // The block that is begun is filled up with zeros, as far as the hole goes.
      const blockEnd = Math.ceil(this.#filled / ALIGNMENT) * ALIGNMENT;
      const end = Math.min(blockEnd, this.#filled + bytes);
      this.#pieces[this.#turn].fill(0, this.#filled, end);
      this.#filled = end;
      if (this.position === to && this.#filled < PIECE) return;
      await this.#submit(this.#filled);
    }
    this.#start = to - (to % ALIGNMENT);
    this.#filled = to - this.#start;
    this.#empty = true;
    if (this.#filled > 0) {
      this.#pieces ??= [alignedPiece(), alignedPiece()];
      this.#pieces[this.#turn].fill(0, 0, this.#filled);
    }
  }

  /** Writes what is left, sets the length of the file and flushes it to the device. */
  async finish(): Promise<void> {
    const length = this.position;
    try {
      if (this.#pieces && !this.#empty) {
        // A file of one small piece is written as it is.
        if (this.#start === 0) this.#tried = true;
        const whole = this.#direct ? Math.ceil(this.#filled / ALIGNMENT) * ALIGNMENT : this.#filled;
        this.#pieces[this.#turn].fill(0, this.#filled, whole);
        await this.#submit(whole);
      }
      await this.#inFlight;
      await this.#handle.truncate(length);
      await this.#handle.sync();
    } finally {
      await this.dispose();
    }
  }

  /** Waits for what is on its way, and gives everything back but the file. May be called twice. */
  async dispose(): Promise<void> {
    await this.#inFlight.catch(() => {});
    const direct = this.#direct;
    this.#direct = undefined;
    this.#pieces = undefined;
    await direct?.close();
  }

  /** Begins to write the piece that was filled, once the one before is written, whose error this throws. */
  async #submit(length: number): Promise<void> {
    const piece = (this.#pieces as [Uint8Array, Uint8Array])[this.#turn].subarray(0, length);
    const at = this.#start;
    await this.#inFlight;
    if (!this.#tried) await this.#openDirect();
    this.#inFlight = this.#write(piece, at);
    this.#inFlight.catch(() => {}); // thrown by what waits next
    this.#turn = this.#turn === 0 ? 1 : 0;
    this.#start += length;
    this.#filled = 0;
    this.#empty = true;
  }

  /** By its number: its name may be another file's by now. */
  async #openDirect(): Promise<void> {
    this.#tried = true;
    try {
      const path = `/proc/self/fd/${this.#handle.fd}`;
      this.#direct = await open(path, constants.O_WRONLY | constants.O_DIRECT);
    } catch (error) {
      if (systemCode(error) === undefined) throw error;
    }
  }

  async #write(bytes: Uint8Array, position: number): Promise<void> {
    let fruitless = 0;
    for (let done = 0; done < bytes.length; ) {
      const direct = this.#direct;
      const handle = direct ?? this.#handle;
      const length = Math.min(bytes.length - done, MAX_TRANSFER);
      let written = 0;
      try {
        ({ bytesWritten: written } = await handle.write(bytes, done, length, position + done));
      } catch (error) {
        if (direct && systemCode(error) === "EINVAL") {
          // Some file systems take direct I/O when the file is opened and refuse it at the first write.
          this.#direct = undefined;
          await direct.close();
          continue;
        }
        if (!TRANSIENT.has(systemCode(error) ?? "") || fruitless >= ATTEMPTS) throw error;
      }
      // A direct write cannot go on in the middle of a block: the block is written again.
      if (direct && done + written < bytes.length) written -= written % ALIGNMENT;
      fruitless = written > 0 ? 0 : fruitless + 1;
      if (fruitless > ATTEMPTS)
        throw new Error(`a write of ${length} bytes moved nothing ${fruitless} times`);
      done += written;
    }
    if (this.#direct) return;
    this.#unflushed += bytes.length;
    if (this.#unflushed < FLUSH) return;
    this.#unflushed = 0;
    await this.#handle.datasync();
  }
}
