// Converted copies of weights whose home is disk, when another type than the checkpoint's is asked for. Made once, in
// offload_folder, under a fingerprint of what it was made from; a stale copy is never used.
import { createHash } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { openCheckpoint, writeSafetensors } from "../checkpoint/index.ts";
import type { Checkpoint, TensorEntry } from "../checkpoint/types.ts";
import { CheckpointError, ConfigError, IoError } from "../errors.ts";
import { rowBytes } from "../ggml/tensor.ts";
import { Allocation } from "../memory/allocate.ts";
import { formatBytes } from "../memory/sizes.ts";
import type { Matrix, Unit } from "../plan/units.ts";
import { Converter, type Place } from "./convert.ts";
import { type LoaderContext, STAGING_BYTES } from "./loader.ts";
import { pieceBound } from "./sources.ts";

const KEY = "spillway_fingerprint";

/** What a copy was made from: change any of it and the copy is another. */
export function fingerprint(checkpoint: Checkpoint, matrices: readonly Matrix[]): string {
  const hash = createHash("sha256");
  hash.update("spillway offload copy 1\n");
  for (const f of checkpoint.files) hash.update(`${f.path} ${f.size} ${f.mtimeMs}\n`);
  for (const m of matrices) hash.update(`${m.name} ${m.source.dtype} ${m.dtype} ${m.source.shape}\n`);
  return hash.digest("hex");
}

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
  const mark = fingerprint(checkpoint, matrices);
  const path = join(resolve(folder), `spillway-${mark.slice(0, 16)}.safetensors`);
  const existing = await usable(path, mark, matrices);
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
  const converter = new Converter(ctx.cpu);
  try {
    const tensors = matrices.map((m) => ({
      name: m.name,
      dtype: m.dtype,
      shape: m.source.shape,
      data: converted(m, converter, ctx),
    }));
    await writeSafetensors(path, tensors, { metadata: { [KEY]: mark }, signal: ctx.signal });
  } finally {
    converter.dispose();
  }
  const made = await usable(path, mark, matrices);
  if (!made) throw new IoError("the offload copy changed while it was written", path);
  return made;
}

/** An existing copy, if it is whole and was made from just these files. */
async function usable(
  path: string,
  mark: string,
  matrices: readonly Matrix[],
): Promise<Checkpoint | undefined> {
  let copy: Checkpoint;
  try {
    copy = await openCheckpoint(path);
  } catch (error) {
    if (error instanceof CheckpointError || error instanceof IoError) return undefined;
    throw error;
  }
  const same = matrices.every((m) => {
    const entry = copy.tensors.get(m.name);
    return entry?.dtype === m.dtype && entry.shape.join() === m.source.shape.join();
  });
  return copy.metadata[KEY] === mark && same ? copy : undefined;
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
        await ctx.queue.submit(
          {
            file: piece.file,
            fileOffset: piece.offset,
            length: piece.length,
            target: source.buffer.view(0, piece.length),
            targetOffset: 0,
          },
          ctx.signal,
        );
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
