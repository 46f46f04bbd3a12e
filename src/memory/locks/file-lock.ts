// Locks between processes: a file that says who holds it. Where the system locks open files (flock: local disks, most
// network file systems) it decides whether the holder lives, in other containers too; elsewhere (Windows, some user-space
// file systems) the file's mere existence is the lock, and a holder that cannot be looked for has to be removed by hand.

import { constants, unlinkSync } from "node:fs";
import { type FileHandle, link, mkdir, open, rename, rm, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { lockOpenFile } from "../../backend/ggml/system.ts";
import { IoError } from "../../base/errors.ts";
import {
  identityIn,
  livenessOf,
  type ProcessIdentity,
  shownIdentity,
  thisProcess,
} from "../../base/files/process-identity.ts";
import { systemCode } from "../../base/files/system-code.ts";
import { openNew, temporaryName } from "../../base/files/temporary.ts";
import { parseJson } from "../../base/json.ts";

/** In a folder that one process at a time may write to. */
export const LOCK_FILE = ".spillway.lock";
/** Of what a lock file holds. */
const LONGEST = 4096;
const ATTEMPTS = 20;

/** Somebody else holds a lock. */
export class LockedError extends IoError {
  /** undefined where the lock file does not say. */
  readonly holder: ProcessIdentity | undefined;
  /** The holder is known to be at work, and the lock ends with it: waiting makes sense. */
  readonly ends: boolean;
  constructor(path: string, what: string, holder: ProcessIdentity | undefined, ends: boolean) {
    const who = holder ? shownIdentity(holder) : "another process";
    const then = ends
      ? "wait for it to end, or name another folder"
      : `whether it still runs cannot be seen from here: if it does not, remove ${path} and start again`;
    super(`${what} is in use by ${who}: ${then}`, path);
    this.holder = holder;
    this.ends = ends;
  }
}

/** A lock that is held. Ends with the process at the latest. */
export interface FileLock extends AsyncDisposable {
  readonly path: string;
  /** May be called twice. Does not throw. */
  release(): Promise<void>;
}

/** Locks a folder, which is made if need be, for this process alone. Throws as {@link lockFile}. */
export async function lockFolder(folder: string, what: string): Promise<FileLock> {
  const dir = resolve(folder);
  await mkdir(dir, { recursive: true }).catch((error: unknown) => {
    throw new IoError("the folder could not be made", dir, { cause: error });
  });
  return lockFile(join(dir, LOCK_FILE), what);
}

/**
 * Takes the lock whose file is `path`. `what` is locked thereby: "the output folder". A lock that a process left which is
 * gone is taken over; of several that try, one gets it. Throws {@link LockedError} where another holds it, also another call in
 * this process; IoError where the file cannot be made.
 */
export async function lockFile(path: string, what: string): Promise<FileLock> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const taken = await attemptLock(path, what).catch((error: unknown) => {
      if (error instanceof IoError) throw error;
      const detail = error instanceof Error ? error.message : String(error);
      throw new IoError(`the lock on ${what} could not be taken (${detail})`, path, { cause: error });
    });
    if (taken) return taken;
  }
  throw new LockedError(path, what, await holderIn(path), true);
}

/** Throws {@link LockedError} where another process holds the lock of a folder now. Takes nothing, makes nothing. */
export async function refuseLocked(folder: string, what: string): Promise<void> {
  const path = join(resolve(folder), LOCK_FILE);
  if ((await stat(path).catch(() => undefined)) === undefined) return;
  await (await lockFile(path, what)).release();
}

/** undefined: the file changed hands meanwhile. */
async function attemptLock(path: string, what: string): Promise<FileLock | undefined> {
  const flags =
    constants.O_RDWR | constants.O_CREAT | (constants.O_NOFOLLOW ?? 0) | (constants.O_NONBLOCK ?? 0);
  const handle = await open(path, flags, 0o666);
  try {
    const stats = await handle.stat();
    // A file with a second name is somebody's data.
    if (!stats.isFile() || stats.nlink > 1)
      throw new IoError("is in the way of a lock: it is not a file of its own; move it away", path);
    const state = lockOpenFile(handle.fd);
    if (state === undefined) {
      await handle.close();
      return await lockByExistence(path, what);
    }
    const holder = await holderOf(handle);
    if (state === "held") throw new LockedError(path, what, holder, true);
    if (!(await isStill(path, handle))) {
      await handle.close();
      return undefined;
    }
    // The system's locks may not reach another host: what it left must be judged by people.
    if (holder && livenessOf(holder) === "elsewhere" && holder.boot !== thisProcess().boot)
      throw new LockedError(path, what, holder, false);
    await handle.truncate(0);
    await handle.write(identityText(), 0);
    return new HeldLock(path, handle);
  } catch (error) {
    await handle.close().catch(() => {});
    throw error;
  }
}

/** Without the system's locks: who makes the file has the lock. An empty file is one that {@link attemptLock} has just made. */
async function lockByExistence(path: string, what: string): Promise<FileLock | undefined> {
  const holder = await holderIn(path);
  const text = await startOf(path).catch(() => undefined);
  if (holder) {
    const state = livenessOf(holder);
    if (state !== "gone") throw new LockedError(path, what, holder, state === "alive");
  } else if (text !== undefined && text !== "") throw new LockedError(path, what, undefined, false);
  // Moved away rather than removed: of two that take over, one finds nothing to move.
  const stale = temporaryName(path);
  const moved = await rename(path, stale).then(
    () => true,
    () => false,
  );
  if (moved) {
    const found = await startOf(stale).catch(() => "");
    if (found !== (text ?? "")) {
      // Somebody else took over in between; the lock goes back to its place.
      await rename(stale, path).catch(() => {});
      return undefined;
    }
    await rm(stale, { force: true });
  }
  const mine = temporaryName(path);
  const handle = await openNew(mine);
  try {
    await handle.writeFile(identityText());
  } finally {
    await handle.close();
  }
  try {
    await link(mine, path).catch(async (error: unknown) => {
      if (systemCode(error) === "EEXIST") throw error;
      // No hard links here either.
      const made = await openNew(path);
      await made.writeFile(identityText());
      await made.close();
    });
  } catch (error) {
    if (systemCode(error) === "EEXIST") return undefined;
    throw error;
  } finally {
    await rm(mine, { force: true });
  }
  return new HeldLock(path, undefined);
}

async function isStill(path: string, handle: FileHandle): Promise<boolean> {
  const [there, here] = await Promise.all([
    stat(path, { bigint: true }).catch(() => undefined),
    handle.stat({ bigint: true }),
  ]);
  return there !== undefined && there.dev === here.dev && there.ino === here.ino;
}

function identityText(): string {
  return `${JSON.stringify({ ...thisProcess(), since: new Date().toISOString() })}\n`;
}

async function holderOf(handle: FileHandle): Promise<ProcessIdentity | undefined> {
  return parsed(await readStart(handle));
}

/** As much of an open file as an identity may take. */
async function readStart(handle: FileHandle): Promise<string> {
  const bytes = Buffer.alloc(LONGEST);
  const { bytesRead } = await handle.read(bytes, 0, LONGEST, 0);
  return bytes.subarray(0, bytesRead).toString();
}

/** As {@link readStart}; a named pipe, which nothing may ever be written to, is not waited for. */
async function startOf(path: string): Promise<string> {
  const handle = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  try {
    return await readStart(handle);
  } finally {
    await handle.close();
  }
}

async function holderIn(path: string): Promise<ProcessIdentity | undefined> {
  return parsed(await startOf(path).catch(() => ""));
}

function parsed(text: string): ProcessIdentity | undefined {
  try {
    return identityIn(parseJson(text));
  } catch {
    return undefined;
  }
}

/** Locks of this process, to be removed should it end without releasing them. */
const held = new Set<HeldLock>();

class HeldLock implements FileLock {
  readonly path: string;
  readonly #handle: FileHandle | undefined;
  #released: Promise<void> | undefined;

  constructor(path: string, handle: FileHandle | undefined) {
    this.path = path;
    this.#handle = handle;
    if (held.size === 0) process.on("exit", removeAll);
    held.add(this);
  }

  release(): Promise<void> {
    this.#released ??= this.#release();
    return this.#released;
  }

  async #release(): Promise<void> {
    held.delete(this);
    if (held.size === 0) process.off("exit", removeAll);
    // First the name, then the lock: who opened the file meanwhile sees that it is not the lock's any more.
    if (!this.#handle || (await isStill(this.path, this.#handle).catch(() => false)))
      await rm(this.path, { force: true }).catch(() => {});
    await this.#handle?.close().catch(() => {});
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.release();
  }
}

function removeAll(): void {
  for (const { path } of held) {
    try {
      unlinkSync(path);
    } catch {
      // its folder may be gone
    }
  }
}
