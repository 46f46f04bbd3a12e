// For tests: one or more small functions per operation of the graph builder, in the order of its rules. The same list is
// held against numerical derivatives on the CPU and against the CPU on a GPU.
import type { DType } from "../dtypes.ts";
import type { Graph, RopeParams } from "../ops.ts";
import type { Tensor } from "../tensor.ts";
import { type Case, type Given, randomNumbers } from "./testing.ts";

export interface NamedCase extends Case {
  readonly name: string;
  /** The step of the numerical derivative; see the test. */
  readonly h?: number;
  /** Vulkan does not run the operation itself on these shapes. */
  readonly cpuOnly?: boolean;
}

const next = randomNumbers(7);

/** Random values away from zero, where some functions have a kink: plus or minus 0.2 to 1.2. */
function some(...dims: number[]): Given {
  return values(dims, () => (next() < 0.5 ? -1 : 1) * (0.2 + next()));
}
/** 0.5 to 1.5 */
function positive(...dims: number[]): Given {
  return values(dims, () => 0.5 + next());
}
/** Multiples of 1/8 below 1: sums of products of them are exact in every float type. */
function eighths(dtype: DType, ...dims: number[]): Given {
  return { ...values(dims, () => (Math.floor(next() * 15) - 7) / 8), dtype };
}
function values(dims: readonly number[], value: () => number): Given {
  return { dims, values: Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, value) };
}
function ids(...ids: number[]): Given {
  return { dims: [ids.length], values: Int32Array.from(ids) };
}

/** A function of tensors "a", "b" ... in the order they are given. */
function of(
  name: string,
  inputs: readonly Given[],
  build: (g: Graph, ...t: Tensor[]) => Tensor,
  more: { wanted?: string[]; h?: number; cpuOnly?: boolean } = {},
): NamedCase {
  const names = [..."abcdefg"].slice(0, inputs.length);
  const floats = names.filter((_, i) => inputs[i]?.values instanceof Float32Array);
  return {
    name,
    wanted: floats,
    ...more,
    inputs: Object.fromEntries(names.map((n, i) => [n, inputs[i] as Given])),
    build: (g, t) => build(g, ...names.map((n) => t[n] as Tensor)),
  };
}

const ROPE: RopeParams = {
  dims: 8,
  freqBase: 100,
  freqScale: 1,
  extFactor: 0,
  attnFactor: 1,
  betaFast: 32,
  betaSlow: 1,
  originalContext: 64,
};
const causal: Given = {
  dims: [4, 4],
  values: Float32Array.from({ length: 16 }, (_, i) =>
    i % 4 > Math.floor(i / 4) ? Number.NEGATIVE_INFINITY : 0,
  ),
};
const causalHalf: Given = {
  dims: [4, 4],
  values: Uint16Array.from({ length: 16 }, (_, i) => (i % 4 > Math.floor(i / 4) ? 0xfc00 : 0)),
};
const EIGHTH = { h: 1 / 8 };

export const CASES: readonly NamedCase[] = [
  ...(["add", "sub", "mul", "div"] as const).flatMap((op) => [
    of(`${op}`, [some(5, 3), positive(5, 3)], (g, a, b) => g[op](a, b)),
    of(`${op}: a vector to every row`, [some(5, 3, 2), positive(5)], (g, a, b) => g[op](a, b)),
    of(`${op}: a number to each row`, [some(5, 3), positive(1, 3)], (g, a, b) => g[op](a, b)),
    of(`${op}: itself`, [positive(4, 2)], (g, a) => g[op](a, a)),
  ]),
  of("scale", [some(5, 3)], (g, a) => g.scale(a, -1.5, 0.25)),
  ...(["sqrt", "log"] as const).map((op) => of(op, [positive(5, 3)], (g, a) => g.unary(op, a))),
  ...(["sqr", "exp", "tanh", "sigmoid", "silu", "gelu_erf", "relu", "step", "abs", "sgn"] as const).map(
    (op) => of(op, [some(7, 3)], (g, a) => g.unary(op, a)),
  ),
  of("swiglu", [some(5, 3), some(5, 3)], (g, a, b) => g.swiglu(a, b)),
  of("rms_norm", [some(9, 3)], (g, a) => g.rmsNorm(a, 1e-2)),
  of("norm", [some(9, 3)], (g, a) => g.norm(a, 1e-2)),
  of("norm: rows that lie apart", [some(12, 3)], (g, a) => g.norm(g.view(a, [9, 3], [48], 4), 1e-2)),
  of("sum_rows", [some(5, 3, 2)], (g, a) => g.sumRows(a)),
  of("get_rows: some twice, some never", [some(4, 5), ids(3, 0, 3, 1)], (g, a, b) => g.getRows(a, b)),
  of("get_rows: f16", [eighths("f16", 4, 5), ids(4, 4, 0)], (g, a, b) => g.getRows(a, b), EIGHTH),
  of("soft_max", [some(6, 3)], (g, a) => g.softMax(a, undefined, 0.7)),
  of("soft_max: f32 mask", [some(4, 4, 2, 3), causal], (g, a, m) => g.softMax(a, m, 0.7), { wanted: ["a"] }),
  of("soft_max: f16 mask", [some(4, 4, 2), causalHalf], (g, a, m) => g.softMax(a, m, 1.3), { wanted: ["a"] }),
  of(
    "soft_max: sinks",
    [some(4, 4, 2, 3), causal, some(2)],
    (g, a, m, sinks) => g.softMax(a, m, 0.7, sinks),
    { wanted: ["a", "c"] },
  ),

  of("mul_mat", [some(6, 3), some(6, 4)], (g, a, b) => g.mulMat(a, b)),
  of("mul_mat: a vector", [some(6, 3), some(6)], (g, a, b) => g.mulMat(a, b)),
  of("mul_mat: more columns than a vector holds", [some(32, 3), some(32, 18)], (g, a, b) => g.mulMat(a, b)),
  of("mul_mat: grouped heads, long", [some(32, 17, 2), some(32, 18, 4)], (g, a, b) => g.mulMat(a, b)),
  of("mul_mat: itself", [some(6, 3)], (g, a) => g.mulMat(a, a)),
  of("mul_mat: batches", [some(6, 3, 2, 2), some(6, 4, 2, 2)], (g, a, b) => g.mulMat(a, b)),
  of("mul_mat: grouped heads", [some(6, 3, 2, 2), some(6, 4, 6, 2)], (g, a, b) => g.mulMat(a, b)),
  of("mul_mat: one matrix, many columns", [some(6, 3), some(6, 4, 3)], (g, a, b) => g.mulMat(a, b)),
  of("mul_mat: one matrix, batches of columns", [some(6, 3), some(6, 2, 3, 2)], (g, a, b) => g.mulMat(a, b), {
    cpuOnly: true,
  }),
  of("mul_mat: heads over batches", [some(6, 3, 2), some(6, 2, 4, 2)], (g, a, b) => g.mulMat(a, b), {
    cpuOnly: true,
  }),
  of("mul_mat: heads whose rows lie apart", [some(6, 2, 3), some(6, 4, 4)], (g, a, b) =>
    g.mulMat(g.permute(a, 0, 2, 1, 3), g.permute(b, 0, 2, 1, 3)),
  ),
  of("mul_mat: a transposed copy", [some(3, 6), some(6, 4)], (g, a, b) =>
    g.mulMat(g.cont(g.transpose(a)), b),
  ),
  ...(["f16", "bf16"] as const).flatMap((t) => [
    of(`mul_mat: ${t}`, [eighths(t, 8, 3), eighths("f32", 8, 4)], (g, a, b) => g.mulMat(a, b), EIGHTH),
    of(
      `mul_mat: ${t}, a transposed copy`,
      [eighths(t, 3, 8), eighths("f32", 8, 4)],
      (g, a, b) => g.mulMat(g.cont(g.transpose(a)), b),
      EIGHTH,
    ),
  ]),
  of("mul_mat: both f16", [eighths("f16", 8, 3), eighths("f16", 8, 4)], (g, a, b) => g.mulMat(a, b), EIGHTH),

  of("rope: halves", [some(8, 2, 3), ids(0, 5, 2)], (g, a, p) => g.rope(a, p, ROPE)),
  of("rope: neighbours", [some(8, 2, 3), ids(0, 5, 2)], (g, a, p) =>
    g.rope(a, p, { ...ROPE, interleaved: true }),
  ),
  of("rope: part of each head", [some(8, 2, 3), ids(1, 2, 3)], (g, a, p) =>
    g.rope(a, p, { ...ROPE, dims: 4 }),
  ),
  of(
    "rope: divided frequencies, magnified",
    [some(8, 2, 3), ids(1, 2, 9), positive(4)],
    (g, a, p, f) => g.rope(a, p, { ...ROPE, attnFactor: 1.3 }, f),
    { wanted: ["a"] },
  ),

  of("reshape", [some(6, 4)], (g, a) => g.unary("sqr", g.reshape(a, 3, 2, 4))),
  of("view: a window", [some(6, 4)], (g, a) => g.view(a, [3, 2], [24], 28)),
  of("view: several into one, one of them twice", [some(12, 3)], (g, a) => {
    const part = (i: number) => g.cont(g.view(a, [2, 2, 3], [8, 48], i * 16));
    return g.add(g.mul(part(0), part(1)), g.mul(part(1), part(2)));
  }),
  of("view: and the whole", [some(6, 2)], (g, a) =>
    g.add(g.unary("sqr", a), g.repeat(g.cont(g.view(a, [1, 2], [24], 8)), [6, 2])),
  ),
  of("view: dimensions in another order", [some(6, 4)], (g, a) => g.cont(g.view(a, [3, 4, 2], [24, 12], 0))),
  of("view: of a view", [some(12, 3)], (g, a) => {
    const heads = g.view(a, [4, 2, 3], [16, 48], 16);
    return g.cont(g.view(heads, [4, 1, 2], [16, 48], 16));
  }),
  of("permute", [some(3, 2, 4, 2)], (g, a) => g.cont(g.permute(a, 2, 0, 3, 1))),
  of("transpose", [some(3, 5)], (g, a) => g.cont(g.transpose(a))),
  of("cast", [eighths("f32", 4, 3)], (g, a) => g.cast(g.cast(a, "bf16"), "f32"), EIGHTH),
  of("repeat", [some(3, 1, 2)], (g, a) => g.repeat(a, [6, 4, 2])),
  ...([0, 1, 2, 3] as const).map((dim) =>
    of(`concat: dimension ${dim}`, [some(2, 2, 2, 2), some(2, 2, 2, 2)], (g, a, b) => g.concat(a, b, dim)),
  ),
];
