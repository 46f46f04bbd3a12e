// Folders of checkpoints come and go by renaming: a half-written or half-removed one never has a name that counts.
// Knows names and order, not what is written.

import { lstat, mkdir, readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { ConfigError, IoError } from "../../base/errors.ts";
import { systemCode } from "../../base/files/system-code.ts";
import { sweep, temporaryName } from "../../base/files/temporary.ts";
import { checkpointFolder, infoOf, namesIn, replacementFolder } from "./list.ts";
import { ask, type BeforeWrite, syncFolder } from "./output-file.ts";
import { RECORD_FILE } from "./record.ts";

/** Where a checkpoint is written: a name that nobody else has, and that listings pass over. */
export function temporaryFolder(dir: string, step: number): string {
  return temporaryName(checkpointFolder(dir, step), { hidden: true });
}

/** Where a checkpoint goes that is about to be removed. */
function retiredFolder(dir: string, step: number): string {
  return temporaryName(`${checkpointFolder(dir, step)}.old`, { hidden: true });
}

/** Makes `dir` and what is missing above it, to stay there even after a power cut. Throws IoError. */
export async function makeFolder(dir: string, before?: BeforeWrite): Promise<void> {
  const first = await ask({ call: "mkdir", path: dir, bytes: 0 }, before, () =>
    mkdir(dir, { recursive: true }),
  );
  if (first === undefined) return;
  for (let made = dir; made.length >= first.length; made = dirname(made)) {
    await syncFolder(dirname(made), before);
  }
}

/**
 * Ends what crashes left unfinished in `dir`: removes the temporary folders of processes that are gone, and gives a
 * replacement its name. What cannot be removed is left for the next time.
 */
export async function tidy(dir: string, before?: BeforeWrite): Promise<void> {
  await sweep(dir);
  for (const name of await namesIn(dir)) {
    if (!name.endsWith(".new")) continue;
    const info = await infoOf(join(dir, name));
    if (info && name === basename(replacementFolder(dir, info.step))) {
      const retired = retiredFolder(dir, info.step);
      await finishReplacing(dir, info.step, retired, new Moves(before));
      await discard(retired);
    }
  }
}

/** Throws ConfigError or IoError where the name of the step's checkpoint belongs to something that is none of ours. */
export async function checkReplaceable(dir: string, step: number): Promise<void> {
  const target = checkpointFolder(dir, step);
  if (!(await exists(target))) return;
  const names = await readdir(target).catch((error: unknown) => {
    throw new IoError("is in the way: it is not a folder that can be read", target, { cause: error });
  });
  if (names.length > 0 && !names.includes(RECORD_FILE)) {
    throw new ConfigError(
      `${target} is in the way: it holds files but no ${RECORD_FILE}, so it is not replaced; give another folder`,
    );
  }
}

/**
 * Gives the finished folder `temporary` the name of its step. At every moment a checkpoint of the step that was there
 * before can be found, or the new one. On a failure all is as it was, with `temporary` still there, and the error is thrown.
 */
export async function takeOver(
  dir: string,
  step: number,
  temporary: string,
  before?: BeforeWrite,
): Promise<void> {
  const target = checkpointFolder(dir, step);
  const retired = retiredFolder(dir, step);
  const moves = new Moves(before);
  try {
    if (await exists(target)) {
      const replacement = replacementFolder(dir, step);
      await discard(replacement); // tidy() has left it there only if it is damaged
      await moves.rename(temporary, replacement);
      await syncFolder(dir, before);
      await finishReplacing(dir, step, retired, moves);
    } else {
      await moves.rename(temporary, target);
    }
    await syncFolder(dir, before);
  } catch (error) {
    await moves.undo();
    throw error;
  }
  await discard(retired);
}

/** Removes a checkpoint: it is gone at once or not at all. Throws IoError. */
export async function removeCheckpoint(dir: string, step: number, before?: BeforeWrite): Promise<void> {
  const retired = retiredFolder(dir, step);
  await new Moves(before).rename(checkpointFolder(dir, step), retired);
  await ask({ call: "remove", path: retired, bytes: 0 }, before, () => rm(retired, { recursive: true }));
}

/** Removes a folder that does not count. Never throws: the next save tries again. */
export async function discard(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true }).catch(() => {});
}

async function finishReplacing(dir: string, step: number, retired: string, moves: Moves): Promise<void> {
  const target = checkpointFolder(dir, step);
  if (await exists(target)) await moves.rename(target, retired);
  await moves.rename(replacementFolder(dir, step), target);
}

/** Renames that can be taken back. */
class Moves {
  readonly #done: { readonly from: string; readonly to: string }[] = [];
  readonly #before: BeforeWrite | undefined;
  constructor(before: BeforeWrite | undefined) {
    this.#before = before;
  }

  async rename(from: string, to: string): Promise<void> {
    await ask({ call: "rename", path: to, bytes: 0 }, this.#before, () => rename(from, to));
    this.#done.push({ from, to });
  }

  /** Last one first. Stops where the system refuses: every state on the way is one that listing understands. */
  async undo(): Promise<void> {
    try {
      for (const { from, to } of this.#done.reverse()) await rename(to, from);
    } catch {
      // what led here is the error to tell
    }
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (systemCode(error) === "ENOENT") return false;
    throw new IoError("could not be looked at", path, { cause: error });
  }
}
