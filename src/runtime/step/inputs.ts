// What a pass gives its graphs beside weights: positions, token ids, gathered rows of tables, attention masks, and the
// hidden states between graphs. One buffer on the computing device, reused while it is large enough.

import type { BufferType } from "../../backend/ggml/buffer.ts";
import type { Device } from "../../backend/ggml/device.ts";
import type { DType } from "../../backend/ggml/dtypes.ts";
import type { Graph } from "../../backend/ggml/ops.ts";
import { rowBytes, type Tensor } from "../../backend/ggml/tensor.ts";
import { copyAcross } from "../../backend/ggml/transfer.ts";
import { disposeAll } from "../../base/async/cleanup.ts";
import { Allocation } from "../../memory/allocate.ts";
import type { Ledger } from "../../memory/ledger.ts";
import { DeviceWriter } from "../weights/device-writer.ts";
import { needsMask } from "./attention.ts";
import { CHUNK_TOKENS, type Chunk, type ChunkPart, PASS_TOKENS, type Pass, visibleRows } from "./chunks.ts";

const ALIGNMENT = 256;
const align = (bytes: number) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/** f16 bits of minus infinity. */
const MINUS_INFINITY = 0xfc00;

/** Rows of a table that is not in device memory: those of the pass's tokens, gathered on the host. */
export interface GatheredRows {
  readonly name: string;
  readonly dtype: DType;
  /** Elements of a row. */
  readonly width: number;
  /** Puts the rows of tokens `first` to `first + count` one after another into `into`. */
  gather(into: Uint8Array, first: number, count: number): Promise<void>;
}

interface Region {
  readonly offset: number;
  readonly bytes: number;
}

/** Bytes of the inputs of the largest pass over so many sequences of up to `context` tokens. */
export function inputBytes(
  context: number,
  hidden: number,
  gatheredRowBytes: readonly number[],
  sequences = 1,
  windows: readonly number[] = [],
): number {
  const tokens = Math.min(context * sequences, PASS_TOKENS);
  let total = 2 * align(tokens * 4) + align(tokens * hidden * 4) + align(tokens * 4);
  for (const row of gatheredRowBytes) total += align(tokens * row);
  for (let start = 0; start < tokens; start += CHUNK_TOKENS) {
    const count = Math.min(CHUNK_TOKENS, tokens - start);
    if (sequences > 1) total += sequences * align(1) + align(context * count * 2);
    else if (count > 1) total += align((context - tokens + start + count) * count * 2);
    if (sequences === 1 && count === 1) continue;
    for (const window of windows)
      total += sequences * align(1) + align(Math.min(context, window + count - 1) * count * 2);
  }
  return total;
}

export class PassInputs {
  readonly #device: Device;
  readonly #place: { ledger: Ledger; tier: "gpu" | "cpu"; memory: BufferType };
  readonly #hidden: number;
  readonly #windows: readonly number[];
  readonly #writer: DeviceWriter;
  #allocation: Allocation | undefined;
  #positions: Region = { offset: 0, bytes: 0 };
  #ids: Region = { offset: 0, bytes: 0 };
  #state: Region = { offset: 0, bytes: 0 };
  #selected: Region = { offset: 0, bytes: 0 };
  #rows = new Map<string, Region & { dtype: DType; width: number }>();
  /** By window, 0 for none: per chunk, per part. */
  #masks = new Map<number, (Region | undefined)[][]>();
  #layout = "";
  #allocations = 0;

  /** `windows`: widths of sliding windows that layers have beside plain causal attention. */
  constructor(device: Device, ledger: Ledger, hidden: number, windows: readonly number[] = []) {
    this.#windows = [...new Set(windows)];
    this.#device = device;
    this.#writer = new DeviceWriter(device);
    this.#place = { ledger, tier: device.kind, memory: device.memory };
    this.#hidden = hidden;
  }

  /** Takes the memory up front, so that a later pass of up to this size cannot fail. */
  reserve(bytes: number): void {
    if (this.#allocation && this.#allocation.buffer.size >= bytes) return;
    if (this.#allocation) {
      this.#allocation.dispose();
      this.#allocation = undefined;
      this.#device.forgetBuffers();
    }
    this.#allocations++;
    const { ledger, tier, memory } = this.#place;
    this.#allocation = Allocation.take(ledger, tier, memory, bytes, "activations");
  }

  /** Gives back what is beyond `bytes`: for a while, or what a long prompt needed. Contents are lost. */
  trim(bytes: number): void {
    if (!this.#allocation || this.#allocation.buffer.size <= bytes) return;
    this.#allocation.dispose();
    this.#allocation = undefined;
    this.#device.forgetBuffers();
    this.reserve(bytes);
  }

  /** Says where the inputs of the pass lie: equal for two passes whose tensors are bound at the same places. */
  get layout(): string {
    return this.#layout;
  }

  /**
   * Lays out and fills the inputs of a pass. `selected` are the tokens whose logits are wanted. Throws BudgetError for a
   * pass that needs more than was reserved and is free, and what gathering rows throws.
   */
  async prepare(pass: Pass, gathered: readonly GatheredRows[], selected: Int32Array): Promise<void> {
    let end = 0;
    const region = (bytes: number): Region => {
      const offset = end;
      end += align(bytes);
      return { offset, bytes };
    };
    const tokens = pass.ids.length;
    this.#positions = region(tokens * 4);
    this.#ids = region(tokens * 4);
    this.#selected = region(Math.max(selected.length, 1) * 4);
    this.#state = region(tokens * this.#hidden * 4);
    this.#rows.clear();
    for (const { name, dtype, width } of gathered) {
      this.#rows.set(name, { ...region(tokens * rowBytes(dtype, width)), dtype, width });
    }
    const regions = (part: ChunkPart, window: number) =>
      needsMask(part) ? region(visibleRows(part, window || undefined).count * part.count * 2) : undefined;
    this.#masks = new Map(
      [0, ...this.#windows].map((window) => [
        window,
        pass.chunks.map((chunk) => chunk.parts.map((part) => regions(part, window))),
      ]),
    );
    this.reserve(end);
    const sizes = [
      ...[...this.#rows.values()].map((r) => r.bytes),
      ...[...this.#masks.values()].flat(2).map((m) => m?.bytes ?? 0),
    ];
    this.#layout = [this.#allocations, tokens, selected.length, ...sizes].join();
    const { buffer } = this.#allocation as Allocation;
    this.#writer.write(buffer, this.#positions.offset, pass.positions);
    this.#writer.write(buffer, this.#ids.offset, pass.ids);
    this.#writer.write(buffer, this.#selected.offset, selected);
    for (const { name, dtype, width, gather } of gathered) {
      const { offset } = this.#rows.get(name) as Region;
      await this.#writer.fill(buffer, offset, { rows: tokens, rowBytes: rowBytes(dtype, width) }, gather);
    }
    for (const [window, places] of this.#masks) {
      for (const [c, chunk] of pass.chunks.entries()) {
        for (const [p, part] of chunk.parts.entries()) {
          const place = places[c]?.[p];
          if (!place) continue;
          const { first: from, count: width } = visibleRows(part, window || undefined);
          const shape = { rows: part.count, rowBytes: width * 2 };
          await this.#writer.fill(buffer, place.offset, shape, (into, first, rows) =>
            causalMask(into, width, part.past - from + first, rows, window || undefined),
          );
        }
      }
    }
  }

  positions(g: Graph, chunk: Chunk): Tensor {
    return this.#bind(g, this.#positions, chunk.start * 4, "i32", [chunk.tokens], "positions");
  }
  ids(g: Graph, chunk: Chunk): Tensor {
    return this.#bind(g, this.#ids, chunk.start * 4, "i32", [chunk.tokens], "ids");
  }
  /** Tokens `first` to `first + count` of those whose logits are wanted. */
  selected(g: Graph, first: number, count: number): Tensor {
    return this.#bind(g, this.#selected, first * 4, "i32", [count], "selected");
  }
  /** Rows gathered on the host: [width, tokens] in the table's type. */
  rows(g: Graph, name: string, chunk: Chunk): Tensor | undefined {
    const r = this.#rows.get(name);
    if (!r) return undefined;
    return this.#bind(g, r, chunk.start * rowBytes(r.dtype, r.width), r.dtype, [r.width, chunk.tokens], name);
  }
  /** Per part: f16 [rows it sees, count], undefined where it needs none. */
  masks(g: Graph, pass: Pass, chunk: Chunk, window?: number): (Tensor | undefined)[] {
    const regions = this.#masks.get(window ?? 0)?.[pass.chunks.indexOf(chunk)] ?? [];
    return chunk.parts.map((part, i) => {
      const r = regions[i];
      return r && this.#bind(g, r, 0, "f16", [visibleRows(part, window).count, part.count], "mask");
    });
  }
  /** The same for each width of a sliding window. */
  windowed(g: Graph, pass: Pass, chunk: Chunk): ReadonlyMap<number, (Tensor | undefined)[]> {
    return new Map(this.#windows.map((window) => [window, this.masks(g, pass, chunk, window)]));
  }
  /** Hidden states between graphs: f32 [hidden, tokens] from token `first` of the pass. */
  state(g: Graph, first: number, tokens: number): Tensor {
    const at = first * this.#hidden * 4;
    return this.#bind(g, this.#state, at, "f32", [this.#hidden, tokens], "hidden");
  }

  /** Takes over the hidden states of the first `tokens` tokens from the inputs of another device in the same pass. */
  async takeState(from: PassInputs, tokens: number): Promise<void> {
    const at = ({ offset }: Region, of: PassInputs) => ({
      buffer: (of.#allocation as Allocation).buffer,
      at: offset,
    });
    await copyAcross(at(from.#state, from), at(this.#state, this), tokens * this.#hidden * 4);
  }

  #bind(g: Graph, r: Region, at: number, dtype: DType, dims: readonly number[], name: string): Tensor {
    return g.bind((this.#allocation as Allocation).buffer, r.offset + at, dtype, dims, name);
  }

  dispose(): void {
    const allocation = this.#allocation;
    this.#allocation = undefined;
    disposeAll([allocation, this.#writer]);
  }
}

/** f16 rows [width]: 0 where token `from + row` may see, minus infinity beyond, and before its window. */
function causalMask(into: Uint8Array, width: number, from: number, rows: number, window?: number): void {
  const mask = new Uint16Array(into.buffer, into.byteOffset, width * rows);
  for (let row = 0; row < rows; row++) {
    const seen = row * width + from + row + 1;
    mask.fill(0, row * width, seen);
    mask.fill(MINUS_INFINITY, seen, (row + 1) * width);
    if (window) mask.fill(MINUS_INFINITY, row * width, Math.max(row * width, seen - window));
  }
}
