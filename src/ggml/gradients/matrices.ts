// Derivatives of matrix products, as products of transposed copies: y = W x has dx = W^T dy and dW = dy x^T.
import type { TapeEntry } from "../graph.ts";
import type { Graph } from "../ops.ts";
import type { Shape, Tensor } from "../tensor.ts";
import { dense, repeatBack } from "./ops.ts";

/** What the rules of a product need to know of its step. */
interface Product {
  readonly inputs: readonly (Tensor | undefined)[];
  readonly dy: Tensor;
  producer(tensor: Tensor): TapeEntry | undefined;
}

/** Transposed copies of weights by graph, so that a weight used several times in one graph is turned once. */
const turned = new WeakMap<Graph, Map<Tensor, Tensor>>();

/**
 * dW [k, n, a, b] of W [k, n, a, b] x X [k, m, c, d] = Y [n, m, c, d], f32 whatever the types of W and X. Matrices that
 * W was repeated for count as more columns m of the same product.
 */
export function productOfLeft(g: Graph, s: Product): Tensor {
  const [w, x] = s.inputs as [Tensor, Tensor];
  const [k, n, a, b] = w.ne;
  const [, m, c, d] = x.ne;
  const columns = (t: Tensor): Tensor => {
    // m, then the repetitions within c, then (where W is a plain matrix) all the rest lie side by side
    const ne: Shape = a * b === 1 ? [t.ne[0], m * c * d, 1, 1] : [t.ne[0], (m * c) / a, a, d];
    const joined = t.ne.every((size, i) => size === ne[i]) ? t : g.reshape(dense(g, t), ...ne);
    const across = g.transpose(joined);
    return t.dtype === "f32" ? g.cont(across) : g.cast(across, "f32"); // [m, k or n, a, d]
  };
  const product = g.mulMat(columns(x), columns(s.dy)); // [k, n, a, d]
  if (product.elements === w.elements) return g.reshape(product, ...w.ne);
  const parts = g.reshape(product, k * n * a, d / b, b);
  return g.reshape(repeatBack(g, parts, g.arena.header("f32", [k * n * a, 1, b])), ...w.ne);
}

/** dX [k, m, c, d] of W [k, n, a, b] x X [k, m, c, d]: W repeats over dy as it did over X. */
export function productOfRight(g: Graph, s: Product): Tensor {
  const w = s.inputs[0] as Tensor;
  let known = turned.get(g);
  if (!known) {
    known = new Map();
    turned.set(g, known);
  }
  let back = known.get(w);
  if (!back) {
    back = transposed(g, w, s);
    known.set(w, back);
  }
  return g.mulMat(back, s.dy);
}

/**
 * W with its first two dimensions exchanged, contiguous. bf16 stays bf16, which has the range of f32; f16 becomes f32,
 * because a product in f16 would round small gradients to zero; blocks of quantized types cannot be turned and become f32.
 */
function transposed(g: Graph, w: Tensor, s: Product): Tensor {
  const before = original(w, s);
  if (before) return before.dtype === "f16" ? g.cast(before, "f32") : before;
  if (w.dtype === "f32" || w.dtype === "bf16") return g.cont(g.transpose(w));
  if (w.dtype === "f16") return g.cast(g.transpose(w), "f32");
  return g.cont(g.transpose(g.cast(w, "f32")));
}

/** The contiguous tensor that W is itself the transposed copy of. */
function original(w: Tensor, s: Product): Tensor | undefined {
  const copy = s.producer(w);
  const view = copy?.op === "cont" ? s.producer(copy.inputs[0] as Tensor) : undefined;
  if (view?.op !== "permute" || String(view.params.axes) !== "1,0,2,3") return undefined;
  const from = view.inputs[0] as Tensor;
  return from.contiguous ? from : undefined;
}
