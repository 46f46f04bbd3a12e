// Copies of matrices with rows and columns exchanged, f32. What is computed with them is in matrices.ts.
import type { Graph } from "../ops.ts";
import type { Tensor } from "../tensor.ts";
import { zeros } from "./ops.ts";

/** Neighbouring elements of a row that are taken together: a line of the cache. */
const RUN = 16;
/** The CPU's fast kernel of matrix products wants the inner size in whole vectors; this many fill the widest. */
const VECTOR = 16;

/**
 * [k, n, a, d] -> [n, k, a, d], contiguous. On the CPU by concatenation, whose kernel takes strides as they come and
 * moves floats, where that of a copy calls memmove for every element: half the time, the same numbers.
 */
export function turn(g: Graph, t: Tensor): Tensor {
  const [k, n, a] = t.ne;
  if (!goesInRuns(g, t) || k < 2 * RUN) return g.cont(g.transpose(t));
  const half = Math.floor(k / RUN / 2);
  const joined = g.concat(runs(g, t, 0, half), runs(g, t, half, k / RUN - half), 2); // [n, run, k / run, a]
  return g.reshape(joined, n, k, a);
}

/** As {@link turn}, with zeros below: [k, n, a, d] -> [to, k, a, d] in f32. */
export function turnFilled(g: Graph, t: Tensor, to: number): Tensor {
  const [k, n, a, d] = t.ne;
  if (to === n) return turn(g, t);
  const whole = goesInRuns(g, t);
  const columns = whole ? runs(g, t, 0, k / RUN) : g.transpose(t);
  const [, run, count, rest] = columns.ne;
  const joined = g.concat(columns, zeros(g, [to - n, run, count, rest]), 0);
  return g.reshape(joined, to, k, a, d);
}

/**
 * The size to which the dimension a product sums over is best filled up with zeros, which change no sum: whole vectors
 * on the CPU, whose fast kernel takes nothing else.
 */
export function sumSize(g: Graph, size: number): number {
  return g.device.onHost && size > VECTOR ? Math.ceil(size / VECTOR) * VECTOR : size;
}

/** `count` runs of every row from run `first` on, without moving anything: [n, run, count, a]. */
function runs(g: Graph, t: Tensor, first: number, count: number): Tensor {
  const [, n, a] = t.ne;
  const [float, row, matrix] = t.nb;
  return g.transpose(g.view(t, [RUN, n, count, a], [row, RUN * float, matrix], first * RUN * float));
}

/** Whether rows are whole runs, and it is the CPU's kernels that take them. */
function goesInRuns(g: Graph, t: Tensor): boolean {
  const [k, , , d] = t.ne;
  return g.device.onHost && t.dtype === "f32" && t.contiguousRows && k % RUN === 0 && d === 1;
}
