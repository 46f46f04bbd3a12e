// Fetches single rows of tables (token and position embeddings) whose home is RAM or disk.

import type { Device } from "../../backend/ggml/device.ts";
import { rowBytes } from "../../backend/ggml/tensor.ts";
import { runAll } from "../../base/async/cleanup.ts";
import { Allocation } from "../../memory/allocate.ts";
import type { ReadQueue } from "../../memory/io/read-queue.ts";
import type { Ledger } from "../../memory/ledger.ts";
import type { Matrix } from "../../plan/units.ts";
import type { GatheredRows } from "../step/inputs.ts";
import type { Placed } from "./loader.ts";
import type { Residents } from "./residents.ts";
import { pieceBound, readPiece, type SourceFiles } from "./sources.ts";

/** Reads of rows at a time. */
const READS = 4;
/** The most that is read at once to have several rows, and the most between two of them that is read along: one read of so
 * much takes a disk no longer than two. Bytes. */
const SPAN = 256 * 1024;
const GAP = 128 * 1024;

/** Bytes of the longest read of a table. */
function spanBytes(m: Matrix): number {
  return Math.max(pieceBound(rowBytes(m.dtype, m.ne[0])), Math.min(SPAN, pieceBound(m.bytes / READS)));
}

/** RAM for rows of these tables on their way from disk. Bytes. */
export function rowStagingBytes(tables: readonly Matrix[]): number {
  return READS * Math.max(0, ...tables.flatMap((m) => m.rowBlocks ?? [m]).map(spanBytes));
}

/** Rows of a table that are read together. */
interface RowSpan {
  /** The first and the last but one of them in the order of their ids. */
  readonly from: number;
  readonly to: number;
  /** From the start of the table. */
  readonly start: number;
  readonly bytes: number;
}

/** `order`: indices of `ids` in ascending order of what they name. */
function* rowSpans(order: Int32Array, ids: Int32Array, row: number, most: number): Generator<RowSpan> {
  let from = 0;
  for (let to = 0; to < order.length; ) {
    const start = (ids[order[from] as number] as number) * row;
    let end = start + row;
    for (to = from + 1; to < order.length; to++) {
      const at = (ids[order[to] as number] as number) * row;
      if (at - end > GAP || pieceBound(at + row - start) > most) break;
      end = at + row;
    }
    yield { from, to, start, bytes: end - start };
    from = to;
  }
}

/** Rows `ids` of a table, that of `ids[i]` to be row `places[i]` of `into`, or row i. */
interface WantedRows {
  readonly ids: Int32Array;
  readonly into: Uint8Array;
  readonly places?: Int32Array;
}

const inside = (id: number, first: number, count: number) => id >= first && id < first + count;

function fromRam(placed: Placed, row: number, { ids, into, places }: WantedRows): void {
  for (const [i, id] of ids.entries()) {
    into.set(placed.buffer.bytes(placed.offset + id * row, row), (places?.[i] ?? i) * row);
  }
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
    tables: readonly Matrix[],
    queue: ReadQueue,
  ) {
    this.#residents = residents;
    this.#sources = sources;
    this.#queue = queue;
    this.#staging = Allocation.take(ledger, "cpu", cpu.memory, rowStagingBytes(tables), "row staging");
  }

  /** The rows `ids` of a table for those who put them together: see {@link GatheredRows}. */
  rows(m: Matrix, ids: Int32Array, signal?: AbortSignal): GatheredRows {
    const gather = (into: Uint8Array, first: number, count: number) =>
      this.gather(m, ids.subarray(first, first + count), into, signal);
    return { name: m.name, dtype: m.dtype, width: m.ne[0], gather };
  }

  /** Puts the rows `ids` of a table into `into`, in order. Ids are inside the table: the caller checked them. */
  async gather(m: Matrix, ids: Int32Array, into: Uint8Array, signal?: AbortSignal): Promise<void> {
    if (!m.rowBlocks || this.#inRam(m)) return this.#gatherFrom(m, { ids, into }, signal);
    for (const block of m.rowBlocks) {
      const first = block.within?.first ?? 0;
      const places = Int32Array.from(ids.keys()).filter((i) => inside(ids[i] as number, first, block.ne[1]));
      if (places.length === 0) continue;
      const own = places.map((i) => (ids[i] as number) - first);
      await this.#gatherFrom(block, { ids: own, into, places }, signal);
    }
  }

  async #gatherFrom(m: Matrix, wanted: WantedRows, signal?: AbortSignal): Promise<void> {
    const row = rowBytes(m.dtype, m.ne[0]);
    const placed = this.#inRam(m);
    if (placed) fromRam(placed, row, wanted);
    else await this.#fromDisk(m, row, wanted, signal);
  }

  #inRam(m: Matrix): Placed | undefined {
    const placed = this.#residents.matrix(m)?.placed;
    return placed?.buffer.type.host ? placed : undefined;
  }

  async #fromDisk(
    m: Matrix,
    row: number,
    { ids, into, places }: WantedRows,
    signal?: AbortSignal,
  ): Promise<void> {
    const slot = spanBytes(m);
    const order = Int32Array.from(ids.keys()).sort((a, b) => (ids[a] as number) - (ids[b] as number));
    const spans = rowSpans(order, ids, row, slot);
    const { buffer } = this.#staging;
    const readInto = async (at: number) => {
      for (const { from, to, start, bytes } of spans) {
        const piece = this.#sources.piece(m.source, start, bytes);
        await readPiece(this.#queue, piece, buffer, at, signal);
        this.readBytes += piece.length;
        const read = new Uint8Array(buffer.view(at + piece.shift, bytes));
        this.#sources.checksums(m.source)?.verifyBlocks(m.source, start, read);
        for (const i of order.subarray(from, to)) {
          const within = at + piece.shift + (ids[i] as number) * row - start;
          into.set(buffer.bytes(within, row), (places?.[i] ?? i) * row);
        }
      }
    };
    // The spans are shared: one that fails or ends closes them for all.
    const readers = Array.from({ length: READS }, (_, i) => readInto(i * slot));
    const results = await Promise.allSettled(readers);
    for (const r of results) if (r.status === "rejected") throw r.reason;
  }

  async dispose(): Promise<void> {
    await runAll([() => this.#queue.idle(), () => this.#staging.dispose()]);
  }
}
