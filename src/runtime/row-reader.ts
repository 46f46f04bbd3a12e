// Fetches single rows of tables (token and position embeddings) whose home is RAM or disk.
import type { Device } from "../ggml/device.ts";
import { rowBytes } from "../ggml/tensor.ts";
import { Allocation } from "../memory/allocate.ts";
import type { Ledger } from "../memory/ledger.ts";
import type { ReadQueue } from "../memory/read-queue.ts";
import type { Matrix } from "../plan/units.ts";
import type { GatheredRows } from "./inputs.ts";
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
  return READS * Math.max(0, ...tables.map(spanBytes));
}

/** Rows of a table that are read together, in order. */
interface RowSpan {
  readonly ids: readonly number[];
  /** From the start of the table. */
  readonly start: number;
  readonly bytes: number;
}

function rowSpans(ids: Iterable<number>, row: number, most: number): RowSpan[] {
  const spans: { ids: number[]; start: number; bytes: number }[] = [];
  for (const id of [...new Set(ids)].sort((a, b) => a - b)) {
    const last = spans.at(-1);
    const end = (id + 1) * row;
    const near = last && id * row - (last.start + last.bytes) <= GAP;
    if (last && near && pieceBound(end - last.start) <= most) {
      last.ids.push(id);
      last.bytes = end - last.start;
    } else spans.push({ ids: [id], start: id * row, bytes: row });
  }
  return spans;
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

  /** The rows `ids` of a table, in order. Ids are inside the table: the caller checked them. */
  async gather(m: Matrix, ids: Int32Array, signal?: AbortSignal): Promise<GatheredRows> {
    const row = rowBytes(m.dtype, m.ne[0]);
    const bytes = new Uint8Array(ids.length * row);
    const resident = this.#residents.matrix(m);
    if (resident) this.#fromRam(resident.placed, row, ids, bytes);
    else await this.#fromDisk(m, row, ids, bytes, signal);
    return { name: m.name, dtype: m.dtype, width: m.ne[0], bytes };
  }

  #fromRam(placed: Placed, row: number, ids: Int32Array, out: Uint8Array): void {
    for (const [i, id] of ids.entries()) {
      out.set(placed.buffer.bytes(placed.offset + id * row, row), i * row);
    }
  }

  async #fromDisk(
    m: Matrix,
    row: number,
    ids: Int32Array,
    out: Uint8Array,
    signal?: AbortSignal,
  ): Promise<void> {
    const slot = spanBytes(m);
    const spans = rowSpans(ids, row, slot);
    const rows = new Map<number, Uint8Array>();
    const { buffer } = this.#staging;
    const readInto = async (at: number) => {
      for (let span = spans.shift(); span; span = spans.shift()) {
        const piece = this.#sources.piece(m.source, span.start, span.bytes);
        await readPiece(this.#queue, piece, buffer, at, signal);
        this.readBytes += piece.length;
        for (const id of span.ids) {
          rows.set(id, buffer.bytes(at + piece.shift + id * row - span.start, row).slice());
        }
      }
    };
    const slots = Array.from({ length: Math.min(READS, spans.length) }, (_, i) => i * slot);
    const results = await Promise.allSettled(
      slots.map((at) =>
        readInto(at).catch((error: unknown) => {
          spans.length = 0;
          throw error;
        }),
      ),
    );
    for (const r of results) if (r.status === "rejected") throw r.reason;
    for (const [i, id] of ids.entries()) out.set(rows.get(id) as Uint8Array, i * row);
  }

  async dispose(): Promise<void> {
    await this.#queue.idle();
    this.#staging.dispose();
  }
}
