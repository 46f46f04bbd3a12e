// A new file written from start to end past the page cache (O_DIRECT), buffered where that is refused; and the flushing
// of folders. Knows nothing of tensors.
import { constants } from "node:fs";
import { type FileHandle, open, rm } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { DisposedError, IoError } from "../../base/errors.ts";
import { ALIGNMENT } from "../../memory/io/direct-io.ts";
import {
  ATTEMPTS,
  causingCode,
  type Hints,
  ioFailure,
  TRANSIENT,
  WRITE_HINTS,
} from "../../memory/io/system-errors.ts";

/** A call about to be asked of the system while a checkpoint is written. */
export interface SystemWrite {
  readonly call: "mkdir" | "open" | "write" | "truncate" | "sync" | "rename" | "remove";
  readonly path: string;
  /** Bytes of a write, otherwise 0. */
  readonly bytes: number;
}

/** Called before each call; what it throws counts as the system's answer. For fault injection. */
export type BeforeWrite = (call: SystemWrite) => void | Promise<void>;

/** Buffered writes are flushed this often: dirty pages count against the memory of the process's cgroup. Bytes. */
const FLUSH = 64 * 2 ** 20;
/** The numbers of a full disk are told by who saves: see save.ts. */
const HINTS: Hints = { ...WRITE_HINTS, ENOSPC: "the disk is full", EDQUOT: "this user's quota is used up" };

let openHandles = 0;

/** Output files open in this process; for leak tests. */
export function openOutputCount(): number {
  return openHandles;
}

export class OutputFile {
  readonly path: string;
  #handle: FileHandle;
  #direct: boolean;
  /** A direct write has succeeded: from then on EINVAL is our memory, not the file system. */
  #proven = false;
  #unflushed = 0;
  readonly #before: BeforeWrite | undefined;
  #closing: Promise<void> | undefined;

  private constructor(path: string, handle: FileHandle, direct: boolean, before: BeforeWrite | undefined) {
    this.path = path;
    this.#handle = handle;
    this.#direct = direct;
    this.#before = before;
  }

  /** Makes `path`, which must not exist. Throws IoError. */
  static async create(path: string, before?: BeforeWrite): Promise<OutputFile> {
    const flag: number | undefined = constants.O_DIRECT;
    await ask({ call: "open", path, bytes: 0 }, before, async () => {});
    const make = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | (constants.O_NOFOLLOW ?? 0);
    if (flag) {
      try {
        return new OutputFile(path, await openHandle(path, make | flag), true, before);
      } catch (error) {
        if (causingCode(error) !== "EINVAL") throw error;
      }
      // Linux makes the file before it finds that direct I/O is not possible: O_EXCL would refuse our own.
      await rm(path, { force: true });
    }
    return new OutputFile(path, await openHandle(path, make), false, before);
  }

  /** Whether writes go past the page cache. Becomes false if the file system refuses the first of them. */
  get direct(): boolean {
    return this.#direct;
  }

  /** Writes all of `bytes`: memory, position and length in multiples of 4096. Throws IoError. */
  async write(bytes: Uint8Array, position: number): Promise<void> {
    let fruitless = 0;
    for (let done = 0; done < bytes.length; ) {
      if (this.#closing) throw new DisposedError(this.path);
      let next = done + (await this.#once(bytes.subarray(done), position + done));
      // A direct write cannot go on in the middle of a block: the block is written again.
      if (this.#direct && next < bytes.length) next -= next % ALIGNMENT;
      fruitless = next > done ? 0 : fruitless + 1;
      if (fruitless >= ATTEMPTS) {
        const what = `a write of ${bytes.length - done} bytes at ${position + done}`;
        throw new IoError(`${what} moved nothing ${fruitless} times in a row`, this.path);
      }
      if (fruitless > 0) await sleep(2 ** (fruitless - 1));
      done = next;
    }
    if (this.#direct) return;
    this.#unflushed += bytes.length;
    if (this.#unflushed < FLUSH) return;
    this.#unflushed = 0;
    await this.#ask("sync", () => this.#handle.datasync());
  }

  async #once(bytes: Uint8Array, position: number): Promise<number> {
    const direct = this.#direct;
    try {
      const write = () => this.#handle.write(bytes, 0, bytes.length, position);
      const { bytesWritten } = await this.#ask("write", write, bytes.length);
      if (direct) this.#proven = true;
      return bytesWritten;
    } catch (error) {
      const code = causingCode(error) ?? "";
      if (TRANSIENT.has(code)) return 0;
      if (code !== "EINVAL" || !direct || this.#proven) throw error;
      // Some file systems take O_DIRECT at open and refuse it at the first write.
      const refused = this.#handle;
      this.#handle = await openHandle(this.path, constants.O_WRONLY);
      this.#direct = false;
      await closeHandle(refused, this.path);
      return 0;
    }
  }

  /** Cuts the file to `bytes`, flushes it to the device and closes it. Throws IoError. */
  async finish(bytes: number): Promise<void> {
    await this.#ask("truncate", () => this.#handle.truncate(bytes));
    await this.#ask("sync", () => this.#handle.sync());
    await this.close();
  }

  /** To be called with no write in flight. May be called twice. */
  close(): Promise<void> {
    this.#closing ??= closeHandle(this.#handle, this.path);
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #ask<T>(call: SystemWrite["call"], run: () => Promise<T>, bytes = 0): Promise<T> {
    return ask({ call, path: this.path, bytes }, this.#before, run);
  }
}

/** Asks the system, after the hook; its refusal becomes an IoError that names the path. */
export async function ask<T>(
  call: SystemWrite,
  before: BeforeWrite | undefined,
  run: () => Promise<T>,
): Promise<T> {
  try {
    await before?.(call);
    return await run();
  } catch (error) {
    throw failure(error, call.path, call.bytes > 0 ? `${call.call} of ${call.bytes} bytes` : call.call);
  }
}

/** Makes what was made, renamed or removed in a folder survive a power cut. Windows has no handle for that. */
export function syncFolder(folder: string, before?: BeforeWrite): Promise<void> {
  return ask({ call: "sync", path: folder, bytes: 0 }, before, async () => {
    if (process.platform === "win32") return;
    const handle = await open(folder, "r");
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  });
}

async function openHandle(path: string, flags: number): Promise<FileHandle> {
  try {
    const handle = await open(path, flags, 0o666);
    openHandles++;
    return handle;
  } catch (error) {
    throw failure(error, path, "opening it");
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

/** What is not the system's answer stays as it is. */
function failure(error: unknown, path: string, doing: string): unknown {
  return causingCode(error) === undefined ? error : ioFailure(error, path, doing, HINTS);
}
