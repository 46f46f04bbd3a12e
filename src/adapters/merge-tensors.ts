// The tensors of a merged checkpoint, block of rows by block of rows: as they were, in another type, or with a low-rank
// update added in f32. What it holds does not depend on the tensors' sizes. Which tensors there are: merge.ts.

import type { NativeBuffer } from "../backend/ggml/buffer.ts";
import type { Device } from "../backend/ggml/device.ts";
import type { DType } from "../backend/ggml/dtypes.ts";
import { HeaderArena } from "../backend/ggml/graph.ts";
import { GraphMemory } from "../backend/ggml/graph-memory.ts";
import { Graph } from "../backend/ggml/ops.ts";
import { rowBytes, type Tensor } from "../backend/ggml/tensor.ts";
import { disposeAll, runAllNow } from "../base/async/cleanup.ts";
import { CheckpointError } from "../base/errors.ts";
import { narrowDoubles } from "../base/narrow-doubles.ts";
import { readExactly, withFile } from "../formats/files/files.ts";
import type { Checkpoint, TensorEntry } from "../formats/types.ts";
import { Allocation } from "../memory/allocate.ts";
import { Ledger, type Reservation } from "../memory/ledger.ts";
import type { LoraTarget } from "./targets.ts";

/** Bytes of a block in f32, unless one row needs more. */
export const BLOCK_BYTES = 16 * 1024 * 1024;
/** Blocks of memory that are held at once at most, see {@link TensorMerger.chunks}: for a budget to be divided by. */
const BLOCKS_HELD = 12;
const SMALLEST_BLOCK = 16 * 1024;

/** Bytes of a block under a budget. */
export function blockBytesFor(budget: number): number {
  return Math.max(SMALLEST_BLOCK, Math.min(BLOCK_BYTES, Math.floor(budget / BLOCKS_HELD)));
}

/** Where a tensor's bytes are. */
export interface Source {
  readonly checkpoint: Checkpoint;
  readonly entry: TensorEntry;
}

/** What is added to a matrix: scale * B A. */
export interface Update {
  readonly target: LoraTarget;
  /** [r, in] */
  readonly a: Source;
  /** [out, r] */
  readonly b: Source;
}

/** A part of a matrix as it is stored: rows and columns `from` ... `to`. */
interface Part {
  readonly rows: readonly [number, number];
  readonly columns: readonly [number, number];
}

/** Computes on the CPU with memory of its own, all of it in the ledger; one tensor at a time. */
export class TensorMerger {
  readonly #cpu: Device;
  readonly #ledger: Ledger;
  readonly #arena = new HeaderArena(32, { graph: true });
  readonly #scratch: Reservation;
  readonly #memory: GraphMemory;
  readonly #blockBytes: number;

  constructor(cpu: Device, ledger = new Ledger(), blockBytes = blockBytesFor(ledger.budget("cpu"))) {
    this.#cpu = cpu;
    this.#ledger = ledger;
    this.#scratch = ledger.reserve("cpu", 0, "graph scratch");
    this.#memory = new GraphMemory(cpu.memory, (bytes) => {
      if (bytes > this.#scratch.bytes) this.#scratch.resize(bytes);
    });
    this.#blockBytes = blockBytes;
  }

  /**
   * The bytes of a tensor in `dtype`, with `update` added before they are rounded. A chunk is reused for the next one.
   * Held are a block of rows as it was and as it will be, what is computed of it, and of the update's factors two blocks
   * of the one that all rows need, and what the block's own rows need of the other: they are read in ranges of the rank
   * where they are larger. Throws CheckpointError if a file changed since it was opened, IoError, BudgetError.
   */
  async *chunks(source: Source, dtype: DType, update?: Update): AsyncGenerator<Uint8Array> {
    const { entry } = source;
    const elements = entry.shape.reduce((a, b) => a * b, 1);
    // Without an update rows mean nothing: a tensor of one long row is read in pieces too.
    const most = Math.max(1, Math.floor(this.#blockBytes / 4));
    const width = update ? (entry.shape.at(-1) ?? 1) : 1;
    const rows = elements / width;
    const perRow = Math.max(width, update?.target.r ?? 0);
    const perBlock = Math.max(1, Math.min(rows, Math.floor(most / perRow)));
    const held = entry.dtype === "f64" ? "f32" : entry.dtype;
    const [from, to] = [rowBytes(entry.dtype, width), rowBytes(dtype, width)];
    using scope = new Buffers(this.#cpu, this.#ledger);
    const factors = update && new Factors(update, this.#blockBytes, width);
    const whole = factors?.ranges.length === 1 ? await this.#shared(factors, scope) : undefined;
    const input = scope.take(perBlock * from);
    const output = entry.dtype === dtype && !update ? input : scope.take(perBlock * to);
    const sums = factors && !whole ? scope.take(perBlock * width * 4) : undefined;
    for (let first = 0; first < rows; first += perBlock) {
      const count = Math.min(perBlock, rows - first);
      const read = new Uint8Array(input.view(0, count * from));
      await readRange(source, first * from, read);
      if (entry.dtype === "f64") narrowDoubles(read, count * width);
      const dims = update ? [width, count] : [count];
      const stored = (g: Graph) => g.bind(input, 0, held, dims);
      const result = (g: Graph) => g.bind(output, 0, dtype, dims);
      if (factors && whole) {
        using own = new Buffers(this.#cpu, this.#ledger);
        const right = await this.#own(factors, factors.ranges[0] as Range, first, count, own);
        await this.#compute((g) =>
          g.copy(factors.added(g, f32(g, stored(g)), whole, right, count), result(g)),
        );
      } else if (factors && sums) {
        const sum = (g: Graph) => g.bind(sums, 0, "f32", dims);
        await this.#compute((g) => g.copy(stored(g), sum(g)));
        for (const range of factors.ranges) {
          using own = new Buffers(this.#cpu, this.#ledger);
          const left = await this.#shared(factors, own, range);
          const right = await this.#own(factors, range, first, count, own);
          await this.#compute((g) => g.copy(factors.added(g, sum(g), left, right, count, range), sum(g)));
        }
        await this.#compute((g) => g.copy(sum(g), result(g)));
      } else if (output !== input) await this.#compute((g) => g.copy(stored(g), result(g)));
      yield new Uint8Array(output.view(0, count * to));
    }
  }

  /** A range of the rank of the factor that all rows need: f32 [rank, width]. */
  #shared(factors: Factors, scope: Buffers, range: Range = [0, factors.rank]): Promise<NativeBuffer> {
    const { a, b, target } = factors.update;
    return factors.transposed
      ? this.#f32(b, { rows: [0, target.out], columns: range }, false, scope)
      : this.#f32(a, { rows: range, columns: [0, target.in] }, true, scope);
  }

  /** A range of the rank of the other factor, for some rows of the matrix: f32 [rank, count]. */
  #own(factors: Factors, range: Range, first: number, count: number, scope: Buffers): Promise<NativeBuffer> {
    const { a, b } = factors.update;
    const of: Range = [first, first + count];
    return factors.transposed
      ? this.#f32(a, { rows: range, columns: of }, true, scope)
      : this.#f32(b, { rows: of, columns: range }, false, scope);
  }

  /** A part of a matrix in f32, turned round if asked for. */
  async #f32(source: Source, { rows, columns }: Part, turn: boolean, scope: Buffers): Promise<NativeBuffer> {
    const { entry } = source;
    const [height, width] = [rows[1] - rows[0], columns[1] - columns[0]];
    const [row, all] = [rowBytes(entry.dtype, width), rowBytes(entry.dtype, entry.shape[1] as number)];
    const start = rowBytes(entry.dtype, columns[0]);
    const wide = scope.take(height * width * 4);
    const raw = scope.take(height * row);
    const into = new Uint8Array(raw.view(0, height * row));
    if (row === all) await readRange(source, rows[0] * all, into);
    else
      await readRanges(source, height, (i) => [
        (rows[0] + i) * all + start,
        into.subarray(i * row, (i + 1) * row),
      ]);
    await this.#compute((g) => {
      const stored = g.bind(raw, 0, entry.dtype, [width, height]);
      const place = g.bind(wide, 0, "f32", turn ? [height, width] : [width, height]);
      return g.copy(turn ? g.transpose(stored) : stored, place);
    });
    scope.release(raw);
    return wide;
  }

  async #compute(build: (g: Graph) => Tensor): Promise<void> {
    this.#arena.reset();
    const g = new Graph(this.#cpu, this.#arena);
    const result = build(g);
    g.expand(result);
    g.checkSupport();
    this.#memory.place(g.handle);
    await this.#cpu.compute(g.handle, { kind: "merge", amount: result.elements });
  }

  dispose(): void {
    runAllNow([() => this.#memory.dispose(), () => this.#scratch.release(), () => this.#arena.dispose()]);
  }
}

type Range = readonly [number, number];

/** How the factors of an update are read: in as many ranges of the rank as keep the shared one within two blocks. */
class Factors {
  readonly update: Update;
  readonly ranges: readonly Range[];
  /** Elements of a row of the matrix as it is stored. */
  readonly #width: number;

  constructor(update: Update, blockBytes: number, width: number) {
    this.update = update;
    this.#width = width;
    const { r } = update.target;
    const most = Math.max(1, Math.min(r, Math.floor((2 * blockBytes) / (width * 4))));
    this.ranges = Array.from({ length: Math.ceil(r / most) }, (_, i) => [
      i * most,
      Math.min(r, (i + 1) * most),
    ]);
  }

  get rank(): number {
    return this.update.target.r;
  }

  /** Rows of the stored matrix are outputs, or inputs where it is stored [in, out]. */
  get transposed(): boolean {
    return this.update.target.weight.transposed === true;
  }

  /** f32 [width, count] and the product of a range of the rank. */
  added(
    g: Graph,
    to: Tensor,
    left: NativeBuffer,
    right: NativeBuffer,
    count: number,
    [from, end]: Range = [0, this.rank],
  ): Tensor {
    const rank = end - from;
    const product = g.mulMat(
      g.bind(left, 0, "f32", [rank, this.#width]),
      g.bind(right, 0, "f32", [rank, count]),
    );
    return g.add(to, g.scale(product, this.update.target.scale)); // [width, count]
  }
}

function f32(g: Graph, a: Tensor): Tensor {
  return a.dtype === "f32" ? a : g.cast(a, "f32");
}

/** Host buffers that are freed together. */
class Buffers {
  readonly #cpu: Device;
  readonly #ledger: Ledger;
  readonly #held = new Map<NativeBuffer, Allocation>();

  constructor(cpu: Device, ledger: Ledger) {
    this.#cpu = cpu;
    this.#ledger = ledger;
  }
  take(bytes: number): NativeBuffer {
    const taken = Allocation.take(this.#ledger, "cpu", this.#cpu.memory, bytes, "merging");
    this.#held.set(taken.buffer, taken);
    return taken.buffer;
  }
  release(buffer: NativeBuffer): void {
    this.#held.get(buffer)?.dispose();
    this.#held.delete(buffer);
  }
  [Symbol.dispose](): void {
    const held = [...this.#held.values()];
    this.#held.clear();
    disposeAll(held);
  }
}

/** Fills `into` from byte `start` of a tensor. */
function readRange(source: Source, start: number, into: Uint8Array): Promise<void> {
  return readRanges(source, 1, () => [start, into]);
}

/** The same for several ranges. */
async function readRanges(
  { checkpoint, entry }: Source,
  count: number,
  range: (i: number) => readonly [start: number, into: Uint8Array],
): Promise<void> {
  const file = checkpoint.files[entry.file]!;
  await withFile(file.path, async (handle, { size, mtimeMs }) => {
    if (size !== file.size || mtimeMs !== file.mtimeMs) {
      const problem = "the file changed while it was merged: merge again once it is complete";
      throw new CheckpointError(problem, { file: file.path, tensor: entry.name });
    }
    for (let i = 0; i < count; i++) {
      const [start, into] = range(i);
      await readExactly(handle, into, entry.offset + start, file.path);
    }
  });
}
