// Copies of weights whose home is disk, in another form than the checkpoint's: converted ones, where another type is asked
// for. Made once, in offload_folder, under a fingerprint of what it was made from; a stale copy is never used.
import { createHash } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { openCheckpoint, type TensorSource, writeSafetensors } from "../checkpoint/index.ts";
import type { Checkpoint, TensorEntry } from "../checkpoint/types.ts";
import { CheckpointError, ConfigError, IoError } from "../errors.ts";
import { rowBytes } from "../ggml/tensor.ts";
import { Allocation } from "../memory/allocate.ts";
import { formatBytes } from "../memory/sizes.ts";
import type { Matrix, Unit } from "../plan/units.ts";
import { Converter, type Place } from "./convert.ts";
import { type LoaderContext, STAGING_BYTES } from "./loader.ts";
import { pieceBound, readPiece } from "./sources.ts";

const KEY = "spillway_fingerprint";

/** What a copy was made from: change any of it and the copy is another. */
export function fingerprint(form: CopyForm, checkpoint: Checkpoint, matrices: readonly Matrix[]): string {
  const hash = createHash("sha256");
  hash.update(`spillway ${form} copy 1\n`);
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
 * Opens the converted copy of `matrices`, making it first if there is none or it is stale. Throws ConfigError when no
 * folder was named, IoError (with the bytes needed) when it cannot be written.
 */
export async function offloadCopy(
  checkpoint: Checkpoint,
  matrices: readonly Matrix[],
  folder: string | undefined,
  ctx: LoaderContext,
): Promise<Checkpoint> {
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
  return keptCopy("offload", { checkpoint, matrices, folder, total, holds, signal: ctx.signal }, async () => {
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
  readonly signal: AbortSignal | undefined;
}

/**
 * Opens the copy of some matrices that is in a folder, or has it made: only a whole one of just these files is used.
 * `release` is called once all has been written, or failed.
 */
export async function keptCopy(
  form: CopyForm,
  { checkpoint, matrices, folder, total, holds, signal }: CopyRequest,
  make: () => Promise<{ tensors: Iterable<TensorSource>; release: () => void }>,
): Promise<Checkpoint> {
  const mark = fingerprint(form, checkpoint, matrices);
  const path = join(resolve(folder), `spillway-${mark.slice(0, 16)}.safetensors`);
  const usable = async () => {
    const copy = await openCopy(path);
    return copy && copy.metadata[KEY] === mark && holds(copy) ? copy : undefined;
  };
  const existing = await usable();
  if (existing) return existing;
  try {
    await mkdir(resolve(folder), { recursive: true });
  } catch (error) {
    throw new IoError(
      `the offload folder could not be made (${formatBytes(total)} are to be written there)`,
      folder,
      {
        cause: error,
      },
    );
  }
  const { tensors, release } = await make();
  try {
    await writeSafetensors(path, tensors, { metadata: { [KEY]: mark }, signal });
  } finally {
    release();
  }
  const made = await usable();
  if (!made) throw new IoError("the offload copy changed while it was written", path);
  return made;
}

/** A copy that is whole. */
async function openCopy(path: string): Promise<Checkpoint | undefined> {
  try {
    return await openCheckpoint(path);
  } catch (error) {
    if (error instanceof CheckpointError || error instanceof IoError) return undefined;
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
        const place: Place = { buffer: target.buffer, offset: 0, dtype: m.dtype, ne: [width, count] };
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
