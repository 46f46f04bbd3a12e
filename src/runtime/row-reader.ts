// Fetches single rows of tables (token and position embeddings) whose home is RAM or disk.
import type { Device } from "../ggml/device.ts";
import { rowBytes } from "../ggml/tensor.ts";
import { Allocation } from "../memory/allocate.ts";
import type { Ledger } from "../memory/ledger.ts";
import type { ReadQueue } from "../memory/read-queue.ts";
import type { Matrix } from "../plan/units.ts";
import type { GatheredRows } from "./inputs.ts";
import type { Residents } from "./residents.ts";
import { pieceBound, readPiece, type SourceFiles } from "./sources.ts";

/** Rows read from disk at a time. */
const ROWS_AT_ONCE = 16;

/** RAM for rows on their way from disk. Bytes. */
export function rowStagingBytes(rowSizes: readonly number[]): number {
  return rowSizes.length === 0 ? 0 : ROWS_AT_ONCE * Math.max(...rowSizes.map(pieceBound));
}

export class RowReader {
  readonly #residents: Residents;
  readonly #sources: SourceFiles;
  readonly #staging: Allocation;
  /** A queue of its own: rows must not wait behind the weights that are read ahead. */
  readonly #queue: ReadQueue;
  /** Bytes read from disk since the model was opened. */
  readBytes = 0;

  constructor(
    cpu: Device,
    ledger: Ledger,
    residents: Residents,
    sources: SourceFiles,
    rowSizes: readonly number[],
    queue: ReadQueue,
  ) {
    this.#residents = residents;
    this.#sources = sources;
    this.#queue = queue;
    this.#staging = Allocation.take(ledger, "cpu", cpu.memory, rowStagingBytes(rowSizes), "row staging");
  }

  /** The rows `ids` of a table, in order. Ids are inside the table: the caller checked them. */
  async gather(m: Matrix, ids: Int32Array, signal?: AbortSignal): Promise<GatheredRows> {
    const row = rowBytes(m.dtype, m.ne[0]);
    const bytes = new Uint8Array(ids.length * row);
    const resident = this.#residents.matrix(m);
    if (resident) this.#fromRam(resident.placed, row, ids, bytes);
    else await this.#fromDisk(m, row, ids, bytes, signal);
    return { name: m.name, dtype: m.dtype, width: m.ne[0], bytes };
  }

  #fromRam(
    placed: { allocation: Allocation; offset: number },
    row: number,
    ids: Int32Array,
    out: Uint8Array,
  ): void {
    for (const [i, id] of ids.entries()) {
      out.set(placed.allocation.buffer.bytes(placed.offset + id * row, row), i * row);
    }
  }

  async #fromDisk(
    m: Matrix,
    row: number,
    ids: Int32Array,
    out: Uint8Array,
    signal?: AbortSignal,
  ): Promise<void> {
    const distinct = [...new Set(ids)].sort((a, b) => a - b);
    const rows = new Map<number, Uint8Array>();
    const bound = pieceBound(row);
    for (let first = 0; first < distinct.length; first += ROWS_AT_ONCE) {
      const batch = distinct.slice(first, first + ROWS_AT_ONCE);
      const results = await Promise.allSettled(
        batch.map(async (id, slot) => {
          const piece = this.#sources.piece(m.source, id * row, row);
          const { buffer } = this.#staging;
          await readPiece(this.#queue, piece, buffer, slot * bound, signal);
          rows.set(id, buffer.bytes(slot * bound + piece.shift, row).slice());
        }),
      );
      for (const r of results) if (r.status === "rejected") throw r.reason;
      this.readBytes += batch.length * row;
    }
    for (const [i, id] of ids.entries()) out.set(rows.get(id) as Uint8Array, i * row);
  }

  async dispose(): Promise<void> {
    await this.#queue.idle();
    this.#staging.dispose();
  }
}
