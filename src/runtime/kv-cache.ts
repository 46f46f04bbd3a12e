// Keys and values of every layer: one row per token, on the device that computes the layer.
import type { BufferType } from "../ggml/buffer.ts";
import type { DType } from "../ggml/dtypes.ts";
import type { Graph } from "../ggml/ops.ts";
import { rowBytes, type Tensor } from "../ggml/tensor.ts";
import { Allocation } from "../memory/allocate.ts";
import type { Ledger } from "../memory/ledger.ts";
import type { ModelSpec } from "../models/spec.ts";

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
  return 2 * spec.num_layers * rowBytes(dtype, spec.num_kv_heads * spec.head_dim) * tokens;
}

/** Tokens that a cache of `bytes` bytes has room for. */
export function mostTokens(spec: ModelSpec, dtype: KvDType, bytes: number): number {
  return Math.floor(bytes / kvBytes(spec, dtype, 1));
}

/** A cache in memory. `capacity` counts tokens of all sequences together. */
export class KvCache implements KvRows {
  readonly width: number;
  readonly dtype: KvDType;
  readonly capacity: number;
  readonly #layers: Allocation[] = [];
  readonly #row: number;

  constructor(
    spec: ModelSpec,
    dtype: KvDType,
    capacity: number,
    place: { ledger: Ledger; tier: "gpu" | "cpu"; memory: BufferType },
  ) {
    this.width = spec.num_kv_heads * spec.head_dim;
    this.dtype = dtype;
    this.capacity = capacity;
    this.#row = rowBytes(dtype, this.width);
    try {
      for (let layer = 0; layer < spec.num_layers; layer++) {
        const bytes = 2 * capacity * this.#row;
        this.#layers.push(Allocation.take(place.ledger, place.tier, place.memory, bytes, "KV cache"));
      }
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  rows(g: Graph, layer: number, which: "k" | "v", first: number, count: number): Tensor {
    const { buffer } = this.#layers[layer] as Allocation;
    const start = (which === "k" ? 0 : this.capacity) + first;
    return g.bind(buffer, start * this.#row, this.dtype, [this.width, count], `${which} cache ${layer}`);
  }

  dispose(): void {
    for (const layer of this.#layers.splice(0)) layer.dispose();
  }
}
