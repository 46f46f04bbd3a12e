// What an optimizer step is made of: ggml's own optimizer kernels and the graph's operations, written to memory the
// caller names. Allocates nothing, and runs in the order it is written: an operation may overwrite what earlier ones read.

import { GraphError } from "../../base/errors.ts";
import { bytesOf, type DType } from "./dtypes.ts";
import { library } from "./library.ts";
import { ffi } from "./loading/ffi.ts";
import { Graph } from "./ops.ts";
import { type BufferPlace, sameShape, type Tensor } from "./tensor.ts";

/** Values that lie one after another in host memory. */
export type Slab = BufferPlace;

/** Constants of ggml's AdamW kernel: lr, beta1, beta2, eps, weight_decay, 1/(1 - beta1^t), 1/(1 - beta2^t). */
export const ADAMW_CONSTANTS = 7;
/** Constants of ggml's SGD kernel: lr, weight_decay. */
export const SGD_CONSTANTS = 2;

export class UpdateGraph extends Graph {
  /** A tensor over a slab, from its element `first` on; `first` must be whole blocks of the type. */
  at(slab: Slab, dims: readonly number[], dtype: DType = "f32", first = 0): Tensor {
    return this.bind(slab.buffer, slab.offset + bytesOf(dtype, first), dtype, dims);
  }

  /** Converts `from` into the memory of `to`, now. */
  write(from: Tensor, to: Tensor): Tensor {
    const result = this.copy(from, to);
    this.expand(result);
    return result;
  }

  /**
   * One step of Adam with decoupled decay (Loshchilov and Hutter 2019), in place, now. All f32 of one shape:
   * m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2; w = w (1 - lr wd) - lr m^ / (sqrt(v^) + eps).
   * `weights` must come from {@link at}; `constants` hold {@link ADAMW_CONSTANTS} values.
   */
  adamw(weights: Tensor, gradient: Tensor, m: Tensor, v: Tensor, constants: Tensor): Tensor {
    this.#checkStep("adamw", weights, [gradient, m, v], constants, ADAMW_CONSTANTS);
    this.arena.take();
    const { native } = library();
    const handle = native.ggml_opt_step_adamw(
      this.arena.context,
      weights.handle,
      gradient.handle,
      m.handle,
      v.handle,
      constants.handle,
    );
    return this.#step("opt_step_adamw", handle, weights, [weights, gradient, m, v, constants]);
  }

  /** w = w (1 - lr wd) - lr g, in place, now. The rules of {@link adamw}; {@link SGD_CONSTANTS} constants. */
  sgd(weights: Tensor, gradient: Tensor, constants: Tensor): Tensor {
    this.#checkStep("sgd", weights, [gradient], constants, SGD_CONSTANTS);
    this.arena.take();
    const { native } = library();
    const handle = native.ggml_opt_step_sgd(
      this.arena.context,
      weights.handle,
      gradient.handle,
      constants.handle,
    );
    return this.#step("opt_step_sgd", handle, weights, [weights, gradient, constants]);
  }

  /** [columns, rows, n] and ones [1, rows, n] -> [columns, 1, n]: the sum of each column. */
  columnSums(a: Tensor, ones: Tensor): Tensor {
    need(a.dtype === "f32" && a.contiguous, `column_sums: f32 and contiguous: ${a}`);
    need(ones.dtype === "f32" && ones.contiguous && ones.ne[0] === 1, `column_sums: ones: ${ones}`);
    need(
      ones.ne[1] === a.ne[1] && ones.ne[2] === a.ne[2] && ones.ne[3] === a.ne[3],
      `column_sums: ${ones} for ${a}`,
    );
    this.arena.take();
    const handle = library().native.ggml_out_prod(this.arena.context, a.handle, ones.handle);
    return this.node("out_prod", handle, "f32", [a.ne[0], 1, a.ne[2], a.ne[3]], [a, ones]);
  }

  #checkStep(
    op: string,
    weights: Tensor,
    others: readonly Tensor[],
    constants: Tensor,
    wanted: number,
  ): void {
    for (const tensor of [weights, ...others]) {
      need(tensor.dtype === "f32" && tensor.contiguous, `${op}: f32 and contiguous: ${tensor}`);
      need(sameShape(tensor, weights), `${op}: ${tensor} has not the shape of ${weights}`);
    }
    need(
      constants.dtype === "f32" && constants.elements === wanted,
      `${op}: ${wanted} constants: ${constants}`,
    );
    // The kernel reads all of them with the strides of the weights; asserted there: a parameter, so a leaf.
    parameterMark()(weights.handle);
  }

  #step(op: string, handle: bigint, weights: Tensor, inputs: readonly Tensor[]): Tensor {
    const result = this.node(op, handle, "f32", weights.ne, inputs);
    this.expand(result);
    return result;
  }
}

let mark: ((tensor: bigint) => void) | undefined;

/** ggml_set_param: the optimizer kernels assert that what they change was marked as a parameter. */
function parameterMark(): (tensor: bigint) => void {
  if (!mark) {
    const main = library().folders.find((folder) => folder.cpu.length > 0);
    if (!main) throw new GraphError("the library the CPU backend came from is not known");
    mark = ffi().load(main.base).func("ggml_set_param", "void", ["void *"]) as (tensor: bigint) => void;
  }
  return mark;
}

function need(condition: boolean, problem: string): void {
  if (!condition) throw new GraphError(problem);
}
