// Reverse-mode differentiation: walks recorded operations backwards and adds the operations that compute gradients to
// the same graph. The derivatives themselves are in gradients/rules.ts.
import { GraphError } from "../../base/errors.ts";
import { accumulate, clear, dense, zeros } from "./gradients/ops.ts";
import { RULES } from "./gradients/rules.ts";
import type { InputRule, Part, Step } from "./gradients/step.ts";
import type { TapeEntry } from "./graph.ts";
import { type Graph, need } from "./ops.ts";
import { sameShape, type Tensor } from "./tensor.ts";

/** How gradients are computed, not what they are. */
export interface BackwardOptions {
  /**
   * Memory that gradients of some wanted tensors are added to, in place: f32, contiguous, of the tensors' shapes. What
   * is there counts as the beginning of the sum. Only for tensors that nothing recorded has computed.
   */
  readonly into?: ReadonlyMap<Tensor, Tensor>;
  /** Those of them whose memory, bound to a buffer, holds nothing yet: what is there does not count. */
  readonly fresh?: ReadonlySet<Tensor>;
  /**
   * Keeps the transposed copies of matrices that backward makes, for further calls on the same graph. Without it copies
   * of large matrices are made slice by slice and never exist as a whole.
   */
  readonly turned?: Map<Tensor, Tensor>;
}

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
  options: BackwardOptions = {},
): Map<Tensor, Tensor> {
  for (const tensor of wanted) {
    need(FLOATS.has(tensor.dtype), () => `${tensor} cannot have a gradient: it is not f32, f16 or bf16`);
  }
  const producers = new Map(tape.map((entry) => [entry.output, entry]));
  for (const [tensor, memory] of options.into ?? []) {
    need(
      wanted.has(tensor) && !producers.has(tensor),
      () => `${tensor} is not a wanted tensor nobody computed`,
    );
    needGradient(tensor, memory);
  }
  for (const [tensor, seed] of seeds) needGradient(tensor, seed);
  if (wanted.size === 0) return new Map();
  const stepOf = (entry: TapeEntry, dy: Tensor): Step => ({
    ...entry,
    dy,
    producer: (tensor) => producers.get(tensor),
    addsTo: (tensor) => options.into?.has(tensor) ?? false,
    turned: options.turned,
  });
  const recording = g.tape;
  g.tape = undefined;
  try {
    const sums = new Sums(g, options.into ?? new Map(), options.fresh ?? new Set());
    for (const [tensor, seed] of seeds) sums.add(tensor, seed);
    const needed = dependents(tape, wanted);
    for (const entry of tape.toReversed()) {
      if (!needed.has(entry.output) || !sums.reached(entry.output)) continue;
      const step = sums.isZero(entry.output) ? undefined : stepOf(entry, sums.total(entry.output));
      for (const [i, tensor] of entry.inputs.entries()) {
        if (!tensor || !needed.has(tensor)) continue;
        const rule = ruleFor(entry, i);
        sums.add(tensor, step && rule(g, step));
      }
    }
    return new Map([...wanted].map((tensor) => [tensor, sums.total(tensor)]));
  } finally {
    g.tape = recording;
  }
}

function needGradient(tensor: Tensor, gradient: Tensor): void {
  const fits = gradient.dtype === "f32" && sameShape(gradient, tensor);
  need(fits, () => `the gradient of ${tensor} must be f32 of its shape, not ${gradient}`);
}

function ruleFor(entry: TapeEntry, input: number): InputRule {
  const rules = RULES[entry.op];
  const rule = rules?.[input];
  if (rule) return rule;
  const which = rules ? `its input ${input}, ${entry.inputs[input]}` : `its inputs (${entry.inputs[input]})`;
  throw new GraphError(`${entry.op} has no gradient for ${which}; build the graph without it to train`);
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

/** Gradients on their way: what each tensor has got so far. */
class Sums {
  readonly #g: Graph;
  /** Tensors that a way was followed to, and what came of it as a whole. */
  readonly #whole = new Map<Tensor, Tensor[]>();
  /** Memory of gradients that others are added to in place: theirs alone. */
  readonly #memory: Map<Tensor, Tensor>;
  /** Tensors whose memory nothing was written to yet. */
  readonly #fresh: Set<Tensor>;

  constructor(g: Graph, into: ReadonlyMap<Tensor, Tensor>, fresh: ReadonlySet<Tensor>) {
    this.#g = g;
    this.#memory = new Map(into);
    this.#fresh = new Set(fresh);
  }

  /** Enters a contribution; undefined says that the way was followed and nothing came of it. */
  add(tensor: Tensor, part: Tensor | readonly Part[] | undefined): void {
    const whole = this.#whole.get(tensor) ?? [];
    this.#whole.set(tensor, whole);
    if (part === undefined) return;
    const g = this.#g;
    if (!("handle" in part)) {
      if (this.#fresh.has(tensor)) this.#begin(tensor, part);
      else for (const one of part) this.#addPart(tensor, one);
    } else if (this.#fresh.delete(tensor)) {
      const memory = this.#memory.get(tensor) as Tensor;
      g.expand(g.copy(part, memory));
    } else if (this.#memory.has(tensor)) {
      this.#accumulate(tensor, accumulate(g, this.#memory.get(tensor) as Tensor, dense(g, part)));
    } else {
      g.expand(part);
      whole.push(part);
    }
  }

  /** The first parts of a gradient in memory that holds nothing: written there, not added, where they are all of it. */
  #begin(tensor: Tensor, parts: readonly Part[]): void {
    const g = this.#g;
    const memory = this.#memory.get(tensor) as Tensor;
    this.#fresh.delete(tensor);
    if (memory.place && isPartition(tensor, parts)) {
      const { buffer, offset } = memory.place;
      for (const { values, window } of parts) g.put(values, { buffer, offset: offset + window.offset });
      return;
    }
    g.expand(clear(g, memory));
    for (const part of parts) this.#addPart(tensor, part);
  }

  #addPart(tensor: Tensor, { values, window }: Part): void {
    const g = this.#g;
    const memory = this.#memory.get(tensor) ?? zeros(g, tensor.ne);
    if (!isRun({ values, window })) {
      this.#accumulate(tensor, accumulate(g, memory, values, window));
      return;
    }
    // A contiguous run is added to a view of it: GPU kernels go over the whole of what they add to.
    g.expand(accumulate(g, g.view(memory, values.ne, window.strides, window.offset), values));
    this.#memory.set(tensor, memory);
  }

  #accumulate(tensor: Tensor, memory: Tensor): void {
    this.#g.expand(memory);
    this.#memory.set(tensor, memory);
  }

  reached(tensor: Tensor): boolean {
    return this.#whole.has(tensor);
  }

  isZero(tensor: Tensor): boolean {
    return !this.#memory.has(tensor) && this.#whole.get(tensor)?.length === 0;
  }

  /** The sum of what was entered: f32, contiguous. */
  total(tensor: Tensor): Tensor {
    const g = this.#g;
    const whole = this.#whole.get(tensor);
    if (!whole)
      throw new GraphError(`no recorded operation leads from ${tensor} to a tensor with a gradient`);
    const memory = this.#memory.get(tensor);
    if (memory && this.#fresh.delete(tensor)) g.expand(clear(g, memory));
    const terms = [...(memory ? [memory] : []), ...whole.map((part) => dense(g, part))];
    const sum = terms.length === 0 ? zeros(g, tensor.ne) : terms.reduce((a, b) => g.add(a, b));
    g.expand(sum);
    if (terms.length > 1) {
      this.#memory.delete(tensor);
      this.#whole.set(tensor, [sum]);
    }
    return sum;
  }
}

/** Whether the values of a part lie side by side in the tensor as well. */
function isRun({ values, window }: Part): boolean {
  return values.contiguous && window.strides.every((stride, i) => stride === values.nb[i + 1]);
}

/** Operations with memory of their own, which can lie anywhere. */
const PRODUCTS: ReadonlySet<string> = new Set(["mul_mat", "out_prod"]);

/** Whether parts follow one another from the tensor's beginning to its end, each a product, which can go anywhere. */
function isPartition(tensor: Tensor, parts: readonly Part[]): boolean {
  let end = 0;
  for (const part of parts) {
    if (!isRun(part) || !PRODUCTS.has(part.values.name) || part.window.offset !== end) return false;
    end += part.values.bytes;
  }
  return end === tensor.elements * 4;
}
