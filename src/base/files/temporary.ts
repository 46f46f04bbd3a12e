// Names for files and folders that are not finished yet. A name says which process made it, so that what a crash left is
// told from what another process is writing: https://cwe.mitre.org/data/definitions/377.html lists what fixed names cost.
import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, lstat, open, readdir, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { isRunning, placeTag, thisProcess } from "./process-identity.ts";

/** What is left of a process that cannot be looked for (another host, another container) is removed after this. Milliseconds. */
export const FOREIGN_AGE = 7 * 24 * 3600 * 1000;

/** `.tmp-PLACE-PID-START-RANDOM` at the end of a name. */
const TAG = /\.tmp-([0-9a-f]{12})-(\d{1,10})-(\d{0,20})-[0-9a-f]{12}$/;
/** Of the name before the tag: names have at most 255 bytes on most systems. */
const LONGEST_STEM = 180;

/** A name beside `target` that no other process and no other call has. With `hidden`, listings pass over it. */
export function temporaryName(target: string, { hidden = false } = {}): string {
  const { pid, start } = thisProcess();
  let stem = basename(target);
  while (Buffer.byteLength(stem) > LONGEST_STEM) stem = stem.slice(0, -1);
  const tag = `.tmp-${placeTag()}-${pid}-${start}-${randomBytes(6).toString("hex")}`;
  return join(dirname(target), `${hidden ? "." : ""}${stem}${tag}`);
}

/** Whose a temporary name is. undefined: it is none of ours. */
export function ownerOf(name: string): "alive" | "gone" | "elsewhere" | undefined {
  const [, place, pid, start] = TAG.exec(name) ?? [];
  if (place === undefined) return undefined;
  if (place !== placeTag()) return "elsewhere";
  return isRunning(Number(pid), start ?? "") ? "alive" : "gone";
}

/** The name without its tag, or undefined. */
export function stemOf(name: string): string | undefined {
  const at = TAG.exec(name)?.index;
  return at === undefined ? undefined : name.slice(0, at);
}

/** Opens a file that does not exist yet for writing; never through a link. Rejects with the system's error. */
export function openNew(path: string, flags = 0, mode = 0o666): Promise<FileHandle> {
  const noFollow: number | undefined = constants.O_NOFOLLOW;
  return open(
    path,
    constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | (noFollow ?? 0) | flags,
    mode,
  );
}

/** What {@link sweep} found. Names in the folder. */
export interface Leftovers {
  readonly removed: readonly string[];
  /** Of processes that cannot be looked for, and younger than {@link FOREIGN_AGE}; or the system refused. */
  readonly left: readonly string[];
}

/**
 * Removes temporary files and folders in `folder` whose process is gone. What others are writing stays. Never throws: a
 * folder that cannot be read has nothing to remove.
 */
export async function sweep(folder: string, now = Date.now()): Promise<Leftovers> {
  const removed: string[] = [];
  const left: string[] = [];
  for (const name of await readdir(folder).catch(() => [])) {
    const owner = ownerOf(name);
    if (owner === undefined || owner === "alive") continue;
    const path = join(folder, name);
    const old = async () => now - (await lstat(path)).mtimeMs > FOREIGN_AGE;
    try {
      if (owner === "gone" || (await old())) {
        await rm(path, { recursive: true, force: true });
        removed.push(name);
      } else left.push(name);
    } catch {
      left.push(name);
    }
  }
  return { removed, left };
}

const swept = new Map<string, Promise<Leftovers>>();

/** {@link sweep}, once for each folder as long as this process lives. */
export function sweepOnce(folder: string): Promise<Leftovers> {
  const known = swept.get(folder);
  if (known) return known;
  const begun = sweep(folder);
  swept.set(folder, begun);
  return begun;
}
