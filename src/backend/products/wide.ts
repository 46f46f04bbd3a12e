// Products of linear layers in a graph that are computed outside the tensor library: each is a node like any other, with
// memory from the graph's allocator, and a record of what to compute there. Where a product does not go there, these
// functions give undefined and the caller builds the operation itself.
import { DTYPES } from "../ggml/dtypes.ts";
import type { GraphCore } from "../ggml/graph.ts";
import { library } from "../ggml/library.ts";
import type { Shape, Tensor } from "../ggml/tensor.ts";
import type { Arithmetic } from "./product.ts";

/** y [n, m, c, d] = W [k, n] x X [k, m, c, d], f32. */
export function wideResult(g: GraphCore, w: Tensor, x: Tensor): Tensor | undefined {
  const [k, n] = w.ne;
  if (!isPlain(w)) return stackedResult(g, w, x);
  if (!w.contiguous || !isDense(x)) return undefined;
  const m = x.elements / k;
  const arithmetic = g.device.wideArithmetic("result", w.dtype, m, n, k);
  if (!arithmetic || !g.wide) return undefined;
  const input = operand(g, x, arithmetic);
  g.arena.take();
  const handle = library().native.ggml_mul_mat(g.arena.context, w.handle, input.handle);
  const y = g.node("mul_mat", handle, "f32", [n, x.ne[1], x.ne[2], x.ne[3]], [w, x]);
  const packed = w.dtype === arithmetic ? undefined : w.dtype;
  const strides = { lda: rowElements(input), ldb: k, ldc: n };
  const turned = { turnedA: false, turnedB: true };
  g.products.push({
    ...{ node: handle, a: input.handle, b: w.handle, m, n, k, ...strides, ...turned, arithmetic, packed },
  });
  return y;
}

/** dX [k, m, c, d] from W [k, n] and dY [n, m, c, d], which is contiguous: W as it lies, without a transposed copy. */
export function wideInputGradient(g: GraphCore, w: Tensor, dy: Tensor): Tensor | undefined {
  const [k, n] = w.ne;
  if (!isPlain(w)) return stackedGradient(g, w, dy);
  if (!w.contiguous || !dy.contiguous) return undefined;
  const m = dy.elements / n;
  const arithmetic = g.device.wideArithmetic("input-gradient", w.dtype, m, k, n);
  if (!arithmetic || arithmetic !== w.dtype || !g.wide) return undefined;
  const from = operand(g, dy, arithmetic);
  const { native } = library();
  g.arena.take(3);
  const { context } = g.arena;
  const flat = native.ggml_reshape_4d(context, from.handle, n, m, 1, 1);
  const columns = native.ggml_permute(context, flat, 1, 0, 2, 3); // [m, n]
  // out_prod [k, m] = sum over n of W [k, n] and dY [m, n]: it stands for the product and is not computed.
  const handle = native.ggml_out_prod(context, w.handle, columns);
  const ne: Shape = [k, m, 1, 1];
  const product = g.node("out_prod", handle, "f32", ne, [w, dy]);
  const strides = { lda: n, ldb: k, ldc: k };
  const turned = { turnedA: false, turnedB: false };
  g.products.push({
    ...{ node: handle, a: from.handle, b: w.handle, m, n: k, k: n, ...strides, ...turned, arithmetic },
  });
  if (m === dy.ne[1]) return product;
  g.arena.take();
  const [, c, d, e] = dy.ne;
  const shaped = native.ggml_reshape_4d(context, handle, k, c, d, e);
  return g.node("reshape", shaped, "f32", [k, c, d, e], [product]);
}

/**
 * Rows `first` ... of dW [k, rows] from X [k, m] and dY [n, m], both contiguous matrices, for weights of a type: sums over m
 * in f32. X and dY are taken as they lie.
 */
export function wideWeightGradient(
  g: GraphCore,
  w: Tensor,
  x: Tensor,
  dy: Tensor,
  [first, rows]: readonly [first: number, rows: number],
): Tensor | undefined {
  const [k, m] = x.ne;
  const [n] = dy.ne;
  if (![x, dy].every((t) => t.dtype === "f32" && isPlain(t) && t.contiguous)) return undefined;
  const arithmetic = g.device.wideArithmetic("weight-gradient", w.dtype, m, n, k);
  if (!arithmetic || !g.wide) return undefined;
  const [right, left] = [operand(g, x, arithmetic), operand(g, dy, arithmetic)];
  const { native } = library();
  g.arena.take(2);
  const { context } = g.arena;
  const [size, row] = left.nb;
  const some = native.ggml_view_4d(context, left.handle, rows, m, 1, 1, row, row * m, row * m, first * size);
  const handle = native.ggml_out_prod(context, right.handle, some);
  const gradient = g.node("out_prod", handle, "f32", [k, rows, 1, 1], [x, dy]);
  const strides = { lda: n, ldb: k, ldc: k };
  const turned = { turnedA: true, turnedB: false };
  g.products.push({
    ...{ node: handle, a: some, b: right.handle, m: rows, n: k, k: m, ...strides, ...turned, arithmetic },
  });
  return gradient;
}

/** y [n, m, c, d] = W [k, n, a, b] x X [k, m, c, d], all f32: the matrices of W repeat over those of X. */
function stackedResult(g: GraphCore, w: Tensor, x: Tensor): Tensor | undefined {
  const [k, n] = w.ne;
  const [, m, c, d] = x.ne;
  if (!goes(g, [w, x], m, n, k, c * d)) return undefined;
  g.arena.take();
  const handle = library().native.ggml_mul_mat(g.arena.context, w.handle, x.handle);
  const y = g.node("mul_mat", handle, "f32", [n, m, c, d], [w, x]);
  return enterStack(g, y, { handle, m, n, k, a: x, turnedA: false, b: w, turnedB: true });
}

/** dX [k, m, c, d] from W [k, n, a, b] and dY [n, m, c, d]. */
function stackedGradient(g: GraphCore, w: Tensor, dy: Tensor): Tensor | undefined {
  const [k, n] = w.ne;
  const [, m, c, d] = dy.ne;
  if (!goes(g, [w, dy], m, k, n, c * d)) return undefined;
  const { native } = library();
  g.arena.take(2);
  const columns = native.ggml_permute(g.arena.context, dy.handle, 1, 0, 2, 3); // [m, n, c, d]
  const handle = native.ggml_out_prod(g.arena.context, w.handle, columns);
  const dx = g.node("out_prod", handle, "f32", [k, m, c, d], [w, dy]);
  return enterStack(g, dx, { handle, m, n: k, k: n, a: dy, turnedA: false, b: w, turnedB: false });
}

/** dW [k, n, a, d] from X [k, m, a, d] and dY [n, m, a, d], all f32: sums over m. */
export function stackedWeightGradient(g: GraphCore, x: Tensor, dy: Tensor): Tensor | undefined {
  const [k, m, a, d] = x.ne;
  const [n] = dy.ne;
  if (!goes(g, [x, dy], n, k, m, a * d)) return undefined;
  g.arena.take();
  const handle = library().native.ggml_out_prod(g.arena.context, x.handle, dy.handle);
  const dw = g.node("out_prod", handle, "f32", [k, n, a, d], [x, dy]);
  return enterStack(g, dw, { handle, m: n, n: k, k: m, a: dy, turnedA: true, b: x, turnedB: false });
}

interface StackedProduct {
  /** Of the node: where a kept result stands for the product, it is not the result's. */
  readonly handle: bigint;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly a: Tensor;
  readonly b: Tensor;
  readonly turnedA: boolean;
  readonly turnedB: boolean;
}

function enterStack(g: GraphCore, result: Tensor, { handle, a, b, ...product }: StackedProduct): Tensor {
  const between = ({ nb }: Tensor) => [nb[2] / nb[0], nb[3] / nb[0]] as const;
  const [, , c, d] = result.ne;
  const stack = { count: [c, d], a: between(a), b: between(b), repeat: [c / b.ne[2], d / b.ne[3]] } as const;
  const strides = { lda: rowElements(a), ldb: rowElements(b), ldc: product.n };
  const operands = { node: handle, a: a.handle, b: b.handle };
  g.products.push({ ...product, ...operands, ...strides, arithmetic: "f32", stack });
  return result;
}

/** Whether a stack of products goes outside: of f32 with whole rows that do not overlap, wherever they lie. */
function goes(
  g: GraphCore,
  operands: readonly Tensor[],
  ...[m, n, k, products]: [m: number, n: number, k: number, products: number]
): boolean {
  const fits = operands.every((t) => t.dtype === "f32" && t.contiguousRows && rowElements(t) >= t.ne[0]);
  return fits && g.wide && g.device.wideArithmetic("stack", "f32", m, n, k, products) !== undefined;
}

/** An activation in the type of the arithmetic; rounded once for all products that take it. */
function operand(g: GraphCore, x: Tensor, arithmetic: Arithmetic): Tensor {
  if (arithmetic === "f32") return x;
  const known = g.rounded.get(x);
  if (known) return known;
  const recording = g.tape;
  g.tape = undefined; // it is part of the product, whose derivative is taken as if it were exact
  try {
    g.arena.take();
    const handle = library().native.ggml_cast(g.arena.context, x.handle, DTYPES.bf16.id);
    const rounded = g.node("cast", handle, "bf16", x.ne, [x]);
    g.rounded.set(x, rounded);
    return rounded;
  } finally {
    g.tape = recording;
  }
}

function isPlain(t: Tensor): boolean {
  return t.ne[2] === 1 && t.ne[3] === 1;
}

/** f32 in rows at one distance from each other. */
function isDense(x: Tensor): boolean {
  return x.dtype === "f32" && (x.contiguous || (isPlain(x) && x.contiguousRows && !x.transposed));
}

/** Elements from row to row. */
function rowElements(x: Tensor): number {
  return x.ne[1] === 1 ? x.ne[0] : x.nb[1] / x.nb[0];
}
