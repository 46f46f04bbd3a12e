// Brings resident matrices from the checkpoint to their final place, through a bounded staging buffer where the type,
// the orientation or the device calls for one. Never holds a second copy of more than the staging buffer.

import { type NativeBuffer, PAGE } from "../../backend/ggml/buffer.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import { moveBytes } from "../../backend/ggml/system.ts";
import { rowBytes } from "../../backend/ggml/tensor.ts";
import { upload } from "../../backend/ggml/transfer.ts";
import { disposeAll } from "../../base/async/cleanup.ts";
import { type LinkedSignal, linkSignals } from "../../base/async/signals.ts";
import { throwIfAborted } from "../../base/errors.ts";
import { inGroups } from "../../base/groups.ts";
import type { TensorEntry } from "../../formats/types.ts";
import { Allocation } from "../../memory/allocate.ts";
import type { Matrix, PackedRange, Unit, Vector } from "../../plan/units.ts";
import { Converter, type MatrixPlace } from "./convert.ts";
import { pieceBound, readPiece } from "./sources.ts";
import type { StateDict, StateDictSource } from "./state-dict.ts";

/** Bytes of the staging buffer, unless one row needs more. */
export const STAGING_BYTES = 16 * 1024 * 1024;

/** Called as tensors arrive. */
export interface LoadProgress {
  readonly status: "progress" | "done";
  readonly name: string;
  /** Bytes of the checkpoint read so far, and to read in all. */
  readonly loaded: number;
  readonly total: number;
}

export interface LoaderContext extends StateDictSource {
  /** Where tensors already are, when the naive way was asked for. */
  readonly stateDict?: StateDict;
  readonly onBytes: (name: string, bytes: number) => void;
}

/** Whether a matrix can be read straight into host memory as it is. */
function isVerbatim(m: Matrix): boolean {
  return m.source.dtype === m.dtype && !isTurned(m);
}

/** Whether a matrix lies the other way round in memory than in the checkpoint. */
function isTurned(m: Matrix): boolean {
  return m.transposed && !m.kept;
}

/** Whether it is read straight to its place in memory of a type. */
export function isDirect(m: Matrix, memory: { host: boolean }): boolean {
  return memory.host && isVerbatim(m);
}

/** Bytes a matrix takes when it stays in memory of a type; direct reads land with up to a page on either side. */
export function residentSize(m: Matrix, memory: { host: boolean; alignment: number }): number {
  if (isDirect(m, memory)) return pieceBound(m.bytes);
  const unit = Math.max(memory.alignment, 64);
  return Math.ceil(m.bytes / unit) * unit;
}

/** Bytes the packed form of a matrix takes when it stays in RAM. */
export function packedSize(packedBytes: number): number {
  return pieceBound(packedBytes);
}

/** RAM that loading passes through at most: for units that need a detour, and for vectors. Bytes. */
export function loadStaging(units: readonly Unit[], device: { host: boolean }): number {
  let most = 0;
  for (const group of vectorGroups(units.flatMap((u) => u.vectors))) {
    most = Math.max(
      most,
      group.reduce((sum, v) => sum + vectorStaging(v), 0),
    );
  }
  for (const unit of units) {
    for (const m of unit.owned) {
      if (isDirect(m, device)) continue;
      const row = rowBytes(m.source.dtype, m.source.shape[1] as number);
      const block = Math.min(m.source.bytes, Math.max(row, STAGING_BYTES));
      const converted = isVerbatim(m) || device.host ? 0 : isTurned(m) ? m.bytes : 2 * block;
      most = Math.max(most, pieceBound(block) + converted);
    }
  }
  return most;
}

/** Bytes of vectors on their way at a time, unless one needs more. */
const VECTOR_STAGING = 2 * 1024 * 1024;

/** Bytes a vector passes through: as the checkpoint holds it, and in f32. */
function vectorStaging(v: Vector): number {
  return pieceBound(v.source.bytes) + Math.ceil((v.length * 4) / PAGE) * PAGE;
}

/** Vectors that are read at the same time: waiting for them one by one would take longer than a small model. */
export function vectorGroups<V extends Vector>(vectors: readonly V[]): V[][] {
  return inGroups(vectors, VECTOR_STAGING, vectorStaging);
}

/** What kernels read fastest starts at multiples of this: products ran 13 % slower over rows that straddle lines. Bytes. */
const CACHE_LINE = 64;
/** Bytes moved at a time, while the processor's cache still has them from the read; a multiple of {@link PAGE}. */
const MOVE_BYTES = 8 * 1024 * 1024;

/** Moves bytes of a host buffer down, to where they may overlap themselves. */
async function moveDown(buffer: NativeBuffer, from: number, to: number, bytes: number): Promise<void> {
  if (await moveBytes(buffer.address(to), buffer.address(from), bytes)) return;
  buffer.bytes(to, from - to + bytes).copyWithin(0, from - to);
}

/** A vector and the byte of the memory of all vectors where it goes. */
export interface PlacedVector extends Vector {
  readonly offset: number;
}

/** Where a matrix ended up. */
export interface Placed {
  readonly buffer: NativeBuffer;
  /** Byte of the first element. */
  readonly offset: number;
}

export class Loader {
  readonly #ctx: LoaderContext;
  readonly #link: LinkedSignal;
  readonly #converter: Converter;
  readonly #arena = new HeaderArena(8);

  constructor(ctx: LoaderContext) {
    this.#link = linkSignals(ctx.signal); // vectors are read side by side
    this.#ctx = { ...ctx, signal: this.#link.signal };
    this.#converter = new Converter(ctx.cpu);
  }

  /** Loads one matrix into a buffer of {@link residentSize}. */
  async matrix(m: Matrix, buffer: NativeBuffer): Promise<Placed> {
    throwIfAborted(this.#ctx.signal);
    if (isDirect(m, buffer.type)) return { buffer, offset: await this.#direct(m, buffer) };
    await this.#staged(m, buffer);
    return { buffer, offset: 0 };
  }

  /** Reads a matrix to its place and moves it to the cache line below where it came to lie; returns its first byte. */
  async #direct(m: Matrix, target: NativeBuffer): Promise<number> {
    const { sources, stateDict, onBytes, signal } = this.#ctx;
    const { bytes } = m.source;
    const { shift } = sources.piece(m.source);
    const start = Math.floor(shift / CACHE_LINE) * CACHE_LINE;
    if (stateDict || start === shift) {
      const first = await this.#fetch(m.source, 0, bytes, target);
      onBytes(m.name, bytes);
      return first;
    }
    // Pieces are read side by side and end at whole pages, so that none is read twice; they are moved in order, because
    // each one's start goes to where the end of the one before was.
    const pieces: { begin: number; length: number }[] = [];
    for (let begin = 0, end: number; begin < bytes; begin = end) {
      end = Math.min(bytes, (pieces.length + 1) * MOVE_BYTES - shift);
      pieces.push({ begin, length: end - begin });
    }
    const failed = new AbortController();
    const { signal: until, unlink } = linkSignals(failed.signal, signal); // every read listens
    const reads = pieces.map(({ begin, length }, i) =>
      this.#fetch(m.source, begin, length, target, i * MOVE_BYTES, until),
    );
    let failure: { error: unknown } | undefined;
    const stop = (error: unknown) => {
      failure ??= { error }; // the others then fail because they are stopped
      failed.abort();
    };
    const over = Promise.all(reads.map((read) => read.catch(stop)));
    try {
      for (const [i, { begin, length }] of pieces.entries()) {
        await reads[i];
        await moveDown(target, shift + begin, start + begin, length);
        onBytes(m.name, length);
      }
    } catch (error) {
      stop(error);
      await over; // nothing may be on its way to memory that is freed
      throw failure?.error ?? error;
    } finally {
      unlink();
    }
    return start;
  }

  /** Block by block of whole rows of the checkpoint's matrix: read, convert or turn round, put in place. */
  async #staged(m: Matrix, target: NativeBuffer): Promise<void> {
    const { ledger, onBytes, signal } = this.#ctx;
    const [rows, width] = m.source.shape as [number, number];
    const row = rowBytes(m.source.dtype, width);
    const perBlock = Math.max(1, Math.min(rows, Math.floor(STAGING_BYTES / row)));
    const host = target.type.host;
    const convert = !isVerbatim(m);
    const held: Allocation[] = [];
    const take = (bytes: number) => {
      const a = Allocation.take(ledger, "cpu", this.#ctx.cpu.memory, bytes, "staging");
      held.push(a);
      return a.buffer;
    };
    try {
      const staging = take(pieceBound(perBlock * row));
      // Turned round, every block touches every row of the place, so a device gets the finished matrix.
      const wholeFirst = !host && isTurned(m);
      const outRow = rowBytes(m.dtype, m.ne[0]);
      const converted = host || !convert ? undefined : take(wholeFirst ? m.bytes : perBlock * outRow);
      for (let first = 0; first < rows; first += perBlock) {
        throwIfAborted(signal);
        const count = Math.min(perBlock, rows - first);
        const shift = await this.#fetch(m.source, first * row, count * row, staging);
        const block = { buffer: staging, offset: shift, dtype: m.source.dtype, width, rows: count };
        if (host) {
          await this.#converter.run(
            block,
            { buffer: target, offset: 0, dtype: m.dtype, ne: m.ne },
            first,
            isTurned(m),
          );
        } else if (converted) {
          const ne: [number, number] = wholeFirst ? [...m.ne] : [m.ne[0], count];
          const place: MatrixPlace = { buffer: converted, offset: 0, dtype: m.dtype, ne };
          await this.#converter.run(block, place, wholeFirst ? first : 0, isTurned(m));
          if (!wholeFirst) await this.#upload(converted.address(), target, first * outRow, count * outRow);
        } else {
          await this.#upload(staging.address(shift), target, first * row, count * row);
        }
        onBytes(m.name, count * row);
      }
      if (wholeFirst && converted) await this.#upload(converted.address(), target, 0, m.bytes);
    } finally {
      disposeAll(held);
    }
  }

  /** Loads the packed form of a matrix into RAM, a buffer of {@link packedSize}; {@link Placed.offset} is its first byte. */
  async packed(m: Matrix, range: PackedRange, buffer: NativeBuffer): Promise<Placed> {
    const { sources, queue, signal, onBytes } = this.#ctx;
    throwIfAborted(signal);
    const piece = sources.piece(range);
    await readPiece(queue, piece, buffer, 0, signal);
    await sources.checksums(range)?.verify(range, new Uint8Array(buffer.view(piece.shift, range.bytes)));
    onBytes(m.name, range.bytes);
    return { buffer, offset: piece.shift };
  }

  /** Reads vectors, one of {@link vectorGroups}, and puts them in place as f32: each at its `offset` of `target`. */
  async vectors(group: readonly PlacedVector[], target: NativeBuffer): Promise<void> {
    const { ledger, cpu, onBytes, signal } = this.#ctx;
    throwIfAborted(signal);
    const total = group.reduce((sum, v) => sum + vectorStaging(v), 0);
    const staging = Allocation.take(ledger, "cpu", cpu.memory, total, "staging");
    try {
      let at = 0;
      const arriving = group.map(async (v) => {
        const from = at;
        at += vectorStaging(v);
        return { v, from, shift: await this.#fetch(v.source, 0, v.source.bytes, staging.buffer, from) };
      });
      await Promise.allSettled(arriving); // the memory is freed only with nothing on its way
      for (const { v, from, shift } of await Promise.all(arriving)) {
        const { dtype, bytes } = v.source;
        const wide = from + pieceBound(bytes);
        const block = { buffer: staging.buffer, offset: from + shift, dtype, width: v.length, rows: 1 };
        const place: MatrixPlace = { buffer: staging.buffer, offset: wide, dtype: "f32", ne: [v.length, 1] };
        await this.#converter.run(block, place, 0, false);
        await this.#upload(staging.buffer.address(wide), target, v.offset, v.length * 4);
        onBytes(v.source.name, bytes);
      }
    } finally {
      staging.dispose();
    }
  }

  /** Brings bytes of a tensor to byte `at` of a host buffer; returns how far behind it the first of them lies. */
  async #fetch(
    entry: TensorEntry,
    start: number,
    length: number,
    target: NativeBuffer,
    at = 0,
    signal = this.#ctx.signal,
  ): Promise<number> {
    const { stateDict, sources, queue } = this.#ctx;
    if (stateDict) {
      stateDict.copy(entry, start, length, target.view(at, length));
      return 0;
    }
    const piece = sources.piece(entry, start, length);
    await readPiece(queue, piece, target, at, signal);
    return piece.shift;
  }

  /** Copies bytes into a buffer of any device. */
  async #upload(from: bigint, target: NativeBuffer, offset: number, bytes: number): Promise<void> {
    this.#arena.reset();
    await upload(this.#arena.bind(target, offset, "i8", [bytes]), from, bytes);
  }

  dispose(): void {
    this.#link.unlink();
    disposeAll([this.#converter, this.#arena]);
  }
}
