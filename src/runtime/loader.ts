// Brings resident matrices from the checkpoint to their final place, through a bounded staging buffer where the type,
// the orientation or the device calls for one. Never holds a second copy of more than the staging buffer.
import type { TensorEntry } from "../checkpoint/types.ts";
import { throwIfAborted } from "../errors.ts";
import { type BufferType, type NativeBuffer, PAGE } from "../ggml/buffer.ts";
import type { Device } from "../ggml/device.ts";
import { HeaderArena } from "../ggml/graph.ts";
import { library, onThread } from "../ggml/library.ts";
import { moveBytes } from "../ggml/system.ts";
import { rowBytes } from "../ggml/tensor.ts";
import { Allocation } from "../memory/allocate.ts";
import type { Ledger } from "../memory/ledger.ts";
import type { ReadQueue } from "../memory/read-queue.ts";
import type { Matrix, Unit, Vector } from "../plan/units.ts";
import { Converter, type Place } from "./convert.ts";
import { pieceBound, readPiece, type SourceFiles } from "./sources.ts";
import type { StateDict } from "./state-dict.ts";

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

export interface LoaderContext {
  readonly cpu: Device;
  readonly sources: SourceFiles;
  readonly queue: ReadQueue;
  readonly ledger: Ledger;
  readonly signal: AbortSignal | undefined;
  /** Where tensors already are, when the naive way was asked for. */
  readonly stateDict?: StateDict;
  readonly onBytes: (name: string, bytes: number) => void;
}

/** Whether a matrix can be read straight into host memory as it is. */
export function isVerbatim(m: Matrix): boolean {
  return m.source.dtype === m.dtype && !isTurned(m);
}

/** Whether a matrix lies the other way round in memory than in the checkpoint. */
function isTurned(m: Matrix): boolean {
  return m.transposed && !m.kept;
}

/** Bytes a matrix takes when it stays in memory of a type; direct reads land with up to a page on either side. */
export function residentSize(m: Matrix, memory: { host: boolean; alignment: number }): number {
  if (memory.host && isVerbatim(m)) return pieceBound(m.bytes);
  const unit = Math.max(memory.alignment, 64);
  return Math.ceil(m.bytes / unit) * unit;
}

/** RAM that loading passes through at most: for units that need a detour, and for vectors. Bytes. */
export function loadStaging(units: readonly Unit[], device: { host: boolean }): number {
  let most = 0;
  for (const unit of units) {
    for (const v of unit.vectors) most = Math.max(most, pieceBound(v.source.bytes) + PAGE + v.length * 4);
    for (const m of unit.owned) {
      if (isVerbatim(m) && device.host) continue;
      const row = rowBytes(m.source.dtype, m.source.shape[1] as number);
      const block = Math.min(m.source.bytes, Math.max(row, STAGING_BYTES));
      const converted = isVerbatim(m) || device.host ? 0 : isTurned(m) ? m.bytes : 2 * block;
      most = Math.max(most, pieceBound(block) + converted);
    }
  }
  return most;
}

/** What kernels read fastest starts at multiples of this: products ran 13 % slower over rows that straddle lines. Bytes. */
const CACHE_LINE = 64;
/** Bytes moved before other work gets a turn. */
const MOVE_BYTES = 8 * 1024 * 1024;

/** Moves bytes that lie at `from` to the cache line below; returns where they then begin. */
async function alignDown(buffer: NativeBuffer, from: number, bytes: number): Promise<number> {
  const to = Math.floor(from / CACHE_LINE) * CACHE_LINE;
  if (to === from || (await moveBytes(buffer.address(to), buffer.address(from), bytes))) return to;
  for (let done = 0; done < bytes; done += MOVE_BYTES) {
    const length = Math.min(MOVE_BYTES, bytes - done);
    const span = from - to + length;
    new Uint8Array(buffer.view(to + done, span)).copyWithin(0, from - to, span);
    if (done + length < bytes) await new Promise((resolve) => setImmediate(resolve));
  }
  return to;
}

/** Where a matrix ended up. */
export interface Placed {
  readonly allocation: Allocation;
  /** Byte of the first element. */
  readonly offset: number;
}

export class Loader {
  readonly #ctx: LoaderContext;
  readonly #converter: Converter;
  readonly #arena = new HeaderArena(8);

  constructor(ctx: LoaderContext) {
    this.#ctx = ctx;
    this.#converter = new Converter(ctx.cpu);
  }

  /** Loads one matrix into memory of a tier. */
  async matrix(m: Matrix, tier: "gpu" | "cpu", memory: BufferType): Promise<Placed> {
    throwIfAborted(this.#ctx.signal);
    const allocation = Allocation.take(
      this.#ctx.ledger,
      tier,
      memory,
      residentSize(m, memory),
      "weights",
      "weights",
    );
    try {
      const direct = memory.host && isVerbatim(m);
      const offset = direct ? await this.#direct(m, allocation.buffer) : 0;
      if (!direct) await this.#staged(m, allocation.buffer);
      return { allocation, offset };
    } catch (error) {
      allocation.dispose();
      throw error;
    }
  }

  async #direct(m: Matrix, target: NativeBuffer): Promise<number> {
    const shift = await this.#fetch(m.source, 0, m.source.bytes, target);
    this.#ctx.onBytes(m.name, m.source.bytes);
    return alignDown(target, shift, m.source.bytes);
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
          const place: Place = { buffer: converted, offset: 0, dtype: m.dtype, ne };
          await this.#converter.run(block, place, wholeFirst ? first : 0, isTurned(m));
          if (!wholeFirst) await this.#upload(converted.address(), target, first * outRow, count * outRow);
        } else {
          await this.#upload(staging.address(shift), target, first * row, count * row);
        }
        onBytes(m.name, count * row);
      }
      if (wholeFirst && converted) await this.#upload(converted.address(), target, 0, m.bytes);
    } finally {
      for (const a of held) a.dispose();
    }
  }

  /** Reads vectors and widens them to f32, as many as fit in the staging buffer at a time. */
  async vector(v: Vector, target: NativeBuffer, offset: number): Promise<void> {
    throwIfAborted(this.#ctx.signal);
    const { ledger, cpu, onBytes } = this.#ctx;
    const wide = pieceBound(v.source.bytes) + PAGE;
    const staging = Allocation.take(ledger, "cpu", cpu.memory, wide + v.length * 4, "staging");
    try {
      const shift = await this.#fetch(v.source, 0, v.source.bytes, staging.buffer);
      const block = {
        buffer: staging.buffer,
        offset: shift,
        dtype: v.source.dtype,
        width: v.length,
        rows: 1,
      };
      const place: Place = { buffer: staging.buffer, offset: wide, dtype: "f32", ne: [v.length, 1] };
      await this.#converter.run(block, place, 0, false);
      await this.#upload(staging.buffer.address(wide), target, offset, v.length * 4);
      onBytes(v.source.name, v.source.bytes);
    } finally {
      staging.dispose();
    }
  }

  /** Brings bytes of a tensor to the start of a host buffer; returns where the first of them lies there. */
  async #fetch(entry: TensorEntry, start: number, length: number, target: NativeBuffer): Promise<number> {
    const { stateDict, sources, queue, signal } = this.#ctx;
    if (stateDict) {
      stateDict.copy(entry, start, length, target.view(0, length));
      return 0;
    }
    const piece = sources.piece(entry, start, length);
    await readPiece(queue, piece, target, 0, signal);
    return piece.shift;
  }

  /** Copies bytes into a buffer of any device. */
  async #upload(from: bigint, target: NativeBuffer, offset: number, bytes: number): Promise<void> {
    this.#arena.reset();
    const tensor = this.#arena.bind(target, offset, "i8", [bytes]);
    await onThread(library().native.ggml_backend_tensor_set, tensor.handle, from, 0, bytes);
  }

  dispose(): void {
    this.#converter.dispose();
    this.#arena.dispose();
  }
}
