// How slices are stepped, whichever way a rule goes about it: what the updater's pipeline sees of it.
import type { Slab } from "../../backend/ggml/update-graph.ts";
import type { StepParams } from "./rules/rule.ts";
import type { Traffic } from "./slots.ts";

/** A parameter's gradient: f32, one after another from byte `offset` on, a multiple of 4, of host memory. */
export type Gradient = Slab;

export interface Stepper {
  /** Elements stepped in one turn of the device where the whole state is in RAM and slices need no memory. */
  readonly inPlaceElements: number;
  /** Makes ready for one step of a parameter. Nothing has been changed yet: the place for what may fail. */
  begin(params: StepParams): Promise<void>;
  /**
   * Prepares a slice, while the one before it may still be computing. The function returned keeps what has to be kept of
   * it and steps it, in turn with all that the device computes; by then the slice has been read.
   */
  prepare(run: Traffic, index: number, gradient: Gradient, params: StepParams): () => Promise<void>;
  /** With nothing under way. May be called twice. */
  dispose(): Promise<void>;
}
