// Opening and reading regular files: handles are always closed, and the system's errors become ours.
// Buffered reads of headers and small tensors; weights go through the direct I/O of memory/.
import { constants, type Stats } from "node:fs";
import { type FileHandle, open, readdir, stat } from "node:fs/promises";
import { CheckpointError, IoError, SpillwayError } from "../../base/errors.ts";
import { systemCode } from "../../base/files/system-code.ts";

/** What `error` means for `path`: the system's errors become a CheckpointError or an IoError, others stay as they are. */
export function readFailure(error: unknown, path: string): unknown {
  const code = systemCode(error);
  if (error instanceof SpillwayError || code === undefined) return error;
  if (code === "ENOENT" || code === "ENOTDIR") {
    return new CheckpointError("does not exist", { file: path }, { cause: error });
  }
  const detail = error instanceof Error ? error.message : String(error);
  return new IoError(`could not be read (${detail})`, path, { cause: error });
}

/** `stat`, or undefined where there is nothing at `path`. Throws IoError for every other refusal. */
export async function statIfPresent(path: string): Promise<Stats | undefined> {
  try {
    return await stat(path);
  } catch (error) {
    const failure = readFailure(error, path);
    if (failure instanceof CheckpointError) return undefined;
    throw failure;
  }
}

/** Names in a folder, sorted. */
export async function listFolder(path: string): Promise<string[]> {
  try {
    return (await readdir(path)).sort();
  } catch (error) {
    throw readFailure(error, path);
  }
}

/**
 * Opens the regular file at `path` for reading, calls `use`, and closes it whatever happens.
 * Throws CheckpointError if it does not exist or is not a regular file, IoError if the system refuses.
 */
export async function withFile<T>(
  path: string,
  use: (handle: FileHandle, stats: Stats) => Promise<T>,
): Promise<T> {
  try {
    // A named pipe would block the open for ever, and opening a device may do something, so the kind of file is looked at
    // first; and again in what was opened, for it may have been put in the file's place meanwhile.
    requireFile(await stat(path), path);
    const handle = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
    try {
      const stats = await handle.stat();
      requireFile(stats, path);
      return await use(handle, stats);
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw readFailure(error, path);
  }
}

function requireFile(stats: Stats, path: string): void {
  if (stats.isFile()) return;
  const what = stats.isDirectory() ? "a directory" : stats.isFIFO() ? "a named pipe" : "a device or socket";
  throw new CheckpointError(`is not a regular file but ${what}`, { file: path });
}

/** One read(2) cannot take more than 2 GiB - 4 KiB on Linux. */
const MAX_READ = 2 ** 30;

/** Fills `into` from byte `position` of the file. Throws IoError where the file ends before that. */
export async function readExactly(
  handle: FileHandle,
  into: Uint8Array,
  position: number,
  path: string,
): Promise<void> {
  let done = 0;
  while (done < into.length) {
    const length = Math.min(into.length - done, MAX_READ);
    const { bytesRead } = await handle.read(into, done, length, position + done);
    if (bytesRead === 0) {
      throw new IoError(
        `ended at byte ${position + done}, ${into.length - done} bytes early: it was cut short while it was read`,
        path,
      );
    }
    done += bytesRead;
  }
}
