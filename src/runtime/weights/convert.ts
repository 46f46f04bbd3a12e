// Turns values from one type or orientation into another with the library's own kernels, block by block.

import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import type { Device } from "../../backend/ggml/device.ts";
import type { DType } from "../../backend/ggml/dtypes.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import { Graph } from "../../backend/ggml/ops.ts";
import { narrowDoubles } from "../../base/narrow-doubles.ts";

/** Some rows of a matrix as the checkpoint holds them, contiguous at a byte of a host buffer. */
export interface RowBlock {
  readonly buffer: NativeBuffer;
  readonly offset: number;
  readonly dtype: DType;
  /** Elements of a row. */
  readonly width: number;
  readonly rows: number;
}

/** A matrix in place: [in, out] in ggml's order, contiguous at a byte of a host buffer. */
export interface MatrixPlace {
  readonly buffer: NativeBuffer;
  readonly offset: number;
  readonly dtype: DType;
  readonly ne: readonly [number, number];
}

/** Reuses one small arena for all conversions of a load. */
export class Converter {
  readonly #cpu: Device;
  readonly #arena = new HeaderArena(16, { graph: true });

  constructor(cpu: Device) {
    this.#cpu = cpu;
  }

  /**
   * Writes a block into its place. `first` is the block's first row in the checkpoint's matrix: a row of the place,
   * or, when `transposed`, a column of it.
   */
  async run(block: RowBlock, place: MatrixPlace, first: number, transposed: boolean): Promise<void> {
    this.#arena.reset();
    const g = new Graph(this.#cpu, this.#arena);
    const dtype = block.dtype === "f64" ? "f32" : block.dtype;
    if (block.dtype === "f64") {
      const count = block.width * block.rows;
      narrowDoubles(block.buffer.bytes(block.offset, count * 8), count);
    }
    const from = g.bind(block.buffer, block.offset, dtype, [block.width, block.rows]);
    const whole = g.bind(place.buffer, place.offset, place.dtype, place.ne);
    if (transposed) {
      const columns = g.view(whole, [block.rows, place.ne[1]], [whole.nb[1]], first * whole.nb[0]);
      g.expand(g.copy(g.transpose(from), columns)); // [rows, width] of the place
    } else {
      const rows = g.view(whole, [block.width, block.rows], [whole.nb[1]], first * whole.nb[1]);
      g.expand(g.copy(from, rows));
    }
    g.checkSupport();
    const detail = transposed ? "turned" : "rows";
    await this.#cpu.compute(g.handle, { kind: "convert", detail, amount: block.width * block.rows });
  }

  dispose(): void {
    this.#arena.dispose();
  }
}
