// Which training checkpoints a folder holds: the whole ones, by step. Reads records and file sizes, changes nothing.
import { readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { readFailure } from "../../checkpoint/files.ts";
import { CheckpointError } from "../../errors.ts";
import { readRecord } from "./record.ts";

/** A whole checkpoint. */
export interface CheckpointInfo {
  /** Absolute, of its folder. */
  readonly path: string;
  readonly step: number;
  /** Loss on the validation data, where it was measured and finite. */
  readonly eval_loss: number | undefined;
  /** Of its tensor files. */
  readonly bytes: number;
}

const NAME = /^checkpoint-(0|[1-9]\d*)(\.new)?$/;

/** The folder of a step's checkpoint. */
export function checkpointFolder(dir: string, step: number): string {
  return join(dir, `checkpoint-${step}`);
}

/** A whole checkpoint about to take the place of an earlier one of its step. It counts as soon as it has this name. */
export function replacementFolder(dir: string, step: number): string {
  return `${checkpointFolder(dir, step)}.new`;
}

/**
 * The whole checkpoints in `dir`, ascending by step; none if there is no such folder. What a crash left half-written is
 * not among them, nor is a folder with damaged or missing files.
 * Throws IoError where the system refuses, UnsupportedError for a checkpoint of a later version.
 */
export async function listCheckpoints(dir: string): Promise<CheckpointInfo[]> {
  const folder = resolve(dir);
  const byStep = new Map<number, CheckpointInfo>();
  // "checkpoint-5.new" sorts after "checkpoint-5" and thus replaces it here too.
  for (const name of await namesIn(folder)) {
    const match = NAME.exec(name);
    if (!match) continue;
    const info = await infoOf(join(folder, name));
    if (info && info.step === Number(match[1])) byStep.set(info.step, info);
  }
  return [...byStep.values()].sort((a, b) => a.step - b.step);
}

/** The whole checkpoint of the highest step, if there is one. Throws as {@link listCheckpoints}. */
export async function latestCheckpoint(dir: string): Promise<CheckpointInfo | undefined> {
  return (await listCheckpoints(dir)).at(-1);
}

/** The whole checkpoint of the lowest eval_loss, the first of equals. Throws as {@link listCheckpoints}. */
export async function bestCheckpoint(dir: string): Promise<CheckpointInfo | undefined> {
  return bestOf(await listCheckpoints(dir));
}

export function bestOf(checkpoints: readonly CheckpointInfo[]): CheckpointInfo | undefined {
  let best: CheckpointInfo | undefined;
  for (const one of checkpoints) {
    if (one.eval_loss === undefined) continue;
    if (best?.eval_loss === undefined || one.eval_loss < best.eval_loss) best = one;
  }
  return best;
}

/** Names in a folder, sorted; none if there is no such folder. Throws IoError. */
export async function namesIn(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder)).sort();
  } catch (error) {
    const failure = readFailure(error, folder);
    if (failure instanceof CheckpointError) return [];
    throw failure;
  }
}

/** What is at `path`, if it is a whole checkpoint. */
export async function infoOf(path: string): Promise<CheckpointInfo | undefined> {
  try {
    const { step, eval_loss, files } = await readRecord(path);
    return { path, step, eval_loss, bytes: files.reduce((sum, { bytes }) => sum + bytes, 0) };
  } catch (error) {
    if (error instanceof CheckpointError) return undefined;
    throw error;
  }
}
