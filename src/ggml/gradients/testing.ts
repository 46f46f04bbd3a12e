// For tests: small graphs that are built once and computed for different inputs, and numerical derivatives of them.
import type { Device } from "../device.ts";
import type { DType } from "../dtypes.ts";
import { backward } from "../gradients.ts";
import { HeaderArena } from "../graph.ts";
import { GraphMemory } from "../graph-memory.ts";
import { library } from "../library.ts";
import { Graph } from "../ops.ts";
import type { Tensor } from "../tensor.ts";

/** An input of a graph: its dimensions in ggml's order and its values. */
export interface Given {
  readonly dims: readonly number[];
  readonly values: Float32Array | Int32Array | Uint16Array;
  /** Of what the graph is given; the values are f32 all the same. Default f32, i32 or (Uint16Array: bits) f16. */
  readonly dtype?: DType;
}

export type Inputs = Readonly<Record<string, Given>>;
type Tensors<K extends string = string> = Record<K, Tensor>;

/** A graph over named inputs. Its memory is freed by `dispose`, which must come before the device's. */
export class Evaluation {
  readonly #device: Device;
  readonly #arena = new HeaderArena(2048, { graph: true });
  readonly #memory: GraphMemory;
  readonly #graph: Graph;
  readonly #inputs: Tensors = {};
  readonly #outputs: Tensors;

  constructor(device: Device, inputs: Inputs, build: (g: Graph, t: Tensors) => Tensors) {
    this.#device = device;
    this.#memory = new GraphMemory(device.memory, () => {});
    this.#graph = new Graph(device, this.#arena);
    const given: Tensors = {};
    for (const [name, { dims, values, dtype }] of Object.entries(inputs)) {
      const held = values instanceof Float32Array ? "f32" : values instanceof Int32Array ? "i32" : "f16";
      const tensor = this.#graph.input(held, dims, name);
      this.#graph.expand(tensor); // so that it has memory even where a derivative does not depend on it
      this.#inputs[name] = tensor;
      given[name] = this.#graph.cast(tensor, dtype ?? held);
    }
    this.#outputs = build(this.#graph, given);
    for (const tensor of Object.values(this.#outputs)) this.#graph.output(tensor);
    this.#graph.checkSupport();
    this.#memory.place(this.#graph.handle);
  }

  /** The values of all outputs. */
  async run(inputs: Inputs): Promise<Record<string, Float32Array>> {
    const { native } = library();
    for (const [name, tensor] of Object.entries(this.#inputs)) {
      const { values } = inputs[name] as Given;
      native.ggml_backend_tensor_set(tensor.handle, values, 0, tensor.bytes);
    }
    await this.#device.compute(this.#graph.handle);
    const results: Record<string, Float32Array> = {};
    for (const [name, tensor] of Object.entries(this.#outputs)) {
      results[name] = new Float32Array(tensor.elements);
      native.ggml_backend_tensor_get(tensor.handle, results[name], 0, tensor.bytes);
    }
    return results;
  }

  dispose(): void {
    this.#memory.dispose();
    this.#arena.dispose();
  }
}

/** A function of named inputs whose gradients are asked for. */
export interface Case {
  readonly inputs: Inputs;
  readonly wanted: readonly string[];
  build(g: Graph, t: Tensors): Tensor;
}

/** Builds the gradients of sum(direction * result) by the rules; `direction` is an input of the result's shape. */
export function gradientGraph(c: Case): (g: Graph, t: Tensors) => Tensors {
  return (g, { direction, ...t }) => {
    g.tape = [];
    const result = c.build(g, t);
    const wanted = c.wanted.map((name) => t[name] as Tensor);
    const gradients = backward(g, g.tape, new Map([[result, direction as Tensor]]), new Set(wanted));
    return Object.fromEntries(c.wanted.map((name) => [name, gradients.get(t[name] as Tensor) as Tensor]));
  };
}

/** The gradients of sum(direction * result) with respect to the wanted inputs, by the rules. */
export async function gradientsOf(
  device: Device,
  c: Case,
  direction: Given,
): Promise<Record<string, Float32Array>> {
  const inputs = { ...c.inputs, direction };
  const evaluation = new Evaluation(device, inputs, gradientGraph(c));
  try {
    return await evaluation.run(inputs);
  } finally {
    evaluation.dispose();
  }
}

/** The same by central differences of width 2 * `h`; the result is summed in double precision. */
export async function numeric(
  device: Device,
  c: Case,
  direction: Given,
  h: number,
): Promise<Record<string, Float32Array>> {
  const evaluation = new Evaluation(device, c.inputs, (g, t) => ({ result: g.cont(c.build(g, t)) }));
  const projected = async (inputs: Inputs) => {
    const { result } = await evaluation.run(inputs);
    return (result as Float32Array).reduce((sum, y, i) => sum + y * (direction.values[i] as number), 0);
  };
  const gradients: Record<string, Float32Array> = {};
  try {
    for (const name of c.wanted) {
      const given = c.inputs[name] as Given;
      gradients[name] = new Float32Array(given.values.length);
      for (const i of given.values.keys()) {
        const at = (x: number) =>
          projected({ ...c.inputs, [name]: { ...given, values: given.values.with(i, x) } });
        const x = given.values[i] as number;
        gradients[name][i] = ((await at(x + h)) - (await at(x - h))) / (2 * h);
      }
    }
    return gradients;
  } finally {
    evaluation.dispose();
  }
}

/** How many elements the result of a case has. */
export function resultSize(device: Device, c: Case): number {
  let elements = 0;
  new Evaluation(device, c.inputs, (g, t) => {
    const result = c.build(g, t);
    elements = result.elements;
    return { result: g.cont(result) };
  }).dispose();
  return elements;
}

/** The largest difference of two arrays, relative to the largest element of the second. */
export function relativeDifference(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  const largest = b.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  const difference = a.reduce((most, x, i) => Math.max(most, Math.abs(x - (b[i] as number))), 0);
  return difference === 0 ? 0 : difference / largest;
}

/** Numbers from 0 to 1 that are the same in every run (mulberry32). */
export function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
