// Attention for training: whole sequences at once, without a cache, in operations that have gradients. The products of
// queries and keys are stored, length^2 * heads * sequences * 4 bytes each, because backward needs them.

import type { Graph } from "../../../backend/ggml/ops.ts";
import { need } from "../../../backend/ggml/ops.ts";
import type { Tensor } from "../../../backend/ggml/tensor.ts";
import { GraphError } from "../../../base/errors.ts";
import { attentionWeights } from "../../../models/blocks/attention.ts";
import type { AttentionSpec, StageContext } from "../../../models/spec.ts";

/** A batch of sequences of one length, their tokens one after another. */
export interface TrainingSequences {
  readonly sequences: number;
  /** Tokens of a sequence. */
  readonly length: number;
  /** i32 [sequences * length] */
  readonly positions: Tensor;
  /**
   * f16 or f32 [length, length, 1, sequences or 1]: what is added to the score of each key (fastest-varying) for each
   * query: 0, or minus infinity for keys that come later or belong to another document.
   */
  readonly mask: Tensor;
  /** The same for each width of a sliding window: minus infinity too where a key lies further back. */
  readonly windowed?: ReadonlyMap<number, Tensor> | undefined;
}

export class TrainingAttention implements StageContext {
  readonly positions: Tensor;
  readonly tokens: number;
  readonly #sequences: number;
  readonly #length: number;
  readonly #mask: Tensor;
  readonly #windowed: ReadonlyMap<number, Tensor>;

  /** Throws GraphError for tensors of another shape. */
  constructor({ sequences, length, positions, mask, windowed }: TrainingSequences) {
    const tokens = sequences * length;
    need(
      positions.dtype === "i32" && positions.ne[0] === tokens && positions.elements === tokens,
      () => `attention: positions of ${sequences} sequences of ${length} tokens: ${positions}`,
    );
    for (const of of [mask, ...(windowed?.values() ?? [])]) needMask(of, length, sequences);
    this.positions = positions;
    this.tokens = tokens;
    this.#sequences = sequences;
    this.#length = length;
    this.#mask = mask;
    this.#windowed = windowed ?? new Map();
  }

  /** q [head_dim, heads, tokens], k and v [head_dim, kv_heads, tokens] -> [heads * head_dim, tokens] */
  attend(g: Graph, _layer: number, q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec): Tensor {
    const mask = spec.window === undefined ? this.#mask : this.#windowed.get(spec.window);
    if (!mask) throw new GraphError(`attention: no mask for a window of ${spec.window} tokens`);
    // Contiguous copies: Vulkan rounds operands of products to halves where their rows lie apart.
    const queries = g.cont(g.permute(this.#split(g, q), 0, 2, 1, 3)); // [head_dim, length, heads, n]
    const keys = g.cont(g.permute(this.#split(g, k), 0, 2, 1, 3)); // [head_dim, length, kv_heads, n]
    const columns = g.cont(g.permute(this.#split(g, v), 1, 2, 0, 3)); // [length, head_dim, kv_heads, n]
    const scores = g.mulMat(keys, queries, { precise: true }); // [keys, queries, heads, n]
    const weights = attentionWeights(g, scores, mask, spec);
    const mixed = g.mulMat(columns, weights, { precise: true }); // [head_dim, queries, heads, n]
    const rows = g.cont(g.permute(mixed, 0, 2, 1, 3)); // [head_dim, heads, queries, n]
    return g.reshape(rows, rows.ne[0] * rows.ne[1], this.tokens);
  }

  /** [head_dim, heads, tokens], which may be part of a larger tensor -> [head_dim, heads, length, sequences] */
  #split(g: Graph, a: Tensor): Tensor {
    const [dim, heads, tokens] = a.ne;
    need(
      tokens === this.tokens,
      () => `attention: ${a} for ${this.#sequences} sequences of ${this.#length} tokens`,
    );
    const dims = [dim, heads, this.#length, this.#sequences] as const;
    if (a.contiguous) return g.reshape(a, ...dims);
    return g.view(a, dims, [a.nb[1], a.nb[2], a.nb[2] * this.#length], 0);
  }
}

function needMask(mask: Tensor, length: number, sequences: number): void {
  const [keys, queries, heads, batch] = mask.ne;
  need(
    (mask.dtype === "f16" || mask.dtype === "f32") && keys === length && queries === length && heads === 1,
    () => `attention: a mask of f16 or f32 [${length}, ${length}, 1, ${sequences} or 1]: ${mask}`,
  );
  need(
    batch === 1 || batch === sequences,
    () => `attention: a mask for 1 or ${sequences} sequences: ${mask}`,
  );
}
