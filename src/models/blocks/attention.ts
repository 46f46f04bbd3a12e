// Attention halves: normalise, project, rotate, attend, project back, add to the stream.
import type { Graph } from "../../backend/ggml/ops.ts";
import type { Tensor } from "../../backend/ggml/tensor.ts";
import type { AttentionSpec, StageContext, Weights } from "../spec.ts";
import type { Rope } from "./rope.ts";

export interface AttentionShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** y = W x + b: weights [in, out], x [in, tokens] -> [out, tokens]; with an adapter of W (`g.adapters`), what it adds. */
export function linear(g: Graph, weight: Tensor, x: Tensor, bias?: Tensor): Tensor {
  const product = g.mulMat(weight, x);
  const y = bias ? g.add(product, bias) : product;
  const adapter = g.adapters?.get(weight);
  if (!adapter) return y;
  const { a, b, scale, dropout } = adapter;
  const low = g.mulMat(a, dropout ? g.mul(x, dropout) : x); // [r, tokens]
  return g.add(y, g.scale(g.mulMat(b, low), scale));
}

/** Scores q k^T [rows, tokens, heads, n] -> weights of the same shape, in operations that have gradients. */
export function attentionWeights(
  g: Graph,
  scores: Tensor,
  mask: Tensor | undefined,
  { scale, softcap, sinks }: AttentionSpec,
): Tensor {
  if (!softcap) return g.softMax(scores, mask, scale, sinks);
  const capped = g.scale(g.unary("tanh", g.scale(scores, scale / softcap)), softcap);
  return g.softMax(capped, mask, 1, sinks);
}

/** Grouped-query attention (Ainslie et al. 2023) over separate q, k, v projections, rotary positions. */
export function groupedQueryAttention(
  g: Graph,
  x: Tensor, // [hidden, tokens], normalised
  w: Weights,
  ctx: StageContext,
  layer: number,
  shape: AttentionShape,
  rope: Rope,
): Tensor {
  const { heads, kvHeads, headDim } = shape;
  const t = ctx.tokens;
  const q = g.reshape(linear(g, w.q!, x, w.q_bias), headDim, heads, t); // [head_dim, heads, tokens]
  const k = g.reshape(linear(g, w.k!, x, w.k_bias), headDim, kvHeads, t);
  const v = g.reshape(linear(g, w.v!, x, w.v_bias), headDim, kvHeads, t);
  const turned = [q, k].map((a) => g.rope(a, ctx.positions, rope.params, w.rope_factors));
  const mixed = ctx.attend(g, layer, turned[0]!, turned[1]!, v, { scale: 1 / Math.sqrt(headDim) }); // [heads * head_dim, tokens]
  return linear(g, w.o!, mixed, w.o_bias);
}

/** Multi-head attention whose q, k and v come from one projection [hidden, 3 * hidden] (GPT-2). */
export function fusedAttention(
  g: Graph,
  x: Tensor,
  w: Weights,
  ctx: StageContext,
  layer: number,
  shape: AttentionShape,
  scale = 1 / Math.sqrt(shape.headDim),
): Tensor {
  const { heads, headDim } = shape;
  const width = heads * headDim;
  const qkv = linear(g, w.qkv!, x, w.qkv_bias); // [3 * hidden, tokens]
  const part = (i: number) =>
    g.view(qkv, [headDim, heads, ctx.tokens], [headDim * 4, qkv.nb[1]], i * width * 4);
  const mixed = ctx.attend(g, layer, part(0), part(1), part(2), { scale });
  return linear(g, w.o!, mixed, w.o_bias);
}
