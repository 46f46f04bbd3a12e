// Keys and values of every layer: one row per token, on the device that computes the layer.

import type { BufferType } from "../../backend/ggml/buffer.ts";
import type { DType } from "../../backend/ggml/dtypes.ts";
import type { Graph } from "../../backend/ggml/ops.ts";
import { rowBytes, type Tensor } from "../../backend/ggml/tensor.ts";
import { copyBytes, moveWithin } from "../../backend/ggml/transfer.ts";
import { disposeAll, undoNowAfter } from "../../base/async/cleanup.ts";
import { Allocation } from "../../memory/allocate.ts";
import type { Ledger } from "../../memory/ledger.ts";
import type { ModelSpec } from "../../models/spec.ts";

/** Element types a cache may have. */
export const KV_DTYPES = ["f16", "f32"] as const satisfies readonly DType[];
export type KvDType = (typeof KV_DTYPES)[number];

/** What attention needs to know of a cache; the memory behind it may be a stand-in when graphs are measured. */
export interface KvRows {
  /** Elements of a row: kv_heads * head_dim. */
  readonly width: number;
  readonly dtype: KvDType;
  /** Rows `first` to `first + count` of a layer's keys or values: [width, count]. */
  rows(g: Graph, layer: number, which: "k" | "v", first: number, count: number): Tensor;
}

/** Bytes of a cache for `tokens` tokens. */
export function kvBytes(spec: ModelSpec, dtype: KvDType, tokens: number): number {
  return spec.num_layers * layerRowBytes(spec, dtype) * tokens;
}

/** Where the rows of a layer are: on the device that computes it. */
export interface LayerPlace {
  readonly tier: "gpu" | "cpu";
  readonly memory: BufferType;
}

/** Where the memory of a cache comes from, layer by layer. */
export class KvPlaces {
  readonly ledger: Ledger;
  readonly #layers: readonly LayerPlace[];
  readonly #row: number;

  constructor(ledger: Ledger, spec: ModelSpec, dtype: KvDType, layers: readonly LayerPlace[]) {
    this.ledger = ledger;
    this.#layers = layers;
    this.#row = layerRowBytes(spec, dtype);
  }

  of(layer: number): LayerPlace {
    return this.#layers[layer] as LayerPlace;
  }

  /** Tiers that hold rows. */
  get tiers(): ("gpu" | "cpu")[] {
    return [...new Set(this.#layers.map(({ tier }) => tier))];
  }

  /** Bytes that `tokens` tokens take on a tier. */
  bytes(tier: "gpu" | "cpu", tokens: number): number {
    return this.#layers.filter((layer) => layer.tier === tier).length * this.#row * tokens;
  }

  /** Tokens that fit where `room` bytes of a tier are there for them. */
  most(room: (tier: "gpu" | "cpu") => number): number {
    return Math.min(...this.tiers.map((tier) => Math.floor(room(tier) / this.bytes(tier, 1))));
  }
}

/** Bytes of one token's key and value in one layer. */
function layerRowBytes(spec: ModelSpec, dtype: KvDType): number {
  return 2 * rowBytes(dtype, spec.num_kv_heads * spec.head_dim);
}

/** Rows that are kept when a cache is laid out anew. */
export interface RowMove {
  readonly from: number;
  readonly to: number;
  readonly rows: number;
}

/** A cache in memory. `capacity` counts tokens of all sequences together. */
export class KvCache implements KvRows {
  readonly width: number;
  readonly dtype: KvDType;
  readonly capacity: number;
  readonly #spec: ModelSpec;
  readonly #places: KvPlaces;
  readonly #layers: Allocation[];
  readonly #row: number;

  constructor(spec: ModelSpec, dtype: KvDType, capacity: number, places: KvPlaces) {
    this.#spec = spec;
    this.#places = places;
    this.width = spec.num_kv_heads * spec.head_dim;
    this.dtype = dtype;
    this.capacity = capacity;
    this.#row = rowBytes(dtype, this.width);
    this.#layers = [];
    try {
      for (let layer = 0; layer < spec.num_layers; layer++) this.#layers.push(this.#take());
    } catch (error) {
      undoNowAfter(error, [() => this.dispose()]);
    }
  }

  /**
   * The same rows in a cache of another size: `moves` says which are kept and where they go. Layer by layer, so that no
   * more than one layer is there twice. This cache is empty afterwards, and after an error too: the rows are lost then.
   */
  movedTo(capacity: number, moves: readonly RowMove[]): KvCache {
    const moved = new KvCache({ ...this.#spec, num_layers: 0 }, this.dtype, capacity, this.#places);
    try {
      for (let old = this.#layers[0]; old; old = this.#layers[0]) {
        const layer = moved.#take();
        moved.#layers.push(layer);
        for (const { from, to, rows } of moves) {
          for (const [start, target] of [
            [from, to],
            [this.capacity + from, capacity + to],
          ] as const) {
            const source = { buffer: old.buffer, at: start * this.#row };
            copyBytes(source, { buffer: layer.buffer, at: target * this.#row }, rows * this.#row);
          }
        }
        old.dispose();
        this.#layers.shift();
      }
    } catch (error) {
      undoNowAfter(error, [() => moved.dispose(), () => this.dispose()]);
    }
    return moved;
  }

  /** Moves rows within this cache; `moves` in the order of their places, which stays. */
  move(moves: readonly RowMove[]): void {
    for (const { buffer } of this.#layers) {
      for (const start of [0, this.capacity]) {
        const shift = (from: number, to: number, rows: number) =>
          moveWithin(buffer, (start + from) * this.#row, (start + to) * this.#row, rows * this.#row);
        // First close ranks towards the start, then take places from the end: nothing is overwritten that is still needed.
        let closed = 0;
        const places = moves.map(({ from, rows }) => {
          shift(from, closed, rows);
          closed += rows;
          return closed - rows;
        });
        for (const [i, { to, rows }] of [...moves.entries()].reverse()) shift(places[i] as number, to, rows);
      }
    }
  }

  /** The largest capacity that {@link movedTo} can have where `free` bytes of a tier are free; at least its own. */
  largest(free: (tier: "gpu" | "cpu") => number): number {
    const layer = 2 * this.#row;
    const more = this.#places.tiers.map((tier) => {
      if (free(tier) === Number.POSITIVE_INFINITY) return Number.MAX_SAFE_INTEGER - this.capacity;
      // The last layer's old rows are still there when all the new ones are.
      return Math.floor((free(tier) - this.capacity * layer) / this.#places.bytes(tier, 1));
    });
    return this.capacity + Math.max(0, Math.min(...more));
  }

  rows(g: Graph, layer: number, which: "k" | "v", first: number, count: number): Tensor {
    const { buffer } = this.#layers[layer] as Allocation;
    const start = (which === "k" ? 0 : this.capacity) + first;
    return g.bind(buffer, start * this.#row, this.dtype, [this.width, count], `${which} cache ${layer}`);
  }

  /** Memory for the next layer. */
  #take(): Allocation {
    const { ledger } = this.#places;
    const { tier, memory } = this.#places.of(this.#layers.length);
    return Allocation.take(ledger, tier, memory, 2 * this.capacity * this.#row, "KV cache");
  }

  dispose(): void {
    disposeAll(this.#layers.splice(0));
  }
}
