// Causal attention of a chunk over the cache: stores the new keys and values, then attends part by part.
import type { DType } from "../../backend/ggml/dtypes.ts";
import { DTYPES } from "../../backend/ggml/dtypes.ts";
import { type Graph, need } from "../../backend/ggml/ops.ts";
import type { Tensor } from "../../backend/ggml/tensor.ts";
import { attentionWeights } from "../../models/blocks/attention.ts";
import type { AttentionSpec, StageContext } from "../../models/spec.ts";
import type { CacheWindow } from "../state/cache-window.ts";
import type { KvRows } from "../state/kv-cache.ts";
import { type Chunk, type ChunkPart, visibleRows } from "./chunks.ts";

/** What one chunk's graph is built over. */
export interface ChunkInputs {
  readonly positions: Tensor;
  /** Per part of the chunk: f16 [past + count, count], or undefined where one new token sees everything. */
  readonly masks: readonly (Tensor | undefined)[];
  /** The same for each width of a sliding window, over the rows that the part sees: f16 [visible rows, count]. */
  readonly windowed?: ReadonlyMap<number, readonly (Tensor | undefined)[]> | undefined;
}

/** Whether a part needs a mask: a single new token may see every row. */
export function needsMask(part: ChunkPart): boolean {
  return part.count > 1;
}

export interface AttentionOptions {
  /** Use the fused kernel. */
  readonly flash: boolean;
  /** Gets the tensors that differ from one new token to the next. */
  readonly window?: CacheWindow | undefined;
}

export class CachedAttention implements StageContext {
  readonly positions: Tensor;
  readonly tokens: number;
  readonly #chunk: Chunk;
  readonly #inputs: ChunkInputs;
  readonly #kv: KvRows;
  readonly #options: AttentionOptions;

  constructor(chunk: Chunk, inputs: ChunkInputs, kv: KvRows, options: AttentionOptions) {
    this.positions = inputs.positions;
    this.tokens = chunk.tokens;
    this.#chunk = chunk;
    this.#inputs = inputs;
    this.#kv = kv;
    this.#options = options;
  }

  attend(g: Graph, layer: number, q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec): Tensor {
    const { flash: fused, window } = this.#options;
    const masks = this.#masks(spec.window);
    const mixed = this.#chunk.parts.map((part, i) => {
      const of = (a: Tensor) =>
        g.view(a, [a.ne[0], a.ne[1], part.count], [a.nb[1], a.nb[2]], part.offset * a.nb[2]); // [head_dim, heads, count]
      const [qp, kp, vp] = [of(q), of(k), of(v)];
      for (const stored of [this.#store(g, layer, "k", kp, part), this.#store(g, layer, "v", vp, part)])
        window?.stores(stored, i, part);
      const { first, count } = visibleRows(part, spec.window);
      const start = part.base + first;
      const apart = fused && part.count === 1 && g.device.onHost;
      const keys = this.#heads(g, this.#kv.rows(g, layer, "k", start, count), kp.ne[0], apart);
      const values = this.#heads(g, this.#kv.rows(g, layer, "v", start, count), vp.ne[0], apart);
      for (const view of [keys, values]) window?.reads(view, i, part, spec.window);
      if (apart) return flashOne(g, qp, keys, values, spec);
      const queries = g.permute(qp, 0, 2, 1, 3); // [head_dim, count, heads]
      const attend = fused ? flash : explicit;
      return attend(g, queries, keys, values, masks[i], spec); // [heads * head_dim, count]
    });
    return g.join(mixed, 1);
  }

  /** Masks of the parts; throws GraphError where a layer has a window that the inputs were not made for. */
  #masks(window: number | undefined): readonly (Tensor | undefined)[] {
    if (window === undefined) return this.#inputs.masks;
    need(Number.isInteger(window) && window > 0, () => `attention: a window of ${window} tokens`);
    const masks = this.#inputs.windowed?.get(window);
    need(
      masks !== undefined || !this.#chunk.parts.some(needsMask),
      () => `attention: no masks for a window of ${window} tokens: ModelSpec.windows must name it`,
    );
    return masks ?? [];
  }

  #store(g: Graph, layer: number, which: "k" | "v", rows: Tensor, part: ChunkPart): Tensor {
    const place = this.#kv.rows(g, layer, which, part.base + part.past, part.count);
    const stored = g.copy(rows, place);
    g.expand(stored); // before the reads below: graphs run in the order of expansion
    return stored;
  }

  /** [width, rows] -> [head_dim, rows, kv_heads], without moving anything; `apart`: [head_dim, rows, 1, kv_heads]. */
  #heads(g: Graph, rows: Tensor, headDim: number, apart: boolean): Tensor {
    const heads = rows.ne[0] / headDim;
    const head = headDim * DTYPES[rows.dtype as DType].bytes;
    if (apart) return g.view(rows, [headDim, rows.ne[1], 1, heads], [rows.nb[1], head, head], 0);
    return g.view(rows, [headDim, rows.ne[1], heads], [rows.nb[1], head], 0);
  }
}

function flash(
  g: Graph,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  mask: Tensor | undefined,
  spec: AttentionSpec,
): Tensor {
  const mixed = g.flashAttention(q, k, v, mask, spec.scale, spec); // [head_dim, heads, count]
  return g.reshape(mixed, mixed.ne[0] * mixed.ne[1], mixed.ne[2]);
}

/**
 * The same for one query q [head_dim, heads] over k and v [head_dim, rows, 1, kv_heads], on the CPU. For a query alone in
 * its dimensions the CPU's kernel divides 512 and more rows among its threads and adds up what each of them found, so that
 * the number of threads would decide how the result is rounded. Heads in the last dimension, or as queries, are computed
 * whole. The kernel finds sinks by the dimension of heads, which must stay then: a second query that is the same does it.
 */
function flashOne(g: Graph, q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec): Tensor {
  const { scale, softcap, sinks } = spec;
  const [headDim, heads] = q.ne;
  if (sinks) {
    const query = g.view(q, [headDim, 1, heads], [q.nb[1], q.nb[1]], 0);
    const [keys, values] = [k, v].map((a) => g.permute(a, 0, 1, 3, 2)); // [head_dim, rows, kv_heads]
    const mixed = g.flashAttention(g.concat(query, query, 1), keys!, values!, undefined, scale, spec); // [head_dim, heads, 2]
    return g.view(mixed, [headDim * heads, 1], [mixed.nb[2]], 0);
  }
  const shared = k.ne[3];
  const group = heads / shared; // queries that share keys
  const head = q.nb[1];
  if (shared > 1) {
    const queries = g.view(q, [headDim, 1, group, shared], [head, head, group * head], 0);
    const mixed = g.flashAttention(queries, k, v, undefined, scale, { softcap }); // [head_dim, group, 1, kv_heads]
    return g.reshape(mixed, headDim * heads, 1);
  }
  const queries = g.view(q, [headDim, heads, 1], [head, heads * head], 0);
  const two = heads > 1 ? queries : g.concat(queries, queries, 1);
  const mixed = g.flashAttention(two, k, v, undefined, scale, { softcap }); // [head_dim, 1, heads]
  return heads > 1 ? g.reshape(mixed, headDim * heads, 1) : g.view(mixed, [headDim, 1], [mixed.nb[1]], 0);
}

/** The same with the products stored: for devices without the fused kernel. */
function explicit(
  g: Graph,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  mask: Tensor | undefined,
  spec: AttentionSpec,
): Tensor {
  const scores = g.mulMat(k, q, { precise: true }); // [rows, count, heads]
  const weights = attentionWeights(g, scores, mask, spec);
  const columns = g.cont(g.transpose(v)); // [rows, head_dim, kv_heads]
  const mixed = g.mulMat(columns, weights, { precise: true }); // [head_dim, count, heads]
  const rows = g.cont(g.permute(mixed, 0, 2, 1, 3)); // [head_dim, heads, count]
  return g.reshape(rows, rows.ne[0] * rows.ne[1], rows.ne[2]);
}
