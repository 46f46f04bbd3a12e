// Steps slices with graphs of ggml's operations, as the rule builds them: block by block where scratch memory is used.

import type { Device } from "../../backend/ggml/device.ts";
import type { FloatDType } from "../../backend/ggml/dtypes.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import { type Slab, UpdateGraph } from "../../backend/ggml/update-graph.ts";
import { disposeAll } from "../../base/async/cleanup.ts";
import { ConfigError } from "../../base/errors.ts";
import { Allocation } from "../../memory/allocate.ts";
import type { Ledger } from "../../memory/ledger.ts";
import { BLOCK, type GraphRule, MAX_CONSTANTS, pieces, type StepParams } from "./rules/rule.ts";
import { scratchBytes, type Traffic } from "./slots.ts";
import type { Gradient, Stepper } from "./stepper.ts";

/** Tensor headers a graph needs per block, with room to spare: the arena says so where it is not enough. */
const HEADERS_PER_BLOCK = 128;

export class GraphStepper implements Stepper {
  readonly inPlaceElements: number;
  readonly #cpu: Device;
  readonly #rule: GraphRule;
  /** Constants, a block of the scaled gradient, the rule's scratch. */
  readonly #scratch: Allocation;
  /** A slice's graph is built while the one before it computes. */
  readonly #arenas: readonly [HeaderArena, HeaderArena];

  /** Throws BudgetError where the scratch memory does not fit. */
  constructor(cpu: Device, ledger: Ledger, rule: GraphRule, sliceElements: number) {
    this.inPlaceElements = sliceElements;
    this.#cpu = cpu;
    this.#rule = rule;
    this.#scratch = Allocation.take(ledger, "cpu", cpu.memory, scratchBytes(rule), "optimizer scratch");
    const headers = (Math.ceil(sliceElements / BLOCK) + 1) * HEADERS_PER_BLOCK;
    this.#arenas = [new HeaderArena(headers, { graph: true }), new HeaderArena(headers, { graph: true })];
  }

  async begin(params: StepParams): Promise<void> {
    const constants = this.#rule.constants(params);
    if (constants.length > MAX_CONSTANTS) throw new ConfigError(`${constants.length} constants are too many`);
    new Float32Array(this.#scratch.buffer.view(0, constants.length * 4)).set(constants);
  }

  prepare(run: Traffic, index: number, gradient: Gradient, params: StepParams): () => Promise<void> {
    const graph = this.#build(run, index, gradient, params);
    return async () => {
      for (const part of run.parts) {
        const to = run.keeps(part, index);
        if (!to) continue;
        const end = part.format.bytes(index * run.length + run.elements(index));
        await part.region.read(to.buffer, to.offset, to.offset, end - to.offset);
      }
      await this.#cpu.compute(graph, { kind: "optimizer", detail: "graph", amount: run.elements(index) });
    };
  }

  async dispose(): Promise<void> {
    disposeAll([this.#scratch, ...this.#arenas]);
  }

  /** The graph of a slice; the arena of the one before the last is free by now. */
  #build(run: Traffic, index: number, gradient: Gradient, params: StepParams): bigint {
    const rule = this.#rule;
    const arena = this.#arenas[index % 2] as HeaderArena;
    arena.reset();
    const g = new UpdateGraph(this.#cpu, arena);
    const memory = this.#scratch.buffer;
    const constants: Slab = { buffer: memory, offset: 0 };
    const scaled: Slab = { buffer: memory, offset: MAX_CONSTANTS * 4 };
    const scratch: Slab = { buffer: memory, offset: MAX_CONSTANTS * 4 + BLOCK * 4 };
    const first = index * run.length;
    const elements = run.elements(index);
    const { gradScale = 1 } = params;
    // Threads wait for one another at every operation: without scratch memory a slice is one block.
    const block = gradScale === 1 && rule.scratch === 0 ? elements : BLOCK;
    for (let at = 0; at < elements; at += block) {
      const count = Math.min(block, elements - at);
      const [weights, ...others] = run.parts.map((part) => run.slab(part, index, at)) as [Slab, ...Slab[]];
      const moments = others.slice(0, rule.moments.length);
      let grad: Slab = { buffer: gradient.buffer, offset: gradient.offset + (first + at) * 4 };
      if (gradScale !== 1) {
        for (const { first: from, dims } of pieces(count)) {
          g.put(g.scale(g.at(grad, dims, "f32", from), gradScale), scaled, from);
        }
        grad = scaled;
      }
      rule.build(g, { count, weights, gradient: grad, moments, scratch, constants }, params);
      const { working } = run.state;
      const copy = others[rule.moments.length];
      if (working && copy) convert(g, count, weights, copy, working.dtype);
    }
    return g.handle;
  }
}

/** Writes `count` weights to the working copy. */
export function convert(g: UpdateGraph, count: number, weights: Slab, copy: Slab, dtype: FloatDType): void {
  for (const { first, dims } of pieces(count)) {
    g.write(g.at(weights, dims, "f32", first), g.at(copy, dims, dtype, first));
  }
}
