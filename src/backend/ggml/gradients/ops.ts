// Operations that only derivatives and losses need, beside those of ops.ts: the backward kernels of ggml, and writing
// into a tensor in place. Each checks what ggml would assert. None of them has a gradient itself.
import type { Native } from "../declarations.ts";
import { library } from "../library.ts";
import { type Graph, need, packed, type RopeParams, ropeArgs } from "../ops.ts";
import { canRepeat, type Shape, sameShape, type Tensor } from "../tensor.ts";

/** Strides and offset of a window are kept in 32 bits by ggml. Bytes. */
const WINDOW_LIMIT = 2 ** 31;
/** Whole numbers up to this are exact in f32. */
const EXACT = 2 ** 24;

/** `a` as a contiguous tensor: itself where it is one. */
export function dense(g: Graph, a: Tensor): Tensor {
  if (packed(a)) return a;
  return a.contiguous ? g.reshape(a, ...a.ne) : g.cont(a);
}

// --- backward kernels; `dy` is the gradient of the forward operation's result ---

/** Sums what `repeat` would have copied: the shape of dy -> the shape of `like`. */
export function repeatBack(g: Graph, dy: Tensor, like: Tensor): Tensor {
  need(isDense(dy) && like.dtype === "f32" && canRepeat(like, dy), () => `repeat_back: ${dy} to ${like}`);
  return emit(g, "repeat_back", like.ne, [dy], (n, c) => n.ggml_repeat_back(c, dy.handle, like.handle));
}

/** The gradient of silu at `x`. */
export function siluBack(g: Graph, dy: Tensor, x: Tensor): Tensor {
  need(isDense(dy) && isDense(x) && sameShape(dy, x), () => `silu_back: ${dy}, ${x}`);
  return emit(g, "silu_back", x.ne, [dy, x], (n, c) => n.ggml_silu_back(c, dy.handle, x.handle));
}

/** The gradient of x / rms(x) at `x`. */
export function rmsNormBack(g: Graph, dy: Tensor, x: Tensor, eps: number): Tensor {
  need(isDense(dy) && isDense(x) && sameShape(dy, x), () => `rms_norm_back: ${dy}, ${x}`);
  need(eps >= 0 && Number.isFinite(eps), () => `rms_norm_back: eps ${eps}`);
  return emit(g, "rms_norm_back", x.ne, [dy, x], (n, c) => n.ggml_rms_norm_back(c, dy.handle, x.handle, eps));
}

/** The gradient of softmax(x * scale + mask) whose result was `y`. Expands what it adds. */
export function softMaxBack(g: Graph, dy: Tensor, y: Tensor, scale: number): Tensor {
  need(isDense(dy) && isDense(y) && sameShape(dy, y), () => `soft_max_back: ${dy}, ${y}`);
  const dx = emit(g, "soft_max_back", y.ne, [dy, y], (n, c) =>
    n.ggml_soft_max_ext_back(c, dy.handle, y.handle, scale, 0),
  );
  g.expand(dx);
  // The CPU's kernel copies dy to its result before it reads y, but the allocator may give the result the memory of y
  // if nobody reads y later. So somebody does.
  g.expand(g.cont(g.view(y, [1], [], 0)));
  return dx;
}

/** Rotates the other way round: the gradient of `rope`. */
export function ropeBack(g: Graph, dy: Tensor, positions: Tensor, p: RopeParams, factors?: Tensor): Tensor {
  need(isDense(dy), () => `rope_back: f32 and contiguous: ${dy}`);
  need(
    positions.dtype === "i32" && positions.elements === dy.ne[2],
    () => `rope_back: ${positions} for ${dy}`,
  );
  need(p.dims % 2 === 0 && p.dims > 0 && p.dims <= dy.ne[0], () => `rope_back: ${p.dims} rotated of ${dy}`);
  if (factors) need(isDense(factors) && factors.ne[0] >= p.dims / 2, () => `rope_back: factors ${factors}`);
  const divisors = factors?.handle ?? null;
  return emit(g, "rope_back", dy.ne, [dy, positions, factors], (n, c) =>
    n.ggml_rope_ext_back(c, dy.handle, positions.handle, divisors, ...ropeArgs(p)),
  );
}

/** Adds rows up by their id: [n, ids] -> f32 of the table's shape; rows nobody names are zero. Ids must be inside. */
export function getRowsBack(g: Graph, dy: Tensor, ids: Tensor, table: Tensor): Tensor {
  need(isDense(dy) && isMatrix(dy) && isMatrix(table), () => `get_rows_back: ${dy} to ${table}`);
  need(isRowIds(ids, dy) && dy.ne[0] === table.ne[0], () => `get_rows_back: ${dy}, ids ${ids}, to ${table}`);
  return emit(g, "get_rows_back", table.ne, [dy, ids], (n, c) =>
    n.ggml_get_rows_back(c, dy.handle, ids.handle, table.handle),
  );
}

// --- writing in place: executes where it is expanded, and the result lies in the memory of the first operand ---

/** A tensor of zeros, f32. */
export function zeros(g: Graph, dims: readonly number[]): Tensor {
  return clear(g, g.arena.header("f32", dims, "zeros"));
}

/** Sets all of `memory`, f32 and contiguous, to zero. */
export function clear(g: Graph, memory: Tensor): Tensor {
  need(isDense(memory), () => `fill: f32 and contiguous: ${memory}`);
  return emit(g, "fill", memory.ne, [memory], (n, c) => n.ggml_fill_inplace(c, memory.handle, 0));
}

/** Where the elements of one tensor lie within another: bytes. */
export interface Window {
  /** Of dimensions 1 to 3; each spans at least the whole of the dimension before it. */
  readonly strides: readonly [number, number, number];
  readonly offset: number;
}

/** Adds `from` to `into`, or to a window of it; without a window the two have one shape. */
export function accumulate(g: Graph, into: Tensor, from: Tensor, window?: Window): Tensor {
  need(isDense(into) && isDense(from), () => `accumulate: f32 and contiguous: ${into}, ${from}`);
  need(window !== undefined || sameShape(into, from), () => `accumulate: one shape: ${into}, ${from}`);
  const { strides, offset } = window ?? { strides: [into.nb[1], into.nb[2], into.nb[3]], offset: 0 };
  let end = offset + 4 * from.ne[0];
  let spanned = 4 * from.ne[0];
  for (const [i, stride] of strides.entries()) {
    const n = from.ne[i + 1] as number;
    need(
      stride % 4 === 0 && stride >= spanned,
      () => `accumulate: ${from} overlaps itself, stride ${stride}`,
    );
    // Kernels divide by the stride of every dimension, multiply by that of those with several elements.
    need(
      n === 1 || stride < WINDOW_LIMIT,
      () => `accumulate: stride ${stride} of ${into} is not below 2 GiB`,
    );
    spanned = stride * n;
    end += stride * (n - 1);
  }
  need(
    offset >= 0 && offset % 4 === 0 && offset < WINDOW_LIMIT,
    () => `accumulate: offset ${offset} in ${into}`,
  );
  need(
    end <= into.bytes,
    () => `accumulate: ${from} ends at byte ${end} of ${into}, which has ${into.bytes}`,
  );
  const [nb1, nb2, nb3] = strides.map((s) => Math.min(s, WINDOW_LIMIT - 4)) as [number, number, number];
  return emit(g, "accumulate", into.ne, [into, from], (n, c) =>
    n.ggml_acc_inplace(c, into.handle, from.handle, nb1, nb2, nb3, offset),
  );
}

/** Overwrites rows `ids` (i32, inside, no row twice) of the matrix `into` with the rows of `from`. */
export function setRows(g: Graph, into: Tensor, from: Tensor, ids: Tensor): Tensor {
  need(isDense(into) && isDense(from), () => `set_rows: f32 and contiguous: ${into}, ${from}`);
  need(isMatrix(into) && isMatrix(from) && from.ne[0] === into.ne[0], () => `set_rows: ${from} into ${into}`);
  need(isRowIds(ids, from) && from.ne[1] <= into.ne[1], () => `set_rows: ${from} into ${into}, ids ${ids}`);
  return emit(g, "set_rows", into.ne, [into, from, ids], (n, c) =>
    n.ggml_set_rows(c, into.handle, from.handle, ids.handle),
  );
}

// --- indices ---

/** [n, rows] -> i32 [rows]: where each row's largest element is. */
export function argMax(g: Graph, a: Tensor): Tensor {
  need(isDense(a) && isMatrix(a), () => `argmax: an f32 matrix: ${a}`);
  g.arena.take();
  const handle = library().native.ggml_argmax(g.arena.context, a.handle);
  return g.node("argmax", handle, "i32", [a.ne[1], 1, 1, 1], [a]);
}

/** 0, step, 2 step ...: f32 [count]. Throws where f32 does not count exactly any more. */
export function countBy(g: Graph, step: number, count: number): Tensor {
  const whole = Number.isSafeInteger(step) && step > 0 && Number.isSafeInteger(count) && count > 0;
  need(whole && step * count <= EXACT, () => `arange: ${count} times ${step} is not within 1 to ${EXACT}`);
  return emit(g, "arange", [count, 1, 1, 1], [], (n, c) => n.ggml_arange(c, 0, step * count, step));
}

/** Makes one native tensor and enters it as an f32 result. */
function emit(
  g: Graph,
  op: string,
  ne: Shape,
  inputs: readonly (Tensor | undefined)[],
  make: (native: Native, context: bigint) => bigint,
): Tensor {
  g.arena.take();
  return g.node(op, make(library().native, g.arena.context), "f32", ne, inputs);
}

function isDense(a: Tensor): boolean {
  return a.dtype === "f32" && packed(a);
}

function isMatrix(a: Tensor): boolean {
  return a.ne[2] === 1 && a.ne[3] === 1;
}

/** One id for every row of a matrix. */
function isRowIds(ids: Tensor, rows: Tensor): boolean {
  return ids.dtype === "i32" && packed(ids) && ids.ne[0] === rows.ne[1] && ids.elements === rows.ne[1];
}
