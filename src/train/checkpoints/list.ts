// Which training checkpoints a folder holds: the whole ones, by step. Reads records and file sizes, changes nothing.
import { readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { CheckpointError } from "../../base/errors.ts";
import { readFailure } from "../../formats/files/files.ts";
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

/** A folder that has the name of a checkpoint and is not a whole one. */
export interface DamagedCheckpoint {
  readonly path: string;
  readonly step: number;
  /** What is wrong with it, naming the file. */
  readonly error: CheckpointError;
}

/** The folders in `dir` that have the name of a checkpoint and are none, ascending by step. Throws as {@link listCheckpoints}. */
export async function damagedCheckpoints(dir: string): Promise<DamagedCheckpoint[]> {
  const folder = resolve(dir);
  const found: DamagedCheckpoint[] = [];
  for (const name of await namesIn(folder)) {
    const match = NAME.exec(name);
    if (!match || match[2]) continue; // a replacement that is not whole leaves what it would have replaced
    const path = join(folder, name);
    const step = Number(match[1]);
    try {
      const record = await readRecord(path);
      if (record.step === step) continue;
      const error = new CheckpointError(`says it is of step ${record.step}: it was renamed`, { file: path });
      found.push({ path, step, error });
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
      found.push({ path, step, error });
    }
  }
  return found.sort((a, b) => a.step - b.step);
}

/**
 * The checkpoint to go on from in `dir`: the whole one of the highest step; undefined where there is none. One that is
 * damaged is not passed over: CheckpointError names it and what would be next. Throws as {@link listCheckpoints}.
 */
export async function resumableCheckpoint(dir: string): Promise<CheckpointInfo | undefined> {
  const latest = await latestCheckpoint(dir);
  const damaged = (await damagedCheckpoints(dir)).at(-1);
  if (!damaged || damaged.step < (latest?.step ?? -1)) return latest;
  const next = latest
    ? `remove ${damaged.path} to go on from step ${latest.step}, or name ${latest.path}`
    : `there is no other; remove ${damaged.path} to start anew`;
  throw new CheckpointError(`${damaged.error.message} (${next})`, {}, { cause: damaged.error });
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
