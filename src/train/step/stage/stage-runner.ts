// Computes the graphs of training one stage at a time: binds operands to where they are, gives the graph memory, runs it,
// and hands out what it produced. What runs when is the business of passes.ts.

import type { NativeBuffer } from "../../../backend/ggml/buffer.ts";
import type { Device } from "../../../backend/ggml/device.ts";
import type { Graph } from "../../../backend/ggml/ops.ts";
import type { Tensor } from "../../../backend/ggml/tensor.ts";
import { downloadNow } from "../../../backend/ggml/transfer.ts";
import type { Unit } from "../../../plan/units.ts";
import type { EngineParts } from "../../../runtime/open/open-model.ts";
import { GraphBuilder } from "../../../runtime/step/graph-builder.ts";
import { productsOf } from "../../../runtime/step/work.ts";
import type { Slot } from "../../../runtime/weights/lane.ts";
import { storedDims } from "../../open/measure-operands.ts";
import { lowRankKey, type Parameters } from "../../open/parameters.ts";
import type { TensorBatch } from "../batch.ts";
import { type BatchInputs, rowsName } from "../batch-inputs.ts";
import { TrainingAttention } from "./attention.ts";
import type { KeptMemory } from "./keeping.ts";
import type { StageAdapter, StageInput } from "./stage-backward.ts";
import {
  buildBackward,
  buildForward,
  buildHead,
  type Fetched,
  type StageOperands,
  type WantedOfUnit,
} from "./stage-graphs.ts";

export interface StageRunnerParts {
  readonly device: Device;
  readonly engine: EngineParts;
  readonly vocab: number;
  readonly hidden: number;
  readonly parameters: Parameters;
  /** Low-rank weights on the computing device, by the parameter's index. */
  readonly lowRank: ReadonlyMap<number, NativeBuffer>;
  readonly inputs: BatchInputs;
  /** Tensors of the largest graph. */
  readonly tensors: number;
}

/** Memory of one stage's graph; what a graph does not use may be absent. */
export interface StageTensors {
  readonly batch: TensorBatch;
  /** Streamed weights. */
  readonly slots: readonly Slot[];
  readonly x?: NativeBuffer | undefined;
  readonly y?: NativeBuffer | undefined;
  readonly dy?: NativeBuffer | undefined;
  readonly dx?: NativeBuffer | undefined;
  /** Where forward puts what backward takes from there. */
  readonly kept?: KeptMemory | undefined;
  /** Sums of gradients in memory the device computes in, by key. */
  readonly into?: Readonly<Record<string, GradientSum>>;
}

export interface GradientSum {
  readonly buffer: NativeBuffer;
  readonly dims: readonly number[];
  /** It holds nothing yet, and is overwritten. */
  readonly fresh: boolean;
}

/** Takes what a graph computed, while it is there. */
export type OnFetched = (key: string, gradient: Tensor) => Promise<void>;

export class StageRunner {
  readonly #p: StageRunnerParts;
  readonly #graphs: GraphBuilder;

  constructor(parts: StageRunnerParts) {
    this.#p = parts;
    this.#graphs = new GraphBuilder(parts.device, parts.engine.graphs, parts.tensors);
  }

  async forward(unit: Unit, memory: StageTensors): Promise<void> {
    await this.#run("forward", unit, memory, (g) =>
      buildForward(g, unit, this.#operands(memory), memory.kept),
    );
  }

  async backward(
    unit: Unit,
    memory: StageTensors,
    wanted: WantedOfUnit,
    onFetched: OnFetched,
  ): Promise<void> {
    const fetched = await this.#run("backward", unit, memory, (g) =>
      buildBackward(g, unit, this.#operands(memory), wanted, memory.kept),
    );
    await handOut(fetched, onFetched);
  }

  /** Returns the sum of the losses of the tokens that predict something. */
  async head(
    unit: Unit,
    memory: StageTensors,
    wanted: WantedOfUnit,
    gradScale: number,
    onFetched: OnFetched,
  ): Promise<number> {
    const kind = wanted.x || wanted.parameters.length > 0 ? "head" : "loss";
    const { sum, fetched } = await this.#run(kind, unit, memory, (g) =>
      buildHead(g, unit, this.#p.vocab, this.#operands(memory), wanted, gradScale),
    );
    const loss = new Float32Array(1);
    downloadNow(loss, sum);
    await handOut(fetched, onFetched);
    return loss[0] as number;
  }

  async #run<T>(kind: string, unit: Unit, memory: StageTensors, build: (g: Graph) => T): Promise<T> {
    const { graph, result } = this.#graphs.build([kind, unit.index, ...shapeOf(memory)].join(), build);
    const { sequences, length } = memory.batch;
    const amount = productsOf([unit], sequences * length);
    await this.#p.device.compute(graph, { kind, detail: unit.stage.kind, amount });
    return result;
  }

  #operands(memory: StageTensors): StageOperands {
    const { inputs, hidden } = this.#p;
    const { batch } = memory;
    const tokens = batch.sequences * batch.length;
    const state = (name: "x" | "y" | "dy" | "dx") => (g: Graph) => {
      const buffer = memory[name];
      if (!buffer) throw new Error(`a stage's graph has no memory for ${name}`);
      return g.bind(buffer, 0, "f32", [hidden, tokens], name);
    };
    const count = batch.predicting.length;
    return {
      stage: (g, unit) => this.#stage(g, unit, memory),
      context: (g) =>
        new TrainingAttention({
          sequences: batch.sequences,
          length: batch.length,
          positions: inputs.input(g, "positions"),
          mask: inputs.input(g, "mask"),
        }),
      input: state("x"),
      result: state("y"),
      dy: state("dy"),
      dx: state("dx"),
      into: (g, _unit, key) => {
        const sum = memory.into?.[key];
        if (!sum) return undefined;
        return { memory: g.bind(sum.buffer, 0, "f32", sum.dims, `gradient of ${key}`), fresh: sum.fresh };
      },
      predicting: (g) => g.view(inputs.input(g, "predicting"), [count], [], 0),
      targets: (g) => g.view(inputs.input(g, "targets"), [count], [], 0),
    };
  }

  #stage(g: Graph, unit: Unit, { slots }: StageTensors): Omit<StageInput, "x"> {
    const { engine, inputs, device } = this.#p;
    const { residents } = engine;
    const parameters: Record<string, Tensor> = { ...residents.vectors(unit) };
    const gathered: Record<string, Tensor> = {};
    const ids = inputs.input(g, "ids");
    for (const [key, m] of Object.entries(unit.matrices)) {
      const found = residents.matrix(m);
      const here = found?.tier === device.kind ? found.tensor : undefined;
      const by = unit.stage.weights[key]?.rows;
      if (by) {
        const rows = inputs.tensor(g, rowsName(m.name));
        if (here && !rows)
          gathered[key] = g.getRows(here, by === "tokens" ? ids : inputs.input(g, "positions"));
        else gathered[key] = g.cast(rows as Tensor, "f32");
      } else parameters[key] = here ?? fromSlot(g, slots, m.name);
    }
    const adapters = this.#adapters(g, unit, parameters);
    return { parameters, gathered, ids, ...(adapters && { adapters }) };
  }

  #adapters(g: Graph, unit: Unit, parameters: Record<string, Tensor>) {
    const { parameters: trained, lowRank, inputs } = this.#p;
    let adapters: Record<string, StageAdapter> | undefined;
    for (const { target, unit: index, key, a, b } of trained.lowRank) {
      if (index !== unit.index) continue;
      const bind = (which: "a" | "b", parameter: number, dims: readonly number[]) => {
        const name = lowRankKey(key, which);
        parameters[name] = g.bind(lowRank.get(parameter) as NativeBuffer, 0, "f32", dims, name);
        return name;
      };
      adapters ??= {};
      adapters[key] = {
        a: bind("a", a, storedDims([target.r, target.in])),
        b: bind("b", b, storedDims([target.out, target.r])),
        scale: target.scale,
        dropout: inputs.tensor(g, dropoutName(key)),
      };
    }
    return adapters;
  }

  dispose(): void {
    this.#graphs.dispose();
  }
}

/** Name under which the dropout mask of an adapter is put among a stage's inputs. */
export function dropoutName(key: string): string {
  return `dropout of ${key}`;
}

function fromSlot(g: Graph, slots: readonly Slot[], name: string): Tensor {
  const slot = slots.find((s) => s.name === name);
  if (!slot) throw new Error(`${name} is neither resident nor streamed`);
  return g.bind(slot.buffer, slot.offset, slot.dtype, slot.ne, name);
}

async function handOut(fetched: Fetched, onFetched: OnFetched): Promise<void> {
  for (const [key, gradient] of Object.entries(fetched)) await onFetched(key, gradient);
}

/** What decides whether a device can run a graph that differs from another in sizes alone. */
function shapeOf({ batch, into, kept }: StageTensors): (string | number)[] {
  return [
    batch.sequences,
    batch.length,
    batch.masks,
    batch.predicting.length,
    Number(kept !== undefined),
    ...Object.values(into ?? {}).map(({ fresh }) => Number(fresh)),
  ];
}
