// A file of weights, read past the page cache (O_DIRECT) into memory the caller owns; buffered where that is refused.
// One file and one read at a time; read-queue.ts splits, orders and overlaps reads.

import { constants, type Stats } from "node:fs";
import { type FileHandle, open, stat } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { DisposedError, IoError, type SpillwayError, throwIfAborted } from "../../base/errors.ts";
import { systemCode } from "../../base/files/system-code.ts";
import { ATTEMPTS, type Hints, ioFailure, MAX_TRANSFER, TRANSIENT } from "./system-errors.ts";

/** Direct reads want memory addresses, file offsets and lengths in multiples of this. Bytes. */
export const ALIGNMENT = 4096;

/** `bytes`, filled up to a multiple of {@link ALIGNMENT}. */
export function wholeBlocks(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

/** What the system's error codes mean for somebody who wants their weights. */
const HINTS: Hints = {
  ENOENT: "there is no such file",
  ENOTDIR: "there is no such file",
  EACCES: "this user may not read it",
  EPERM: "this user may not read it",
  EMFILE: "this process has too many files open; raise `ulimit -n`",
  ENFILE: "the system has too many files open",
  EIO: "the disk or its connection failed; see the system's log",
  ESTALE: "the network file system lost the file; open it again",
  EINVAL: `direct reads need memory at an address that is a multiple of ${ALIGNMENT}`,
};

let openHandles = 0;

/** Files that {@link DirectFile} holds open in this process; for leak tests. */
export function openFileCount(): number {
  return openHandles;
}

/** One read about to be asked of the system. */
export interface SystemRead {
  readonly file: DirectFile;
  readonly fileOffset: number;
  /** Bytes. May be lowered: the read is then short, as the system's may be. */
  length: number;
}

/** Called before each read of the system; what it throws counts as the system's answer. For fault injection. */
export type BeforeRead = (read: SystemRead) => void | Promise<void>;

export interface ReadOptions {
  /** Stops between two reads of the system; one that has begun is always waited for. */
  signal?: AbortSignal | undefined;
  beforeRead?: BeforeRead | undefined;
}

/** A regular file open for reading. Reads may overlap. */
export class DirectFile {
  readonly path: string;
  /** Bytes, when it was opened. */
  readonly size: number;
  /** Modification time in milliseconds, when it was opened. */
  readonly mtimeMs: number;
  readonly alignment = ALIGNMENT;
  readonly #opened: FileState;
  #handle: FileHandle;
  #direct: boolean;
  /** A direct read has succeeded: from then on EINVAL is the caller's memory, not the file system. */
  #proven = false;
  /** The handle is somebody else's. */
  #shared = false;
  #fallingBack: Promise<void> | undefined;
  #closing: Promise<void> | undefined;

  private constructor(path: string, opened: Opened, direct: boolean) {
    this.path = path;
    this.size = opened.state.size;
    this.mtimeMs = opened.state.mtimeMs;
    this.#opened = opened.state;
    this.#handle = opened.handle;
    this.#direct = direct;
  }

  /**
   * Opens `path`. With `direct` (the default) reads go past the page cache where the platform and the file system can.
   * Throws {@link IoError} if there is no such regular file or the system refuses.
   */
  static async open(path: string, { direct = true }: { direct?: boolean } = {}): Promise<DirectFile> {
    const flag: number | undefined = constants.O_DIRECT;
    if (direct && flag) {
      try {
        return new DirectFile(path, await openHandle(path, flag), true);
      } catch (error) {
        if (systemCode(error) !== "EINVAL") throw failure(error, path, "opening it");
      }
    }
    try {
      return new DirectFile(path, await openHandle(path, 0), false);
    } catch (error) {
      throw failure(error, path, "opening it");
    }
  }

  /**
   * Over a handle that somebody else opened and closes, of a file that may grow. `direct`: it was opened so, and direct
   * reads have succeeded.
   */
  static sharing(handle: FileHandle, path: string, direct: boolean): DirectFile {
    const size = Number.MAX_SAFE_INTEGER - ALIGNMENT;
    const file = new DirectFile(path, { handle, state: { ...NO_STATE, size } }, direct);
    file.#proven = direct;
    file.#shared = true;
    return file;
  }

  /** Whether reads go past the page cache. Becomes false if the file system refuses the first of them. */
  get direct(): boolean {
    return this.#direct;
  }

  /**
   * Throws what {@link read} would throw for arguments that cannot be read: {@link DisposedError} after `close`,
   * {@link IoError} for ranges outside the target or the file and for unaligned ones of a direct file.
   */
  check(target: ArrayBuffer, targetOffset: number, fileOffset: number, length: number): void {
    if (this.#closing) throw new DisposedError(this.path);
    const range = `${length} bytes at ${fileOffset}`;
    const numbers = [targetOffset, fileOffset, length];
    if (!numbers.every((n) => Number.isSafeInteger(n) && n >= 0)) {
      throw new IoError(`${range} into memory at ${targetOffset} is not a range of bytes`, this.path);
    }
    if (targetOffset + length > target.byteLength) {
      throw new IoError(
        `${range} do not fit at ${targetOffset} of a target of ${target.byteLength} bytes`,
        this.path,
      );
    }
    if (fileOffset + length > wholeBlocks(this.size)) {
      throw new IoError(`${range} are past its end: it has ${this.size} bytes`, this.path);
    }
    if (this.#direct && numbers.some((n) => n % ALIGNMENT !== 0)) {
      throw new IoError(
        `direct reads need multiples of ${ALIGNMENT}: ${range} into memory at ${targetOffset} is not`,
        this.path,
      );
    }
  }

  /**
   * Reads `length` bytes at `fileOffset` to `targetOffset` of `target`, and resolves to the bytes read: `length`, or
   * less where the range reaches past the end of the file (up to the next multiple of {@link ALIGNMENT} it may).
   *
   * The target may be a view of native memory. A direct file needs its address and all three numbers to be multiples
   * of {@link ALIGNMENT}. Short and interrupted reads are continued. Once this settles, nothing writes to `target`.
   *
   * Throws {@link IoError} when the system refuses or the file became shorter, AbortError, or what {@link check} throws.
   */
  async read(
    target: ArrayBuffer,
    targetOffset: number,
    fileOffset: number,
    length: number,
    options: ReadOptions = {},
  ): Promise<number> {
    this.check(target, targetOffset, fileOffset, length);
    const last = fileOffset + length;
    const end = Math.min(last, this.size);
    let at = fileOffset;
    let fruitless = 0;
    while (at < end) {
      throwIfAborted(options.signal);
      if (this.#closing) throw new DisposedError(this.path);
      const wanted = Math.min(last - at, MAX_TRANSFER);
      const into = new Uint8Array(target, targetOffset + at - fileOffset, wanted);
      const got = await this.#readOnce(into, at, options.beforeRead);
      let next = Math.min(at + got, end);
      // A direct read cannot go on in the middle of a block: the block is read again.
      if (this.#direct && next < end) next -= next % ALIGNMENT;
      fruitless = next > at ? 0 : fruitless + 1;
      if (fruitless > 0) await this.#stuck(at, wanted, fruitless);
      at = next;
    }
    return Math.max(0, end - fileOffset);
  }

  /**
   * Throws {@link IoError} that says what changed if the file is not what it was when it was opened: written to, cut, or
   * overwritten with its times set back. Another file that took its name changes nothing here, nor does removing it.
   */
  async checkUnchanged(): Promise<void> {
    if (this.#shared || this.#closing) return;
    const now = await this.#handle.stat().catch((error: unknown) => {
      throw failure(error, this.path, "looking whether it changed");
    });
    const problem = changeOf(this.#opened, now);
    if (problem) throw new IoError(`was changed while it was in use (${problem}); open it again`, this.path);
  }

  /** Closes the file once the reads of the system that have begun are over. May be called twice. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      await this.#fallingBack?.catch(() => undefined);
      if (!this.#shared) await closeHandle(this.#handle, this.path);
    })();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Bytes read by one call of the system; 0 where it asks to be called again. */
  async #readOnce(into: Uint8Array, fileOffset: number, beforeRead?: BeforeRead): Promise<number> {
    const handle = this.#handle;
    const direct = this.#direct;
    const request: SystemRead = { file: this, fileOffset, length: into.byteLength };
    try {
      await beforeRead?.(request);
      if (this.#closing) throw new DisposedError(this.path);
      const asked = direct ? wholeBlocks(request.length) : request.length;
      const { bytesRead } = await handle.read(into, 0, Math.min(asked, into.byteLength), fileOffset);
      if (direct) this.#proven = true;
      return Math.min(bytesRead, request.length);
    } catch (error) {
      const code = systemCode(error);
      if (code !== undefined && TRANSIENT.has(code)) return 0;
      if (code === "EINVAL" && direct && !this.#proven) {
        await this.#fallBack();
        return 0;
      }
      throw failure(error, this.path, `reading ${into.byteLength} bytes at ${fileOffset}`);
    }
  }

  /** Some file systems take O_DIRECT at open and refuse it at the first read: the file is opened again without. */
  #fallBack(): Promise<void> {
    this.#fallingBack ??= this.#openBuffered().catch((error: unknown) => {
      throw failure(error, this.path, "opening it without direct I/O");
    });
    return this.#fallingBack;
  }

  async #openBuffered(): Promise<void> {
    if (this.#closing) throw new DisposedError(this.path);
    const opened = await openHandle(this.path, 0);
    const { dev, ino } = this.#opened;
    if (opened.state.dev !== dev || opened.state.ino !== ino || changeOf(this.#opened, opened.state)) {
      await closeHandle(opened.handle, this.path);
      throw new IoError("was changed or replaced since it was opened; open it again", this.path);
    }
    const refused = this.#handle;
    this.#handle = opened.handle;
    this.#direct = false;
    await closeHandle(refused, this.path);
  }

  /** Nothing came though the file should go on: throws if it became shorter, else waits before the next attempt. */
  async #stuck(at: number, length: number, attempt: number): Promise<void> {
    if (this.#closing) throw new DisposedError(this.path);
    // A shared file's size is not known; what is read of it was written.
    const { size } = this.#shared
      ? this
      : await this.#handle.stat().catch((error: unknown) => {
          throw failure(error, this.path, "looking at its size");
        });
    if (size < this.size) {
      throw new IoError(`was truncated from ${this.size} to ${size} bytes since it was opened`, this.path);
    }
    if (attempt >= ATTEMPTS) {
      const what = `reading ${length} bytes at ${at}${this.#shared ? "" : ` of ${this.size}`}`;
      throw new IoError(`${what} gave nothing ${attempt} times in a row`, this.path);
    }
    await sleep(2 ** (attempt - 1));
  }
}

/** What tells whether a file changed: part of {@link Stats}. */
export type FileState = Pick<
  Stats,
  "dev" | "ino" | "size" | "mtimeMs" | "ctimeMs" | "nlink" | "mode" | "uid" | "gid"
>;

const NO_STATE: FileState = {
  ...{ dev: 0, ino: 0, size: 0, mtimeMs: 0, ctimeMs: 0 },
  ...{ nlink: 1, mode: 0, uid: 0, gid: 0 },
};

/** How the bytes of a file may have changed between two looks at it; undefined where they are the same. */
export function changeOf(before: FileState, now: FileState): string | undefined {
  if (now.size !== before.size) return `it had ${before.size} bytes and has ${now.size}`;
  if (now.mtimeMs !== before.mtimeMs) {
    const at = (ms: number) => new Date(ms).toISOString();
    return `last written ${at(now.mtimeMs)}, before that ${at(before.mtimeMs)}`;
  }
  if (now.ctimeMs === before.ctimeMs) return undefined;
  // Links, owners and rights that change move this time too, and say why.
  const why = (["nlink", "mode", "uid", "gid"] as const).some((key) => now[key] !== before[key]);
  return why ? undefined : "it was changed and its time of writing set back";
}

interface Opened {
  readonly handle: FileHandle;
  readonly state: FileState;
}

async function openHandle(path: string, flag: number): Promise<Opened> {
  // A named pipe would block the open, and with it a thread of the pool, for ever: the kind is looked at first.
  if (!(await stat(path)).isFile()) throw new IoError("is not a regular file", path);
  const handle = await open(path, constants.O_RDONLY | flag);
  openHandles++;
  try {
    return { handle, state: await handle.stat() };
  } catch (error) {
    await closeHandle(handle, path);
    throw error;
  }
}

async function closeHandle(handle: FileHandle, path: string): Promise<void> {
  try {
    await handle.close();
  } catch (error) {
    throw failure(error, path, "closing it");
  } finally {
    openHandles--;
  }
}

function failure(error: unknown, path: string, doing: string): SpillwayError {
  return ioFailure(error, path, doing, HINTS);
}
