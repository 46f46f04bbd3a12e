// Operands of training graphs at addresses nobody touches, to find how much scratch memory the graphs need.
import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import type { Graph } from "../../backend/ggml/ops.ts";
import type { Tensor } from "../../backend/ggml/tensor.ts";
import type { ModelSpec } from "../../models/spec.ts";
import type { Unit } from "../../plan/units.ts";
import type { BatchShape } from "../step/batch-inputs.ts";
import { TrainingAttention } from "../step/stage/attention.ts";
import type { StageAdapter, StageInput } from "../step/stage/stage-backward.ts";
import type { GradientMemory, StageOperands } from "../step/stage/stage-graphs.ts";
import { lowRankKey, type Parameters } from "./parameters.ts";

/** Dimensions of a parameter in ggml's order, laid out as the checkpoint holds it. */
export function storedDims(shape: readonly number[]): number[] {
  return shape.toReversed();
}

export class NoMemory implements StageOperands {
  readonly #nowhere: NativeBuffer;
  readonly #spec: ModelSpec;
  readonly #parameters: Parameters;
  readonly #shape: BatchShape;
  readonly #tokens: number;
  readonly #device: "cpu" | "gpu";

  constructor(
    nowhere: NativeBuffer,
    spec: ModelSpec,
    parameters: Parameters,
    shape: BatchShape,
    device: "cpu" | "gpu",
  ) {
    this.#nowhere = nowhere;
    this.#spec = spec;
    this.#parameters = parameters;
    this.#shape = shape;
    this.#tokens = shape.sequences * shape.length;
    this.#device = device;
  }

  stage(g: Graph, unit: Unit): Omit<StageInput, "x"> {
    const parameters: Record<string, Tensor> = {};
    const gathered: Record<string, Tensor> = {};
    const adapters: Record<string, StageAdapter> = {};
    for (const [key, m] of Object.entries(unit.matrices)) {
      if (unit.stage.weights[key]?.rows)
        gathered[key] = g.cast(this.#at(g, m.dtype, [m.ne[0], this.#tokens]), "f32");
      else parameters[key] = this.#at(g, m.dtype, storedDims(m.source.shape));
    }
    for (const v of unit.vectors) parameters[v.key] = this.#at(g, "f32", [v.length]);
    for (const [key, c] of Object.entries(unit.stage.constants ?? {}))
      parameters[key] = this.#at(g, "f32", [c.length]);
    for (const { target, unit: index, key } of this.#parameters.lowRank) {
      if (index !== unit.index) continue;
      const [a, b] = [lowRankKey(key, "a"), lowRankKey(key, "b")];
      parameters[a] = this.#at(g, "f32", [target.in, target.r]);
      parameters[b] = this.#at(g, "f32", [target.r, target.out]);
      const dropout = this.#parameters.dropoutWidth > 0 && unit.stage.kind !== "head";
      adapters[key] = {
        ...{ a, b, scale: target.scale },
        ...(dropout && { dropout: this.#at(g, "f32", [target.in, this.#tokens]) }),
      };
    }
    return { parameters, gathered, adapters, ids: this.#at(g, "i32", [this.#tokens]) };
  }

  context(g: Graph): TrainingAttention {
    const { sequences, length } = this.#shape;
    return new TrainingAttention({
      ...{ sequences, length },
      positions: this.#at(g, "i32", [this.#tokens]),
      mask: this.#at(g, "f16", [length, length, 1, sequences]),
    });
  }

  input(g: Graph): Tensor {
    return this.#hidden(g);
  }
  result(g: Graph): Tensor {
    return this.#hidden(g);
  }
  dy(g: Graph): Tensor {
    return this.#hidden(g);
  }
  dx(g: Graph): Tensor {
    return this.#hidden(g);
  }

  into(g: Graph, unit: Unit, key: string): GradientMemory | undefined {
    if (this.#device === "gpu" || unit.stage.weights[key]?.rows) return undefined;
    const found = this.#parameters.ofUnit.get(unit.index)?.find((one) => one.key === key);
    // added to, which takes memory that writing the first ones does not
    return found && { memory: this.#at(g, "f32", storedDims(found.parameter.shape)), fresh: false };
  }

  predicting(g: Graph): Tensor {
    return this.#at(g, "i32", [this.#tokens]);
  }
  targets(g: Graph): Tensor {
    return this.#at(g, "i32", [this.#tokens]);
  }

  #hidden(g: Graph): Tensor {
    return this.#at(g, "f32", [this.#spec.hidden_size, this.#tokens]);
  }

  #at(g: Graph, dtype: Tensor["dtype"], dims: readonly number[]): Tensor {
    return g.bind(this.#nowhere, 0, dtype, dims);
  }
}
