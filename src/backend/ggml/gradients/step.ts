// What a derivative is given and what it gives: the types that rules and the walk over the tape share.
import type { TapeEntry } from "../graph.ts";
import type { Graph } from "../ops.ts";
import type { Tensor } from "../tensor.ts";
import type { Window } from "./ops.ts";

/** One recorded operation whose result's gradient is known. */
export interface Step extends TapeEntry {
  /** Of the output: f32, contiguous, of its shape. */
  readonly dy: Tensor;
  /** What the graph did to make a tensor, if it was recorded. */
  producer(tensor: Tensor): TapeEntry | undefined;
  /** Whether the gradient of a tensor is added to memory that is there already. */
  addsTo(tensor: Tensor): boolean;
  /** Transposed copies of matrices that are kept for further use, if they are. */
  readonly turned: Map<Tensor, Tensor> | undefined;
}

/** A gradient of some of a tensor's elements. */
export interface Part {
  readonly values: Tensor;
  readonly window: Window;
}

/** What one input gets: the gradient in its shape, parts of it, or nothing where it is zero. */
export type InputRule = (g: Graph, s: Step) => Tensor | readonly Part[] | undefined;

/** Per input, in the order of the recorded operation. An input without a rule cannot be differentiated. */
export type Rule = readonly (InputRule | undefined)[];
