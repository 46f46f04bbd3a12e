// Reverse-mode differentiation: walks recorded operations backwards and adds the operations that compute gradients to
// the same graph. The derivatives themselves are in gradients/rules.ts.
import { GraphError } from "../errors.ts";
import { accumulate, dense, zeros } from "./gradients/ops.ts";
import { RULES } from "./gradients/rules.ts";
import type { Part } from "./gradients/views.ts";
import type { TapeEntry } from "./graph.ts";
import type { Graph } from "./ops.ts";
import { sameShape, type Tensor } from "./tensor.ts";

/**
 * Gradients of sum over seeds of <seed, tensor> with respect to `wanted`: f32, contiguous, of the tensors' shapes.
 *
 * `tape` holds the operations in the order they were built (`Graph.tape`); `seeds` maps results to their own gradients.
 * Only operations between `wanted` and the seeds are followed, and only their gradients are computed; they are expanded
 * from the last operation to the first, so that memory of what is behind can be used again. A tensor used several times
 * gets the sum. The gradient of a type with fewer bits is f32 all the same.
 * Throws {@link GraphError} where an operation on the way has no derivative, and for a wanted tensor that no seed
 * depends on.
 */
export function backward(
  g: Graph,
  tape: readonly TapeEntry[],
  seeds: ReadonlyMap<Tensor, Tensor>,
  wanted: ReadonlySet<Tensor>,
): Map<Tensor, Tensor> {
  for (const tensor of wanted) {
    if (!FLOATS.has(tensor.dtype))
      throw new GraphError(`${tensor} cannot have a gradient: it is not f32, f16 or bf16`);
  }
  if (wanted.size === 0) return new Map();
  const recording = g.tape;
  g.tape = undefined;
  try {
    const sums = new Sums(g);
    for (const [tensor, seed] of seeds) {
      if (seed.dtype !== "f32" || !sameShape(seed, tensor)) {
        throw new GraphError(`the gradient of ${tensor} must be f32 of its shape, not ${seed}`);
      }
      sums.add(tensor, seed);
    }
    walk(g, tape, sums, dependents(tape, wanted));
    const gradients = new Map<Tensor, Tensor>();
    for (const tensor of wanted) gradients.set(tensor, sums.total(tensor));
    return gradients;
  } finally {
    g.tape = recording;
  }
}

const FLOATS: ReadonlySet<string> = new Set(["f32", "f16", "bf16"]);

/** The wanted tensors and all that was computed from them; indices are no functions of what they were chosen by. */
function dependents(tape: readonly TapeEntry[], wanted: ReadonlySet<Tensor>): ReadonlySet<Tensor> {
  const found = new Set(wanted);
  for (const { inputs, output } of tape) {
    if (FLOATS.has(output.dtype) && inputs.some((tensor) => tensor && found.has(tensor))) found.add(output);
  }
  return found;
}

function walk(g: Graph, tape: readonly TapeEntry[], sums: Sums, needed: ReadonlySet<Tensor>): void {
  const producers = new Map(tape.map((entry) => [entry.output, entry]));
  const producer = (tensor: Tensor) => producers.get(tensor);
  for (const entry of tape.toReversed()) {
    if (!needed.has(entry.output) || !sums.reached(entry.output)) continue;
    const rules = RULES[entry.op];
    for (const [i, tensor] of entry.inputs.entries()) {
      if (!tensor || !needed.has(tensor)) continue;
      const rule = rules?.[i];
      if (!rule) {
        const which = rules ? `its input ${i}, ${tensor}` : `its inputs (${tensor})`;
        throw new GraphError(`${entry.op} has no gradient for ${which}; build the graph without it to train`);
      }
      const part = sums.isZero(entry.output)
        ? undefined
        : rule(g, { ...entry, dy: sums.total(entry.output), producer });
      sums.add(tensor, part);
    }
  }
}

/** Gradients on their way: what each tensor has got so far. */
class Sums {
  readonly #g: Graph;
  readonly #parts = new Map<Tensor, (Tensor | Part)[]>();

  constructor(g: Graph) {
    this.#g = g;
  }

  /** Enters a contribution; undefined says that the way was followed and nothing came of it. */
  add(tensor: Tensor, part: Tensor | Part | undefined): void {
    const parts = this.#parts.get(tensor) ?? [];
    this.#parts.set(tensor, parts);
    if (!part) return;
    this.#g.expand("window" in part ? part.values : part);
    parts.push(part);
  }

  reached(tensor: Tensor): boolean {
    return this.#parts.has(tensor);
  }

  isZero(tensor: Tensor): boolean {
    return this.#parts.get(tensor)?.length === 0;
  }

  /** The sum of what was entered: f32, contiguous. */
  total(tensor: Tensor): Tensor {
    const g = this.#g;
    const parts = this.#parts.get(tensor);
    if (!parts)
      throw new GraphError(`no recorded operation leads from ${tensor} to a tensor with a gradient`);
    const whole = parts.filter((part): part is Tensor => !("window" in part)).map((part) => dense(g, part));
    const windows = parts.filter((part): part is Part => "window" in part);
    // Memory that windows are added to must be nobody else's, which zeros are.
    if (windows.length > 0 || whole.length === 0) {
      let sum = zeros(g, tensor.ne);
      for (const { values, window } of windows) sum = accumulate(g, sum, values, window);
      whole.push(sum);
    }
    const sum = whole.reduce((a, b) => g.add(a, b));
    g.expand(sum);
    this.#parts.set(tensor, [sum]);
    return sum;
  }
}
