// Derivatives of windows into tensors: a view's gradient is added to zeros where the view lay.
import { GraphError } from "../../../base/errors.ts";
import type { Graph } from "../ops.ts";
import { contiguousStrides, type Tensor } from "../tensor.ts";
import { dense } from "./ops.ts";
import type { Part, Step } from "./step.ts";

/**
 * The gradient of the tensor a view looks into, which need not be contiguous itself.
 * Throws {@link GraphError} for views whose elements overlap or are not all elements of that tensor.
 */
export function scatter(g: Graph, s: Step): readonly Part[] {
  const { output: view, dy } = s;
  const base = s.inputs[0] as Tensor;
  // Windows are described from the smallest stride to the largest; dimensions of one element have any stride.
  const single = [1, 2, 3].filter((i) => view.ne[i] === 1);
  const several = [1, 2, 3].filter((i) => view.ne[i] !== 1);
  const order = [0, ...several.sort((i, j) => (view.nb[i] as number) - (view.nb[j] as number)), ...single];
  const axes = [0, 1, 2, 3].map((i) => order.indexOf(i)) as [number, number, number, number];
  const values = axes.every((axis, i) => axis === i) ? dy : dense(g, g.permute(dy, ...axes));

  const start = stepsIn(base, view, s.params.offset as number);
  const last = [...start];
  const strides: number[] = [];
  let spanned = 4;
  for (const i of order) {
    const n = view.ne[i] as number;
    const steps = n === 1 ? [0, 0, 0, 0] : stepsIn(base, view, view.nb[i] as number);
    for (const [axis, count] of steps.entries()) last[axis] = (last[axis] as number) + (n - 1) * count;
    const stride = n === 1 ? spanned : denseBytes(base, steps);
    if (stride < spanned) throw new GraphError(`view: elements of ${view} overlap: no gradient for ${base}`);
    strides.push(stride);
    spanned = stride * n;
  }
  // Where `base` has gaps, elements beyond an end of it are not the first of the next row.
  const [first] = strides as [number];
  if (first !== 4 || (!base.contiguous && last.some((step, axis) => step >= (base.ne[axis] as number)))) {
    throw new GraphError(`view: rows of ${view} are not within rows of ${base}: no gradient`);
  }
  const [, nb1, nb2, nb3] = strides as [number, number, number, number];
  return [{ values, window: { strides: [nb1, nb2, nb3], offset: denseBytes(base, start) } }];
}

/** A distance in bytes as steps along the dimensions of `base`. */
function stepsIn(base: Tensor, view: Tensor, bytes: number): number[] {
  const steps = [0, 0, 0, 0];
  let rest = bytes;
  const dims = [0, 1, 2, 3].filter((i) => base.ne[i] !== 1);
  for (const i of dims.sort((a, b) => (base.nb[b] as number) - (base.nb[a] as number))) {
    steps[i] = Math.floor(rest / (base.nb[i] as number));
    rest %= base.nb[i] as number;
  }
  if (rest !== 0)
    throw new GraphError(`view: ${view} does not look at whole elements of ${base}: no gradient`);
  return steps;
}

/** The same distance in a contiguous f32 tensor of its shape. */
function denseBytes(base: Tensor, steps: readonly number[]): number {
  const nb = contiguousStrides("f32", base.ne);
  return steps.reduce((sum, count, i) => sum + count * (nb[i] as number), 0);
}

/** The part of `dy` that came from an operand of a concatenation: its shape from `start` on along `dim`. */
export function slice(g: Graph, dy: Tensor, dim: number, start: number, operand: Tensor): Tensor {
  const [, nb1, nb2, nb3] = dy.nb;
  return g.cont(g.view(dy, operand.ne, [nb1, nb2, nb3], start * (dy.nb[dim] as number)));
}
