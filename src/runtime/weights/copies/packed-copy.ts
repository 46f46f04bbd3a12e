// The packed copy of bf16 weights that stream from disk or stay in RAM packed: 12 bits an element instead of 16, without
// loss. Packing and its format are memory/packing; where the copy is kept is offload-copy.ts.

import { ConfigError } from "../../../base/errors.ts";
import type { TensorSource } from "../../../formats/index.ts";
import type { Checkpoint, TensorEntry } from "../../../formats/types.ts";
import { Allocation } from "../../../memory/allocate.ts";
import { largestPacked, Packer } from "../../../memory/packing/index.ts";
import { formatBytes } from "../../../memory/sizes.ts";
import type { Matrix, Unit } from "../../../plan/units.ts";
import type { LoaderContext } from "../loader.ts";
import { pieceBound, readPiece } from "../sources.ts";
import { CHECKED, type KeptCopy, keptCopy } from "./offload-copy.ts";

/** Bytes of a matrix read at a time while it is packed, at most. */
const BLOCK = 4 * 1024 * 1024;

/** Matrices that are, or will be converted to, bf16 and are used whole: they would be smaller packed. */
export function needPacking(units: readonly Unit[]): Matrix[] {
  return units.filter((u) => !u.rowsOnly).flatMap((u) => u.owned.filter((m) => m.dtype === "bf16"));
}

/** The most bytes that the packed form of a matrix takes: one that would be larger is left as it is. */
export function packedBound(m: Matrix): number {
  return largestPacked(m.ne[0] * m.ne[1]);
}

/**
 * Opens the packed copy of matrices, making it first if there is none or it is stale: tensors of bytes, under the names
 * of the matrices that became smaller. `sources`: the same matrices as the checkpoint holds them, where `matrices` are
 * read from a converted copy of it. Throws ConfigError when no folder was named, IoError (with the bytes needed) when it
 * cannot be written.
 */
export async function packedCopy(
  checkpoint: Checkpoint,
  { matrices, sources }: { matrices: readonly Matrix[]; sources: readonly Matrix[] },
  folder: string | undefined,
  ctx: LoaderContext,
): Promise<KeptCopy> {
  const total = matrices.reduce((sum, m) => sum + packedBound(m), 0);
  if (!folder) {
    throw new ConfigError(
      `the packed copy of ${matrices.length} tensors takes up to ${formatBytes(total)}; name a ` +
        "folder for it with --offload-folder (offload_folder), or leave --offload-packed (offload_packed) out",
    );
  }
  const holds = () => true; // its mark says what it was made of, and not every matrix need be in it
  const blockBytes = () => CHECKED;
  const request = { checkpoint, matrices: sources, folder, total, holds, blockBytes, ctx };
  return keptCopy("packed", request, async () => {
    const tensors: TensorSource[] = [];
    for (const m of matrices) {
      using packer = new Packer(m.ne[0] * m.ne[1]);
      for await (const block of blocks(m, ctx)) packer.count(block);
      const header = packer.begin();
      if (!packer.worthwhile) continue;
      const { name } = m;
      tensors.push({ name, dtype: "i8", shape: [packer.packedBytes], data: packed(header, m, ctx) });
    }
    return { tensors, release: () => {} };
  });
}

/** The same matrices, those that are in the packed copy knowing where. Name -> matrix. */
export function packedMatrices(
  matrices: readonly Matrix[],
  copy: Checkpoint,
  firstFile: number,
): Map<string, Matrix> {
  return new Map(
    matrices.flatMap((m) => {
      const entry: TensorEntry | undefined = copy.tensors.get(m.name);
      if (!entry) return [];
      const range = { file: firstFile + entry.file, offset: entry.offset, bytes: entry.bytes };
      return [[m.name, { ...m, packed: range }]];
    }),
  );
}

/** `header`: what the first pass over the matrix came to. */
async function* packed(header: Uint8Array, m: Matrix, ctx: LoaderContext): AsyncGenerator<Uint8Array> {
  yield header;
  using packer = Packer.resume(header);
  for await (const block of blocks(m, ctx)) yield packer.pack(block);
  yield packer.finish();
}

/** The bytes of a matrix as they lie on disk, a block at a time; a block is good until the next is asked for. */
async function* blocks(m: Matrix, ctx: LoaderContext): AsyncGenerator<Uint8Array> {
  const { bytes } = m.source;
  const most = Math.min(BLOCK, bytes); // a plan has room for a whole matrix
  const staging = Allocation.take(ctx.ledger, "cpu", ctx.cpu.memory, pieceBound(most), "staging");
  const check = ctx.sources.checksums(m.source)?.running(m.source);
  try {
    for (let first = 0; first < bytes; first += most) {
      const length = Math.min(most, bytes - first);
      const piece = ctx.sources.piece(m.source, first, length);
      await readPiece(ctx.queue, piece, staging.buffer, 0, ctx.signal);
      ctx.onBytes(m.name, length);
      const block = new Uint8Array(staging.buffer.view(piece.shift, length));
      check?.(block);
      yield block;
    }
  } finally {
    staging.dispose();
  }
}
