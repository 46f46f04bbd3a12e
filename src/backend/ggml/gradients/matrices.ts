// Derivatives of matrix products, as products of transposed copies: y = W x has dx = W^T dy and dW = dy x^T.
// Large matrices are taken in slices of rows, so that beside a matrix and its gradient no third one is needed.
import { stackedWeightGradient, wideInputGradient, wideWeightGradient } from "../../products/wide.ts";
import type { Graph } from "../ops.ts";
import type { Shape, Tensor } from "../tensor.ts";
import { dense, repeatBack } from "./ops.ts";
import type { Part, Step } from "./step.ts";
import { sumSize, turn, turnFilled } from "./turn.ts";

/** Bytes of a slice, in f32. Depends on nothing but the matrix, so that the same numbers come out everywhere. */
const SLICE_BYTES = 32 * 1024 * 1024;
/** Rows of a slice are a multiple of this: views of GPU memory must start at aligned addresses. */
const SLICE_ROWS = 64;

/**
 * dW [k, n, a, b] of W [k, n, a, b] x X [k, m, c, d] = Y [n, m, c, d], f32 whatever the types of W and X. Matrices that
 * W was repeated for count as more columns m of the same product.
 */
export function productOfLeft(g: Graph, s: Step): Tensor | readonly Part[] {
  const [w, x] = s.inputs as [Tensor, Tensor];
  const [k, , a, b] = w.ne;
  const [, m, c, d] = x.ne;
  const joined = (t: Tensor): Tensor => {
    // m, then the repetitions within c, then (where W is a plain matrix) all the rest lie side by side
    const ne: Shape = a * b === 1 ? [t.ne[0], m * c * d, 1, 1] : [t.ne[0], (m * c) / a, a, d];
    return t.ne.every((size, i) => size === ne[i]) ? t : g.reshape(dense(g, t), ...ne);
  };
  // [m or more with zeros, k or n, a, d]; what is not f32 is not filled up, and neither is what it is multiplied by
  const columns = (t: Tensor): Tensor =>
    t.dtype === "f32"
      ? turnFilled(g, t, x.dtype === "f32" ? sumSize(g, t.ne[1]) : t.ne[1])
      : g.cast(g.transpose(t), "f32");
  const dy = joined(s.dy);
  if (a * b === 1) {
    const whole = wideLeft(g, s, w, joined(x), dy);
    if (whole) return whole;
  }
  const stacked = g.wide && a * b > 1 ? stackedWeightGradient(g, joined(x), dy) : undefined;
  if (stacked) return sumOfRepeated(g, w, stacked);
  const right = columns(joined(x));
  if (a * b === 1 && s.addsTo(w)) {
    return slices(w).map(([first, rows]) => {
      const some = g.view(dy, [rows, dy.ne[1]], [dy.nb[1]], first * dy.nb[0]); // [rows, m]
      const values = g.mulMat(right, columns(some)); // [k, rows]
      return { values, window: { strides: [4 * k, 4 * k * rows, 4 * k * rows], offset: 4 * k * first } };
    });
  }
  return sumOfRepeated(g, w, g.mulMat(right, columns(dy))); // [k, n, a, d]
}

/** [k, n, a, d] -> [k, n, a, b]: the sum over what W was repeated for. */
function sumOfRepeated(g: Graph, w: Tensor, product: Tensor): Tensor {
  const [k, n, a, b] = w.ne;
  if (product.elements === w.elements) return g.reshape(product, ...w.ne);
  const parts = g.reshape(product, k * n * a, product.ne[3] / b, b);
  return g.reshape(repeatBack(g, parts, g.arena.header("f32", [k * n * a, 1, b])), ...w.ne);
}

/** The same by products that go outside the library, if these do: they take X and dY as they lie. */
function wideLeft(g: Graph, s: Step, w: Tensor, x: Tensor, dy: Tensor): Tensor | readonly Part[] | undefined {
  const [k, n] = w.ne;
  const matrix = (t: Tensor) => dense(g, t);
  if (!g.wide || !g.device.wideArithmetic("weight-gradient", w.dtype, x.ne[1], n, k)) return undefined;
  const [right, left] = [matrix(x), matrix(dy)];
  if (!s.addsTo(w)) return wideWeightGradient(g, w, right, left, [0, n]);
  const parts: Part[] = [];
  for (const [first, rows] of slices(w)) {
    const values = wideWeightGradient(g, w, right, left, [first, rows]); // [k, rows]
    if (!values) return undefined;
    parts.push({
      values,
      window: { strides: [4 * k, 4 * k * rows, 4 * k * rows], offset: 4 * k * first },
    });
  }
  return parts;
}

/** dX [k, m, c, d] of W [k, n, a, b] x X [k, m, c, d]: W repeats over dy as it did over X. */
export function productOfRight(g: Graph, s: Step): Tensor {
  const w = s.inputs[0] as Tensor;
  const wide = g.wide ? wideInputGradient(g, w, s.dy) : undefined;
  if (wide) return wide;
  const known = s.turned?.get(w);
  if (known) return g.mulMat(known, s.dy);
  const before = original(w, s);
  const parts = slices(w);
  if (before || s.turned || parts.length === 1 || w.elements !== w.ne[0] * w.ne[1]) {
    const back = before ? (before.dtype === "f16" ? g.cast(before, "f32") : before) : transposed(g, w);
    s.turned?.set(w, back);
    return g.mulMat(back, s.dy);
  }
  let sum: Tensor | undefined;
  for (const [first, rows] of parts) {
    const some = g.view(w, [w.ne[0], rows], [w.nb[1]], first * w.nb[1]); // [k, rows]
    const dy = g.cont(g.view(s.dy, [rows, ...s.dy.ne.slice(1)], s.dy.nb.slice(1), first * s.dy.nb[0])); // [rows, m, c, d]
    const part = g.mulMat(transposed(g, some), dy);
    sum = sum ? g.add(sum, part) : part;
    g.expand(sum); // before the next slice is turned
  }
  return sum as Tensor;
}

/**
 * A matrix with its first two dimensions exchanged, contiguous. bf16 stays bf16, which has the range of f32; f16 becomes
 * f32, because a product in f16 would round small gradients to zero; quantized types, which cannot be turned, become f32.
 */
function transposed(g: Graph, w: Tensor): Tensor {
  if (w.dtype === "f32") return turn(g, w);
  if (w.dtype === "bf16") return g.cont(g.transpose(w));
  if (w.dtype === "f16") return g.cast(g.transpose(w), "f32");
  return turn(g, g.cast(w, "f32"));
}

/** The contiguous tensor that W is itself the transposed copy of. */
function original(w: Tensor, s: Step): Tensor | undefined {
  const copy = s.producer(w);
  const view = copy?.op === "cont" ? s.producer(copy.inputs[0] as Tensor) : undefined;
  if (view?.op !== "permute" || String(view.params.axes) !== "1,0,2,3") return undefined;
  const from = view.inputs[0] as Tensor;
  return from.contiguous ? from : undefined;
}

/** First row and number of rows of each slice of a matrix. */
function slices(w: Tensor): (readonly [first: number, rows: number])[] {
  const [k, n] = w.ne;
  const rows = Math.max(1, Math.floor(SLICE_BYTES / (4 * k * SLICE_ROWS))) * SLICE_ROWS;
  return Array.from({ length: Math.ceil(n / rows) }, (_, i) => [i * rows, Math.min(rows, n - i * rows)]);
}
