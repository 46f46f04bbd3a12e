// Saves a training state as a folder that appears whole or not at all, through two pieces of memory whatever its size.
// Where the name is taken over and old ones go is in folders.ts.
import { join, resolve } from "node:path";
import { crc32 } from "node:zlib";
import type { BufferType, NativeBuffer } from "../../backend/ggml/buffer.ts";
import { ConfigError, IoError, SpillwayError, throwIfAborted } from "../../base/errors.ts";
import { freeBytes, RoomError } from "../../base/files/room.ts";
import { requireSpace } from "../../formats/files/staged-file.ts";
import { wholeBlocks } from "../../memory/io/direct-io.ts";
import { causingCode } from "../../memory/io/system-errors.ts";
import type { Ledger } from "../../memory/ledger.ts";
import { formatBytes } from "../../memory/sizes.ts";
import {
  checkReplaceable,
  discard,
  makeFolder,
  removeCheckpoint,
  takeOver,
  temporaryFolder,
  tidy,
} from "./folders.ts";
import { bestOf, checkpointFolder, listCheckpoints } from "./list.ts";
import { type BeforeWrite, OutputFile, syncFolder } from "./output-file.ts";
import { RECORD_FILE, recordBound, recordText, type StateRecord } from "./record.ts";
import { PIECE, Staging } from "./staging.ts";
import { layOutState, type StateFileLayout, type StateTensor } from "./tensors.ts";

export interface TrainingState {
  /** Optimizer steps done. */
  readonly step: number;
  /** Anything JSON holds: data cursor, options, versions. */
  readonly meta: Readonly<Record<string, unknown>>;
  /** Nothing may write to their regions meanwhile. */
  readonly tensors: readonly StateTensor[];
  /** Loss on the validation data. One that is not finite is saved as none. */
  readonly eval_loss?: number | undefined;
}

export interface SaveStateOptions {
  /** Two pieces of 4 MiB are entered here, on cpu. */
  readonly ledger: Ledger;
  /** Host memory. */
  readonly memory: BufferType;
  readonly signal?: AbortSignal | undefined;
  /** Most checkpoints left in the folder after this one; all if absent. The oldest go first, this one never. */
  readonly keep?: number | undefined;
  /** The one of the lowest eval_loss stays too, even as one more than `keep`. */
  readonly keepBest?: boolean | undefined;
  /** Most bytes of tensors in a file; 4 GiB if absent. A larger tensor has a file of its own. */
  readonly max_shard_bytes?: number | undefined;
  /** For fault injection. */
  readonly beforeWrite?: BeforeWrite | undefined;
}

/** Folders this process is saving to: a second save would share the first one's temporary folder. */
const busy = new Set<string>();

/**
 * Saves `state` as `dir`/checkpoint-<step> and resolves to that path. It is flushed to the device when it gets its name,
 * and replaces a checkpoint of the same step. After a failure, an abort or a crash the earlier ones are as they were.
 *
 * Throws CheckpointError or ConfigError for a state that cannot be saved, BudgetError, IoError (with the bytes needed and
 * free where the disk is full; with the path saved where only an old checkpoint could not be removed), AbortError.
 */
export async function saveCheckpoint(
  dir: string,
  state: TrainingState,
  options: SaveStateOptions,
): Promise<string> {
  throwIfAborted(options.signal);
  const { keep } = options;
  if (keep !== undefined && (!Number.isSafeInteger(keep) || keep < 1)) {
    throw new ConfigError(
      `keep is ${keep}: give a whole number of checkpoints from 1 on, or none to keep all`,
    );
  }
  const folder = resolve(dir);
  if (busy.has(folder)) throw new IoError("a checkpoint is being saved there; await it first", folder);
  busy.add(folder);
  try {
    const target = checkpointFolder(folder, state.step);
    const layouts = layOutState(target, state.tensors, options.max_shard_bytes);
    await write(folder, layouts, recordOf(state, layouts), options);
    if (keep !== undefined) await prune(folder, state.step, keep, options);
    return target;
  } finally {
    busy.delete(folder);
  }
}

/** Bytes that a checkpoint of these tensors takes, about: beside them a record with `meta`. */
export function checkpointBytes(state: Omit<TrainingState, "step">, max_shard_bytes?: number): number {
  const layouts = layOutState("", state.tensors, max_shard_bytes);
  return bytesOf(layouts, recordOf({ ...state, step: 0 }, layouts));
}

function bytesOf(layouts: readonly StateFileLayout[], record: StateRecord): number {
  const names = layouts.flatMap(({ tensors }) => tensors.map(({ tensor }) => tensor.name));
  return layouts.reduce((sum, { bytes }) => sum + bytes, recordBound(record, names));
}

/** Before the checksums of its tensors are known. */
function recordOf(state: TrainingState, layouts: readonly StateFileLayout[]): StateRecord {
  const { step, eval_loss, meta } = state;
  const files = layouts.map(({ name, bytes }) => ({ name, bytes }));
  return { step, eval_loss, meta, files, checksums: {} };
}

async function write(
  folder: string,
  layouts: readonly StateFileLayout[],
  record: StateRecord,
  options: SaveStateOptions,
): Promise<void> {
  const { step } = record;
  const { ledger, memory, beforeWrite, keep, signal } = options;
  const temporary = temporaryFolder(folder, step);
  const needed = bytesOf(layouts, record); // throws for a record that cannot be written
  const checksums: Record<string, number> = {};
  await using staging = new Staging(ledger, memory);
  try {
    await makeFolder(folder, beforeWrite);
    await tidy(folder, beforeWrite);
    // What could not be told apart after the saving is better refused before it.
    if (keep !== undefined) await listCheckpoints(folder);
    await checkReplaceable(folder, step);
    await requireSpace(folder, needed);
    await makeFolder(temporary, beforeWrite);
    for (const layout of layouts) await writeTensors(temporary, layout, staging, options, checksums);
    const text = new TextEncoder().encode(recordText({ ...record, checksums }));
    await writeFile(join(temporary, RECORD_FILE), staging, beforeWrite, (append) =>
      append(text.length, (piece, at, from, length) => copyOf(text, piece, at, from, length)),
    );
    await syncFolder(temporary, beforeWrite);
    throwIfAborted(signal);
    await takeOver(folder, step, temporary, beforeWrite);
  } catch (error) {
    await staging.drain().catch(() => {});
    await discard(temporary);
    throw await explained(error, folder, needed);
  }
}

/** Puts bytes [from, from + length) of what is written to `at` of the piece. */
type Fill = (piece: NativeBuffer, at: number, from: number, length: number) => Promise<void> | void;
type Append = (bytes: number, fill: Fill) => Promise<void>;

async function writeTensors(
  folder: string,
  layout: StateFileLayout,
  staging: Staging,
  { beforeWrite, signal }: SaveStateOptions,
  checksums: Record<string, number>,
): Promise<void> {
  const { name, header, tensors } = layout;
  await writeFile(join(folder, name), staging, beforeWrite, async (append) => {
    await append(header.length, (piece, at, from, length) => copyOf(header, piece, at, from, length));
    for (const { tensor, bytes } of tensors) {
      const { region, offset = 0 } = tensor;
      let sum = 0;
      await append(bytes, async (piece, at, from, length) => {
        throwIfAborted(signal);
        try {
          await region.read(piece, at, offset + from, length, signal);
        } catch (error) {
          if (!(error instanceof IoError)) throw error;
          throw new IoError(`tensor ${tensor.name}: ${error.message}`, error.path, { cause: error });
        }
        sum = crc32(new Uint8Array(piece.view(at, length)), sum);
      });
      checksums[tensor.name] = sum;
    }
  });
}

/** One file, piece by piece; its last one is written in whole blocks and cut. */
async function writeFile(
  path: string,
  staging: Staging,
  before: BeforeWrite | undefined,
  body: (append: Append) => Promise<void>,
): Promise<void> {
  const file = await OutputFile.create(path, before);
  let written = 0;
  let filled = 0;
  const flush = async () => {
    const position = written;
    const length = wholeBlocks(filled);
    new Uint8Array(staging.current.view(filled, length - filled)).fill(0);
    written += filled;
    filled = 0;
    await staging.submit((piece) => file.write(new Uint8Array(piece.view(0, length)), position));
  };
  try {
    await body(async (bytes, fill) => {
      for (let from = 0; from < bytes; ) {
        const length = Math.min(bytes - from, PIECE - filled);
        await fill(staging.current, filled, from, length);
        from += length;
        filled += length;
        if (filled === PIECE) await flush();
      }
    });
    if (filled > 0) await flush();
    await staging.drain();
    await file.finish(written);
  } finally {
    await staging.drain().catch(() => {});
    await file.close();
  }
}

function copyOf(bytes: Uint8Array, piece: NativeBuffer, at: number, from: number, length: number): void {
  new Uint8Array(piece.view(at, length)).set(bytes.subarray(from, from + length));
}

/** A full disk in numbers. To be called with the unfinished checkpoint removed, so that they are what can be used. */
async function explained(error: unknown, folder: string, needed: number): Promise<unknown> {
  const code = error instanceof RoomError ? "ENOSPC" : causingCode(error);
  if (code !== "ENOSPC" && code !== "EDQUOT") {
    if (error instanceof SpillwayError || code === undefined) return error;
    return new IoError("the checkpoint could not be written", folder, { cause: error });
  }
  const free = await freeBytes(folder);
  const has = free === undefined ? "less than that" : `${free} bytes free (${formatBytes(free)})`;
  const whose = code === "EDQUOT" ? "this user's quota is used up, the disk has" : "the disk has";
  return new RoomError(
    `the checkpoint needs ${needed} bytes (${formatBytes(needed)}), ${whose} ${has}; earlier checkpoints are as they ` +
      "were: free some of the disk, keep fewer checkpoints or name another folder",
    folder,
    { needed, free: free ?? 0 },
    { cause: error },
  );
}

async function prune(
  folder: string,
  step: number,
  keep: number,
  { keepBest, beforeWrite }: SaveStateOptions,
): Promise<void> {
  const all = await listCheckpoints(folder);
  const best = keepBest ? bestOf(all)?.step : undefined;
  let surplus = all.length - keep;
  for (const old of all) {
    if (surplus <= 0) return;
    if (old.step === step || old.step === best) continue;
    try {
      await removeCheckpoint(folder, old.step, beforeWrite);
    } catch (error) {
      const saved = checkpointFolder(folder, step);
      throw new IoError(`could not be removed; ${saved} was saved`, old.path, { cause: error });
    }
    surplus--;
  }
}
