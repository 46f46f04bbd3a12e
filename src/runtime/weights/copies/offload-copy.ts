// Copies of weights whose home is disk, in another form than the checkpoint's: converted ones, where another type is asked
// for. Made once, in offload_folder, under a fingerprint of what it was made from; a stale copy is never used.
import { createHash } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { rowBytes } from "../../../backend/ggml/tensor.ts";
import { CheckpointError, ConfigError, IoError, throwIfAborted } from "../../../base/errors.ts";
import { shownIdentity } from "../../../base/files/process-identity.ts";
import { statIfPresent } from "../../../formats/files/files.ts";
import { openCheckpoint, type TensorSource, writeSafetensors } from "../../../formats/index.ts";
import type { TensorSpec } from "../../../formats/layout.ts";
import type { Checkpoint, TensorEntry } from "../../../formats/types.ts";
import { Allocation } from "../../../memory/allocate.ts";
import { type FileLock, LockedError, lockFile } from "../../../memory/locks/file-lock.ts";
import { formatBytes } from "../../../memory/sizes.ts";
import type { Matrix, Unit } from "../../../plan/units.ts";
import { Converter, type MatrixPlace } from "../convert.ts";
import { type LoaderContext, STAGING_BYTES } from "../loader.ts";
import { pieceBound, readPiece } from "../sources.ts";
import { CopyChecksums, withChecksums } from "./checksums.ts";

const KEY = "spillway_fingerprint";
/** Of the form of copies. Those of another are made anew. */
const VERSION = 2;
/** Bytes under one checksum, of tensors that are read whole. */
export const CHECKED = 2 ** 20;
/** How often another process that makes the same copy is looked after. Milliseconds. */
const POLL = 250;

/** A copy that is there now. */
export interface KeptCopy {
  readonly copy: Checkpoint;
  readonly checksums: CopyChecksums;
  /** What the user may want to know about how it came about. */
  readonly notes: readonly string[];
}

/** What a copy was made from: change any of it and the copy is another. */
export function fingerprint(
  form: CopyForm,
  checkpoint: Checkpoint,
  matrices: readonly Matrix[],
  version = VERSION,
): string {
  const hash = createHash("sha256");
  hash.update(`spillway ${form} copy ${version}\n`);
  for (const f of checkpoint.files) hash.update(`${f.path} ${f.size} ${f.mtimeMs}\n`);
  for (const m of matrices) hash.update(`${m.name} ${m.source.dtype} ${m.dtype} ${m.source.shape}\n`);
  return hash.digest("hex");
}

/** How a copy differs from the checkpoint. The first keeps the name it always had. */
export type CopyForm = "offload" | "packed";

/** Matrices on disk that the checkpoint holds in another type than the one asked for. */
export function needConversion(units: readonly Unit[], onDisk: (unit: Unit) => boolean): Matrix[] {
  return units.filter(onDisk).flatMap((u) => u.owned.filter((m) => m.source.dtype !== m.dtype));
}

/**
 * Opens the converted copy of `matrices`, making it first if there is none or it is stale. `byRow`: names of those whose
 * rows are read one by one. Throws ConfigError when no
 * folder was named, IoError (with the bytes needed) when it cannot be written.
 */
export async function offloadCopy(
  checkpoint: Checkpoint,
  matrices: readonly Matrix[],
  folder: string | undefined,
  ctx: LoaderContext,
  byRow: ReadonlySet<string>,
): Promise<KeptCopy> {
  const total = matrices.reduce((sum, m) => sum + m.bytes, 0);
  if (!folder) {
    throw new ConfigError(
      `${matrices.length} tensors whose home is disk must be converted from ${matrices[0]?.source.dtype} to ` +
        `${matrices[0]?.dtype} (${formatBytes(total)}); name a folder for the copy with --offload-folder (offload_folder), ` +
        'or run them as they are with dtype "auto"',
    );
  }
  const holds = (copy: Checkpoint) =>
    matrices.every((m) => {
      const entry = copy.tensors.get(m.name);
      return entry?.dtype === m.dtype && entry.shape.join() === m.source.shape.join();
    });
  const blockBytes = ({ name, dtype, shape }: TensorSpec) => {
    const row = rowBytes(dtype, shape.at(-1) ?? 1);
    return byRow.has(name) ? row : Math.max(1, Math.floor(CHECKED / row)) * row;
  };
  const request = { checkpoint, matrices, folder, total, holds, blockBytes, ctx };
  return keptCopy("offload", request, async () => {
    const converter = new Converter(ctx.cpu);
    const tensors = matrices.map((m) => ({
      name: m.name,
      dtype: m.dtype,
      shape: m.source.shape,
      data: converted(m, converter, ctx),
    }));
    return { tensors, release: () => converter.dispose() };
  });
}

export interface CopyRequest {
  readonly checkpoint: Checkpoint;
  readonly matrices: readonly Matrix[];
  readonly folder: string;
  /** Bytes that will be written at most; for errors. */
  readonly total: number;
  /** Whether a copy that says it was made of the same holds what is needed. */
  readonly holds: (copy: Checkpoint) => boolean;
  /** Bytes of a tensor under one checksum. */
  readonly blockBytes: (tensor: TensorSpec) => number;
  readonly ctx: Pick<LoaderContext, "signal" | "sources">;
}

/** What is written: tensors in the order they are asked for. */
export interface CopyContents {
  readonly tensors: readonly TensorSource[];
  /** Called once all has been written, or failed. */
  readonly release: () => void;
}

/**
 * Opens the copy of some matrices that is in a folder, or has it made: only a whole one of just these files is used, and
 * its bytes are compared with its checksums as they are read. Where another process is making it, that is waited for.
 */
export async function keptCopy(
  form: CopyForm,
  request: CopyRequest,
  make: () => Promise<CopyContents>,
): Promise<KeptCopy> {
  const { checkpoint, matrices, total, ctx } = request;
  const folder = resolve(request.folder);
  const mark = fingerprint(form, checkpoint, matrices);
  const path = join(folder, `spillway-${nameOf(form, checkpoint, matrices)}.safetensors`);
  const existing = await usable(path, mark, request);
  if (existing.kept) return existing.kept;
  await mkdir(folder, { recursive: true }).catch((cause: unknown) => {
    const problem = `the offload folder could not be made (${formatBytes(total)} are to be written there)`;
    throw new IoError(problem, folder, { cause });
  });
  const { lock, waited } = await turnToMake(path, ctx.signal);
  const notes = [...existing.notes, ...waited];
  try {
    const meanwhile = await usable(path, mark, request);
    if (meanwhile.kept) return { ...meanwhile.kept, notes };
    const { tensors, release } = await make();
    try {
      await writeSafetensors(path, withChecksums(tensors, request.blockBytes), {
        metadata: { [KEY]: mark },
        signal: ctx.signal,
        // A copy of files that changed while they were read is one of neither.
        beforeCommit: () => ctx.sources.checkUnchanged(checkpoint.files.keys()),
      });
    } finally {
      release();
    }
    const made = await usable(path, mark, request);
    if (!made.kept) throw new IoError("the offload copy changed while it was written", path);
    return { ...made.kept, notes };
  } finally {
    await lock?.release();
  }
}

/** Copies of one model have one name, whatever the version of their form: a new one takes the place of the old. */
function nameOf(form: CopyForm, checkpoint: Checkpoint, matrices: readonly Matrix[]): string {
  return fingerprint(form, checkpoint, matrices, 1).slice(0, 16);
}

/** The copy at `path` if it is whole and of just these files; otherwise what is to be said of what is there. */
async function usable(
  path: string,
  mark: string,
  { holds, blockBytes }: CopyRequest,
): Promise<{ kept?: KeptCopy; notes: readonly string[] }> {
  const damaged = [`${path} was damaged: it was made anew`];
  const opened = await openCopy(path);
  if (opened === "absent") return { notes: [] };
  if (opened === "damaged") return { notes: damaged };
  if (opened.metadata[KEY] !== mark) return { notes: [] };
  const checksums = await CopyChecksums.read(opened, blockBytes).catch(() => undefined);
  if (!checksums || !holds(opened)) return { notes: damaged };
  return { kept: { copy: opened, checksums, notes: [] }, notes: [] };
}

/**
 * Waits until no other process is making the copy. Without a lock where none can be had: the copy is then made twice, and
 * the last one that is finished takes the name; both are the same.
 */
async function turnToMake(
  path: string,
  signal: AbortSignal | undefined,
): Promise<{ lock: FileLock | undefined; waited: readonly string[] }> {
  const began = performance.now();
  let waited: string[] = [];
  for (;;) {
    throwIfAborted(signal);
    try {
      return { lock: await lockFile(`${path}.lock`, "the copy of weights"), waited };
    } catch (error) {
      if (!(error instanceof LockedError) || !error.ends) return { lock: undefined, waited };
      const seconds = Math.round((performance.now() - began + POLL) / 1000);
      const who = error.holder ? shownIdentity(error.holder) : "another process";
      waited = [`waited ${seconds} s for ${who}, which was making ${path}`];
      await sleep(POLL, undefined, { ...(signal && { signal }) }).catch(() => {});
    }
  }
}

/** What is at `path`. */
async function openCopy(path: string): Promise<Checkpoint | "absent" | "damaged"> {
  try {
    if ((await statIfPresent(path)) === undefined) return "absent";
    return await openCheckpoint(path);
  } catch (error) {
    if (error instanceof CheckpointError || error instanceof IoError) return "damaged";
    throw error;
  }
}

/** The bytes of a matrix in its new type, a block of rows at a time. */
async function* converted(m: Matrix, converter: Converter, ctx: LoaderContext): AsyncGenerator<Uint8Array> {
  const [rows, width] = m.source.shape as [number, number];
  const from = rowBytes(m.source.dtype, width);
  const to = rowBytes(m.dtype, width);
  const perBlock = Math.max(1, Math.min(rows, Math.floor(STAGING_BYTES / (from + to))));
  const source = Allocation.take(ctx.ledger, "cpu", ctx.cpu.memory, pieceBound(perBlock * from), "staging");
  try {
    const target = Allocation.take(ctx.ledger, "cpu", ctx.cpu.memory, perBlock * to, "staging");
    try {
      for (let first = 0; first < rows; first += perBlock) {
        const count = Math.min(perBlock, rows - first);
        const piece = ctx.sources.piece(m.source, first * from, count * from);
        await readPiece(ctx.queue, piece, source.buffer, 0, ctx.signal);
        const block = {
          buffer: source.buffer,
          offset: piece.shift,
          dtype: m.source.dtype,
          width,
          rows: count,
        };
        const place: MatrixPlace = { buffer: target.buffer, offset: 0, dtype: m.dtype, ne: [width, count] };
        await converter.run(block, place, 0, false);
        ctx.onBytes(m.name, count * from);
        yield new Uint8Array(target.buffer.view(0, count * to));
      }
    } finally {
      target.dispose();
    }
  } finally {
    source.dispose();
  }
}

/** The same matrices, read from the copy instead. */
export function redirect(matrix: Matrix, copy: Checkpoint, firstFile: number): Matrix {
  const entry = copy.tensors.get(matrix.name) as TensorEntry;
  return { ...matrix, source: { ...entry, file: firstFile + entry.file } };
}
