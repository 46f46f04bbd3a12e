// Files that appear whole or not at all: written beside their target, flushed to the device, then renamed over it.

import { type FileHandle, open, rename, rm, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { IoError } from "../../base/errors.ts";
import { RoomError } from "../../base/files/room.ts";
import { systemCode } from "../../base/files/system-code.ts";
import { openNew, sweepOnce, temporaryName } from "../../base/files/temporary.ts";
import { DirectWriter } from "../../memory/io/direct-writer.ts";

/** A complete file that does not have its name yet. Either commit it or discard it. */
export interface StagedFile {
  readonly target: string;
  /** Gives the file its name, replacing what had it. Throws IoError and keeps the staged file if the system refuses. */
  commit(): Promise<void>;
  /** Removes the staged file. Does not throw. */
  discard(): Promise<void>;
}

/** Targets being written by this process: of two writers the last would win, whichever that is. */
const busy = new Set<string>();

/** Calls `write` with a position-addressed sink. */
export type WriteBody = (sink: Sink) => Promise<void>;

/** Where a staged file's bytes go. */
export interface Sink {
  /** Appends `chunk`. The chunk may be reused once the promise settles. */
  append(chunk: Uint8Array): Promise<void>;
  /** Appends `bytes` zeros as a hole, which takes no room on file systems that have them. */
  skip(bytes: number): Promise<void>;
  /** Bytes so far. */
  readonly position: number;
}

/**
 * Writes a file of a name of its own beside `target` with `write`, past the page cache where that is possible, and flushes
 * it; what a process that is gone left there is removed. On any failure the temporary file is removed and the error
 * thrown: what `write` threw, or an IoError which for a full device says how many bytes were needed (`bytes`).
 */
export async function stageFile(target: string, bytes: number, write: WriteBody): Promise<StagedFile> {
  if (busy.has(target)) throw new IoError("is already being written by this process", target);
  busy.add(target);
  const temporary = temporaryName(target);
  const discard = async (): Promise<void> => {
    busy.delete(target);
    // What led here is thrown by the caller; that the remains cannot be removed is less worth knowing.
    await rm(temporary, { force: true }).catch(() => undefined);
  };
  try {
    await sweepOnce(dirname(target));
    const handle = await refused(openNew(temporary), target, bytes);
    try {
      const sink = new FileSink(handle, target, bytes);
      try {
        await write(sink);
        await sink.finish();
      } finally {
        await sink.dispose();
      }
    } finally {
      await handle.close();
    }
  } catch (error) {
    await discard();
    throw error;
  }
  const commit = async (): Promise<void> => {
    try {
      await rename(temporary, target);
      await flushFolder(dirname(target));
    } catch (error) {
      throw new IoError(`the finished file could not be renamed from ${temporary}`, target, { cause: error });
    } finally {
      busy.delete(target);
    }
  };
  return { target, commit, discard };
}

/** Writes `target` atomically: stages it, then commits. See {@link stageFile}. */
export async function replaceFile(target: string, bytes: number, write: WriteBody): Promise<void> {
  const staged = await stageFile(target, bytes, write);
  try {
    await staged.commit();
  } catch (error) {
    await staged.discard();
    throw error;
  }
}

/** Throws IoError if the file system of `folder` has less than `bytes` free: better now than hours into the writing. */
export async function requireSpace(folder: string, bytes: number): Promise<void> {
  const { blocks, bavail, bsize } = await refused(statfs(folder), folder, bytes);
  const free = bavail * bsize;
  // Some network and user-space file systems report no blocks at all; that is no statement about room.
  if (blocks > 0 && free < bytes) {
    throw new RoomError(
      `needs ${bytes} bytes, the device has ${free} bytes free: free some or choose another`,
      folder,
      { needed: bytes, free },
    );
  }
}

class FileSink implements Sink {
  readonly #writer: DirectWriter;
  readonly #target: string;
  readonly #bytes: number;

  constructor(handle: FileHandle, target: string, bytes: number) {
    this.#writer = new DirectWriter(handle);
    this.#target = target;
    this.#bytes = bytes;
  }

  get position(): number {
    return this.#writer.position;
  }

  append(chunk: Uint8Array): Promise<void> {
    return refused(this.#writer.append(chunk), this.#target, this.#bytes);
  }

  skip(bytes: number): Promise<void> {
    return refused(this.#writer.skip(bytes), this.#target, this.#bytes);
  }

  finish(): Promise<void> {
    return refused(this.#writer.finish(), this.#target, this.#bytes);
  }

  dispose(): Promise<void> {
    return this.#writer.dispose();
  }
}

/** Awaits a system call of the writing side; its refusal becomes an IoError naming the target. */
async function refused<T>(call: Promise<T>, target: string, bytes: number): Promise<T> {
  try {
    return await call;
  } catch (error) {
    const code = systemCode(error);
    const detail = error instanceof Error ? error.message : String(error);
    const problem =
      code === "ENOSPC" || code === "EDQUOT"
        ? `no space left on the device: ${bytes} bytes are needed; free some or choose another folder`
        : `could not be written (${detail})`;
    throw new IoError(problem, target, { cause: error });
  }
}

/** Makes a rename survive a power cut. Windows has no handle for that. */
async function flushFolder(folder: string): Promise<void> {
  if (process.platform === "win32") return;
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
