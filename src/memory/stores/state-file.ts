// A scratch file that lives as long as the process has it open: made under a name, unlinked at once, read and written
// past the page cache where that is possible. One transfer at a time per call; who may overlap is decided by others.
import { constants } from "node:fs";
import { type FileHandle, mkdir, open, rm, statfs } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { DisposedError, IoError, type SpillwayError, throwIfAborted } from "../../base/errors.ts";
import { sweepOnce, temporaryName } from "../../base/files/temporary.ts";
import { ALIGNMENT, DirectFile, wholeBlocks } from "../io/direct-io.ts";
import {
  ATTEMPTS,
  causingCode,
  ioFailure,
  MAX_TRANSFER,
  TRANSIENT,
  WRITE_HINTS,
} from "../io/system-errors.ts";

/** One read or write about to be asked of the system. */
export interface SystemTransfer {
  readonly direction: "read" | "write";
  readonly position: number;
  /** Bytes. May be lowered: the transfer is then short, as the system's may be. */
  length: number;
}

/** Called before each transfer; what it throws counts as the system's answer. For fault injection. */
export type BeforeTransfer = (transfer: SystemTransfer) => void | Promise<void>;

export interface StateFileOptions {
  /** Past the page cache where the platform and the file system can; true if absent. */
  readonly direct?: boolean | undefined;
  readonly beforeTransfer?: BeforeTransfer | undefined;
}

let openHandles = 0;

/** State files open in this process; for leak tests. */
export function openStateFileCount(): number {
  return openHandles;
}

export class StateFile {
  /** The name it was made under. */
  readonly path: string;
  readonly #folder: string;
  readonly #handle: FileHandle;
  readonly #direct: boolean;
  readonly #before: BeforeTransfer | undefined;
  #named = true;
  #closing: Promise<void> | undefined;

  private constructor(file: string, handle: FileHandle, direct: boolean, before: BeforeTransfer | undefined) {
    this.path = file;
    this.#folder = path.dirname(file);
    this.#handle = handle;
    this.#direct = direct;
    this.#before = before;
  }

  /**
   * Makes an empty file of a name of its own in `folder`, which is made if need be, and tries a block of 4096 bytes
   * on it: `probe` is host memory for that block. Throws {@link IoError} where the folder cannot be written.
   */
  static async create(
    folder: string,
    probe: ArrayBuffer,
    options: StateFileOptions = {},
  ): Promise<StateFile> {
    const flag: number | undefined = constants.O_DIRECT;
    await mkdir(folder, { recursive: true }).catch((error: unknown) => {
      throw failure(error, folder, "making the folder");
    });
    if ((options.direct ?? true) && flag) {
      const file = await StateFile.#try(folder, flag, probe, options).catch((error: unknown) => {
        // Some file systems refuse direct I/O when the file is opened, some at the first transfer.
        if (causingCode(error) === "EINVAL") return undefined;
        throw error;
      });
      if (file) return file;
    }
    return StateFile.#try(folder, 0, probe, options);
  }

  static async #try(folder: string, flag: number, probe: ArrayBuffer, options: StateFileOptions) {
    const { file, handle } = await openScratch(path.resolve(folder), flag);
    const state = new StateFile(file, handle, flag !== 0, options.beforeTransfer);
    try {
      const block = new Uint8Array(probe, 0, ALIGNMENT).fill(0);
      await state.transfer("write", block, 0);
      await state.transfer("read", block, 0);
      await state.truncate(0);
      // Nothing is left behind even by a crash. Where an open file keeps its name, closing removes it.
      state.#named = await rm(file).then(
        () => false,
        () => true,
      );
      return state;
    } catch (error) {
      await state.close();
      throw error;
    }
  }

  /** Whether transfers go past the page cache. They then need multiples of 4096: memory, position and length. */
  get direct(): boolean {
    return this.#direct;
  }

  /** The file for those who only read, such as a streamer. Open for as long as this is; closing it is not needed. */
  reader(): DirectFile {
    return DirectFile.sharing(this.#handle, this.path, this.#direct);
  }

  /** Bytes free for this file's growth as its file system tells; undefined where it does not. */
  async available(): Promise<number | undefined> {
    const { blocks, bavail, bsize } = await statfs(this.#folder).catch((error: unknown) => {
      throw failure(error, this.#folder, "asking how much is free");
    });
    // Some network file systems report no blocks at all; that is no statement about room.
    return blocks > 0 ? bavail * bsize : undefined;
  }

  /**
   * Reads into or writes from `bytes` at `position`. Short and interrupted transfers are continued; the signal is looked
   * at between two of them. Throws {@link IoError} with the system's reason, AbortError, {@link DisposedError}.
   */
  async transfer(
    direction: "read" | "write",
    bytes: Uint8Array,
    position: number,
    signal?: AbortSignal,
  ): Promise<void> {
    const end = bytes.byteLength;
    let fruitless = 0;
    for (let done = 0; done < end; ) {
      throwIfAborted(signal);
      if (this.#closing) throw new DisposedError(this.path);
      const part = bytes.subarray(done, done + MAX_TRANSFER);
      let next = done + (await this.#once(direction, part, position + done));
      // A direct transfer cannot go on in the middle of a block: the block is moved again.
      if (this.#direct && next < end) next -= next % ALIGNMENT;
      fruitless = next > done ? 0 : fruitless + 1;
      if (fruitless >= ATTEMPTS) {
        const what = `a ${direction} of ${part.byteLength} bytes at ${position + done}`;
        throw new IoError(`${what} moved nothing ${fruitless} times in a row`, this.path);
      }
      if (fruitless > 0) await sleep(2 ** (fruitless - 1));
      done = next;
    }
  }

  /** Bytes moved by one call of the system; 0 where it asks to be called again. */
  async #once(direction: "read" | "write", part: Uint8Array, position: number): Promise<number> {
    const transfer: SystemTransfer = { direction, position, length: part.byteLength };
    try {
      await this.#before?.(transfer);
      const whole = this.#direct ? wholeBlocks(transfer.length) : transfer.length;
      const asked = Math.min(whole, part.byteLength);
      const moved =
        direction === "read"
          ? (await this.#handle.read(part, 0, asked, position)).bytesRead
          : (await this.#handle.write(part, 0, asked, position)).bytesWritten;
      return Math.min(moved, transfer.length);
    } catch (error) {
      if (TRANSIENT.has(causingCode(error) ?? "")) return 0;
      throw failure(error, this.path, `a ${direction} of ${part.byteLength} bytes at ${position}`);
    }
  }

  /** Makes the file `bytes` long. */
  async truncate(bytes: number): Promise<void> {
    if (this.#closing) throw new DisposedError(this.path);
    await this.#handle.truncate(bytes).catch((error: unknown) => {
      throw failure(error, this.path, `making it ${bytes} bytes long`);
    });
  }

  /** To be called with no transfer in flight. May be called twice. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    try {
      await this.#handle.close();
    } catch (error) {
      throw failure(error, this.path, "closing it");
    } finally {
      openHandles--;
      if (this.#named) await rm(this.path, { force: true }).catch(() => {});
    }
  }
}

/** Opens a file that did not exist, under a name that no other process makes. What gone processes left is removed. */
async function openScratch(folder: string, flag: number): Promise<{ file: string; handle: FileHandle }> {
  await sweepOnce(folder);
  for (;;) {
    const file = temporaryName(path.join(folder, "spillway.state"));
    try {
      const flags =
        constants.O_RDWR | constants.O_CREAT | constants.O_EXCL | (constants.O_NOFOLLOW ?? 0) | flag;
      const handle = await open(file, flags, 0o600);
      openHandles++;
      return { file, handle };
    } catch (error) {
      const code = causingCode(error);
      if (code === "EEXIST") continue;
      // Linux makes the file before it finds that direct I/O is not possible.
      if (code === "EINVAL") await rm(file, { force: true }).catch(() => {});
      throw failure(error, file, "making it");
    }
  }
}

function failure(error: unknown, file: string, doing: string): SpillwayError {
  return ioFailure(error, file, doing, WRITE_HINTS);
}
