// The tensors of a merged checkpoint, block of rows by block of rows: as they were, in another type, or with a low-rank
// update added in f32. Holds one block and the two factors of one update at a time. Which tensors there are: merge.ts.
import { narrowDoubles } from "../base/narrow-doubles.ts";
import { readExactly, withFile } from "../checkpoint/files.ts";
import type { Checkpoint, TensorEntry } from "../checkpoint/types.ts";
import { CheckpointError } from "../errors.ts";
import type { NativeBuffer } from "../ggml/buffer.ts";
import type { Device } from "../ggml/device.ts";
import type { DType } from "../ggml/dtypes.ts";
import { HeaderArena } from "../ggml/graph.ts";
import { GraphMemory } from "../ggml/graph-memory.ts";
import { Graph } from "../ggml/ops.ts";
import { rowBytes, type Tensor } from "../ggml/tensor.ts";
import type { LoraTarget } from "./targets.ts";

/** Bytes of a block in f32, unless one row needs more. */
export const BLOCK_BYTES = 16 * 1024 * 1024;

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

/** Computes on the CPU with memory of its own; one tensor at a time. */
export class TensorMerger {
  readonly #cpu: Device;
  readonly #arena = new HeaderArena(32, { graph: true });
  readonly #memory: GraphMemory;
  readonly #blockBytes: number;

  constructor(cpu: Device, blockBytes = BLOCK_BYTES) {
    this.#cpu = cpu;
    this.#memory = new GraphMemory(cpu.memory, () => {});
    this.#blockBytes = blockBytes;
  }

  /**
   * The bytes of a tensor in `dtype`, with `update` added before they are rounded. A chunk is reused for the next one.
   * Throws CheckpointError if a file changed since it was opened, IoError.
   */
  async *chunks(source: Source, dtype: DType, update?: Update): AsyncGenerator<Uint8Array> {
    const { entry } = source;
    const width = entry.shape.at(-1) ?? 1;
    const held = entry.dtype === "f64" ? "f32" : entry.dtype;
    const rows = entry.shape.slice(0, -1).reduce((a, b) => a * b, 1);
    const perBlock = Math.max(1, Math.min(rows, Math.floor(this.#blockBytes / (width * 4))));
    const [from, to] = [rowBytes(entry.dtype, width), rowBytes(dtype, width)];
    using scope = new Buffers(this.#cpu);
    const factors = update && (await this.#factors(update, scope));
    const input = scope.take(perBlock * from);
    const output = entry.dtype === dtype && !update ? input : scope.take(perBlock * to);
    for (let first = 0; first < rows; first += perBlock) {
      const count = Math.min(perBlock, rows - first);
      const read = new Uint8Array(input.view(0, count * from));
      await readRange(source, first * from, read);
      if (entry.dtype === "f64") narrowDoubles(read, count * width);
      if (output !== input) {
        await this.#compute((g) => {
          const stored = g.bind(input, 0, held, [width, count]);
          const sum = factors ? factors.add(g, stored, first, count) : stored; // [width, count]
          return g.copy(sum, g.bind(output, 0, dtype, [width, count]));
        });
      }
      yield new Uint8Array(output.view(0, count * to));
    }
  }

  /** A^T and B in f32, and how rows of the matrix get their share of the product. */
  async #factors({ target, a, b }: Update, scope: Buffers) {
    const { r, in: input, out, scale } = target;
    const at = await this.#f32(a, [input, r], true, scope); // [r, in]
    const bs = await this.#f32(b, [r, out], false, scope); // [r, out]
    // Rows of the stored matrix are outputs, or inputs where it is stored [in, out].
    const [ofRows, ofColumns, columns] = target.weight.transposed ? [at, bs, out] : [bs, at, input];
    const add = (g: Graph, stored: Tensor, first: number, count: number): Tensor => {
      const left = g.bind(ofColumns, 0, "f32", [r, columns]);
      const right = g.bind(ofRows, first * r * 4, "f32", [r, count]);
      const wide = stored.dtype === "f32" ? stored : g.cast(stored, "f32");
      return g.add(wide, g.scale(g.mulMat(left, right), scale)); // [columns, count]
    };
    return { add };
  }

  /** A small matrix of ggml's shape `ne`, whole, in f32, turned round if asked for. */
  async #f32(source: Source, ne: [number, number], turn: boolean, scope: Buffers): Promise<NativeBuffer> {
    const { entry } = source;
    const raw = scope.take(entry.bytes);
    await readRange(source, 0, new Uint8Array(raw.view(0, entry.bytes)));
    const wide = scope.take(ne[0] * ne[1] * 4);
    await this.#compute((g) => {
      const stored = g.bind(raw, 0, entry.dtype, ne);
      const place = g.bind(wide, 0, "f32", turn ? [ne[1], ne[0]] : ne);
      return g.copy(turn ? g.transpose(stored) : stored, place);
    });
    scope.release(raw);
    return wide;
  }

  async #compute(build: (g: Graph) => Tensor): Promise<void> {
    this.#arena.reset();
    const g = new Graph(this.#cpu, this.#arena);
    g.expand(build(g));
    g.checkSupport();
    this.#memory.place(g.handle);
    await this.#cpu.compute(g.handle);
  }

  dispose(): void {
    this.#memory.dispose();
    this.#arena.dispose();
  }
}

/** Host buffers that are freed together. */
class Buffers {
  readonly #cpu: Device;
  readonly #held = new Set<NativeBuffer>();

  constructor(cpu: Device) {
    this.#cpu = cpu;
  }
  take(bytes: number): NativeBuffer {
    const buffer = this.#cpu.memory.allocate(bytes);
    this.#held.add(buffer);
    return buffer;
  }
  release(buffer: NativeBuffer): void {
    this.#held.delete(buffer);
    buffer.dispose();
  }
  [Symbol.dispose](): void {
    for (const buffer of this.#held) buffer.dispose();
    this.#held.clear();
  }
}

/** Fills `into` from byte `start` of a tensor. */
async function readRange({ checkpoint, entry }: Source, start: number, into: Uint8Array): Promise<void> {
  const file = checkpoint.files[entry.file]!;
  await withFile(file.path, async (handle, { size, mtimeMs }) => {
    if (size !== file.size || mtimeMs !== file.mtimeMs) {
      const problem = "the file changed while it was merged: merge again once it is complete";
      throw new CheckpointError(problem, { file: file.path, tensor: entry.name });
    }
    await readExactly(handle, into, entry.offset + start, file.path);
  });
}
