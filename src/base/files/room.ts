// Room on disk for several things that will be written: asked for together, because they may share a file system.
import { stat, statfs } from "node:fs/promises";
import { IoError } from "../errors.ts";
import { existingPart } from "./same-file.ts";

/** Something that will be written. */
export interface RoomRequest {
  /** Where; neither it nor its folder needs to exist. */
  readonly path: string;
  readonly bytes: number;
  /** "2 checkpoints" */
  readonly what: string;
}

/** There is not enough room. `needed` and `free` are bytes of the file system that `path` is on. */
export class RoomError extends IoError {
  readonly needed: number;
  readonly free: number;
  constructor(
    message: string,
    path: string,
    numbers: { needed: number; free: number },
    options?: ErrorOptions,
  ) {
    super(message, path, options);
    this.needed = numbers.needed;
    this.free = numbers.free;
  }
}

/** Bytes free in a folder, or in what exists of the path to it; undefined where the file system does not tell. */
export async function freeBytes(path: string): Promise<number | undefined> {
  const { path: at } = await existingPart(path);
  // Some network and user-space file systems report no blocks at all; that is no statement about room.
  return statfs(at).then(
    ({ blocks, bavail, bsize }) => (blocks > 0 ? bavail * bsize : undefined),
    () => undefined,
  );
}

/**
 * Throws {@link RoomError} where a file system has less room than all that will be written to it. `shown` writes a
 * number of bytes for people. Quotas are not told by the system before they are hit.
 */
export async function requireRoom(
  requests: readonly RoomRequest[],
  shown: (bytes: number) => string,
  advice = "free some, or name another folder",
): Promise<void> {
  const byDevice = new Map<bigint, RoomRequest[]>();
  for (const request of requests) {
    const { path } = await existingPart(request.path);
    const found = await stat(path, { bigint: true }).catch(() => undefined);
    if (!found) continue;
    byDevice.set(found.dev, [...(byDevice.get(found.dev) ?? []), request]);
  }
  for (const all of byDevice.values()) {
    const [first] = all as [RoomRequest];
    const free = await freeBytes(first.path);
    const needed = all.reduce((sum, { bytes }) => sum + bytes, 0);
    if (free === undefined || needed <= free) continue;
    const parts = all.map(
      ({ what, bytes, path }, i) => `${what} ${shown(bytes)}${i > 0 ? ` (${path})` : ""}`,
    );
    throw new RoomError(
      `${parts.join(", ")}: ${needed} bytes (${shown(needed)}) are needed on this disk, which has ${free} bytes free ` +
        `(${shown(free)}); ${advice}`,
      first.path,
      { needed, free },
    );
  }
}
