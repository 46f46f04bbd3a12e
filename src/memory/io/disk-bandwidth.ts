// How fast weights come off a disk: sequential direct reads, as many in flight as the streamer has, for about a second.
// A measurement for the planner's cost model; the streamer reports what it really got (ReadQueue.stats).
import { randomFillSync, randomUUID } from "node:crypto";
import { type FileHandle, open, rm, stat } from "node:fs/promises";
import path from "node:path";
import { ConfigError, IoError, SpillwayError, throwIfAborted } from "../../base/errors.ts";
import { formatBytes } from "../sizes.ts";
import { type BeforeRead, DirectFile, wholeBlocks } from "./direct-io.ts";
import { ReadQueue } from "./read-queue.ts";

/** Memory at a multiple of 4096. `free` is called once, when no read is in flight. */
export interface ReadBuffer {
  readonly buffer: ArrayBuffer;
  free(): void;
}

export interface BandwidthOptions {
  /** Allocates the memory that is read into, `depth` chunks: native memory of the kind the weights will be in. */
  readonly allocate: (bytes: number) => ReadBuffer;
  /** At most this many bytes are read (and, for a folder, written before); 256 MiB if absent. */
  readonly bytes?: number;
  /** No read starts after this many seconds; 1.5 if absent. */
  readonly seconds?: number;
  /** Reads in flight; as {@link ReadQueue}. */
  readonly depth?: number;
  /** Bytes of one read; as {@link ReadQueue}. */
  readonly chunkBytes?: number;
  readonly signal?: AbortSignal | undefined;
  readonly beforeRead?: BeforeRead | undefined;
}

export interface Bandwidth {
  readonly bytesPerSecond: number;
  /** Bytes that were read, and the time with reads in flight. */
  readonly bytes: number;
  readonly seconds: number;
  /** False: the reads went through the page cache, and may say more about memory than about the disk. */
  readonly direct: boolean;
  /** The file that was read; for a folder one that is gone by now. */
  readonly path: string;
}

const DEFAULTS = { bytes: 256 * 2 ** 20, seconds: 1.5 } as const;

/** Bytes written at once, and how many of them go to the disk before the clock is looked at. */
const WRITE = { block: 4 * 2 ** 20, sync: 4 } as const;

/**
 * Measures the disk under `paths`: reads the largest of the files, once through at most; or, where `paths` is a folder,
 * a file of incompressible bytes that is written there and removed. Throws {@link IoError} if there is nothing to read
 * or the disk fails, AbortError when the signal fires; the memory is freed and the file removed whatever happens.
 */
export async function measureReadBandwidth(
  paths: string | readonly string[],
  options: BandwidthOptions,
): Promise<Bandwidth> {
  bounds(options);
  throwIfAborted(options.signal);
  const found = await largest(typeof paths === "string" ? [paths] : paths);
  if (!found.folder) return measureFile(found.path, options);
  const scratch = path.join(found.path, `.spillway-bandwidth-${randomUUID()}`);
  try {
    await writeRandom(scratch, options);
    return await measureFile(scratch, options);
  } finally {
    await rm(scratch, { force: true }).catch((error: unknown) => {
      throw ioError(error, scratch, "could not be removed");
    });
  }
}

async function largest(paths: readonly string[]): Promise<{ path: string; folder: boolean }> {
  let best: { path: string; folder: boolean; size: number } | undefined;
  for (const one of paths) {
    const found = await stat(one).catch((error: unknown) => {
      throw ioError(error, one, "could not be looked at");
    });
    const size = found.isFile() ? found.size : -1;
    if (found.isDirectory() || found.isFile()) {
      if (!best || size > best.size) best = { path: one, folder: found.isDirectory(), size };
    }
  }
  if (!best) throw new IoError("there is no file to measure", paths[0]);
  return best;
}

async function measureFile(file: string, options: BandwidthOptions): Promise<Bandwidth> {
  const queue = new ReadQueue(options);
  const source = await DirectFile.open(file);
  try {
    if (source.size === 0) throw new IoError("is empty: there is nothing to measure", file);
    const memory = options.allocate(queue.depth * queue.chunkBytes);
    try {
      await readThrough(queue, source, memory.buffer, options);
    } finally {
      memory.free();
    }
    const { bytes, busySeconds } = queue.stats();
    // A clock too coarse for a small file must not become an infinite bandwidth.
    const seconds = Math.max(busySeconds, 1e-6);
    return { bytesPerSecond: bytes / seconds, bytes, seconds, direct: source.direct, path: file };
  } finally {
    await source.close();
  }
}

/** One reader per part of the memory takes the next chunk of the file, until the file, the bytes or the time is over. */
async function readThrough(
  queue: ReadQueue,
  source: DirectFile,
  target: ArrayBuffer,
  options: BandwidthOptions,
): Promise<void> {
  const { bytes, seconds } = bounds(options);
  const end = wholeBlocks(Math.min(source.size, bytes));
  const deadline = performance.now() + seconds * 1000;
  let next = 0;
  let failed = false;
  const reader = async (slot: number) => {
    // The first chunk is read whatever the time, so that there always is a measurement.
    while (!failed && next < end && (next === 0 || performance.now() < deadline)) {
      const fileOffset = next;
      const length = Math.min(queue.chunkBytes, end - fileOffset);
      next += length;
      const request = { file: source, fileOffset, length, target, targetOffset: slot * queue.chunkBytes };
      try {
        await queue.submit(request, options.signal);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const readers = await Promise.allSettled(Array.from({ length: queue.depth }, (_, slot) => reader(slot)));
  for (const result of readers) if (result.status === "rejected") throw result.reason;
}

/** Writes for as long as a measurement may take, and to the disk itself: reads must not meet pages still in memory. */
async function writeRandom(file: string, options: BandwidthOptions): Promise<void> {
  const { bytes, seconds } = bounds(options);
  const block = randomFillSync(Buffer.allocUnsafe(Math.min(WRITE.block, wholeBlocks(bytes))));
  let handle: FileHandle | undefined;
  let written = 0;
  try {
    handle = await open(file, "wx");
    const deadline = performance.now() + seconds * 1000;
    for (let blocks = 1; written < bytes && (written === 0 || performance.now() < deadline); blocks++) {
      throwIfAborted(options.signal);
      // Blocks that differ, for file systems that store equal ones once.
      block.writeDoubleLE(written, 0);
      const { bytesWritten } = await handle.write(block);
      written += bytesWritten;
      if (blocks % WRITE.sync === 0) await handle.datasync();
    }
    await handle.datasync();
  } catch (error) {
    throw ioError(error, file, `could not be written (${formatBytes(written)} were)`);
  } finally {
    await handle?.close();
  }
}

function bounds({ bytes = DEFAULTS.bytes, seconds = DEFAULTS.seconds }: BandwidthOptions) {
  if (bytes > 0 && seconds > 0) return { bytes, seconds };
  throw new ConfigError(`a bandwidth cannot be measured over ${bytes} bytes and ${seconds} seconds`);
}

function ioError(error: unknown, file: string, what: string): SpillwayError {
  if (error instanceof SpillwayError) return error;
  const detail = error instanceof Error ? error.message : String(error);
  return new IoError(`${what}: ${detail}`, file, { cause: error });
}
