// For tests: small graphs that are built once and computed for different inputs, and numerical derivatives of them.
import { Device, type DeviceInfo, findDevice, listDevices } from "../device.ts";
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

/** A graph over named inputs. On a GPU its memory is freed after the device: see {@link TestGpu}. */
export class Evaluation {
  readonly #device: Device;
  readonly #arena = new HeaderArena(4096, { graph: true });
  readonly #memory: GraphMemory;
  readonly #graph: Graph;
  readonly #inputs: Tensors = {};
  #outputs: Tensors = {};
  #bytes = 0;

  /** Throws what `build` throws, leaving nothing behind. */
  constructor(device: Device, inputs: Inputs, build: (g: Graph, t: Tensors) => Tensors) {
    this.#device = device;
    this.#memory = new GraphMemory(device.memory, (bytes) => {
      this.#bytes = bytes;
    });
    this.#graph = new Graph(device, this.#arena);
    try {
      this.#build(inputs, build);
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  #build(inputs: Inputs, build: (g: Graph, t: Tensors) => Tensors): void {
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

  /** Of inputs and of all that is computed, as far as it exists at the same time. */
  get bytes(): number {
    return this.#bytes;
  }

  /** The values of all outputs. */
  async run(inputs: Inputs): Promise<Record<string, Float32Array>> {
    const { native } = library();
    for (const [name, tensor] of Object.entries(this.#inputs)) {
      const { values } = inputs[name] as Given;
      if (values.length !== tensor.elements)
        throw new RangeError(`${tensor} is given ${values.length} values`);
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

/** Runs `work` on a CPU device of one thread. */
export async function onCpu<T>(work: (device: Device) => T | Promise<T>): Promise<T> {
  const device = Device.open(findDevice("cpu"), { threads: 1 });
  try {
    return await work(device);
  } finally {
    await device.dispose();
  }
}

/** The first GPU there is, which keeps the memory of what ran on it until it is closed: see Device.forgetBuffers. */
export class TestGpu {
  readonly #info: DeviceInfo;
  readonly #held: Evaluation[] = [];
  #device: Device | undefined;

  private constructor(info: DeviceInfo) {
    this.#info = info;
  }

  /** Undefined where there is none: see whyNoGpu. */
  static find(): TestGpu | undefined {
    // Read when the GPU backend is loaded: without it Vulkan rounds what it multiplies to halves.
    process.env.GGML_VK_DISABLE_F16 = "1";
    const info = listDevices().find((d) => d.kind === "gpu");
    return info && new TestGpu(info);
  }

  /**
   * How far results may be from the CPU's, relative to the largest: kernels sum in another order and take exp and tanh
   * from other libraries, and GPUs other than Vulkan's may round operands of products to 10 bits (TF32) unasked.
   */
  get tolerance(): number {
    return this.#info.name.startsWith("vulkan") ? 2e-5 : 3e-3;
  }

  evaluate(inputs: Inputs, build: (g: Graph, t: Tensors) => Tensors): Promise<Record<string, Float32Array>> {
    this.#device ??= Device.open(this.#info, { threads: 1 });
    const evaluation = new Evaluation(this.#device, inputs, build);
    this.#held.push(evaluation);
    return evaluation.run(inputs);
  }

  async dispose(): Promise<void> {
    await this.#device?.dispose();
    for (const evaluation of this.#held) evaluation.dispose();
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
  const evaluation = new Evaluation(device, c.inputs, (g, t) => ({ result: c.build(g, t) }));
  const sum = async (inputs: Inputs) => {
    const { result } = await evaluation.run(inputs);
    return (result as Float32Array).reduce((total, y, i) => total + y * (direction.values[i] as number), 0);
  };
  const gradients: Record<string, Float32Array> = {};
  try {
    for (const name of c.wanted) {
      const given = c.inputs[name] as Given;
      gradients[name] = new Float32Array(given.values.length);
      for (const i of given.values.keys()) {
        const at = (x: number) => sum({ ...c.inputs, [name]: { ...given, values: given.values.with(i, x) } });
        const x = given.values[i] as number;
        gradients[name][i] = ((await at(x + h)) - (await at(x - h))) / (2 * h);
      }
    }
    return gradients;
  } finally {
    evaluation.dispose();
  }
}

/**
 * The same function with its result as a vector, and weights of its elements in the number that is differentiated:
 * multiples of 1/8 from -1 to 1.
 */
export function projected(device: Device, c: Case): { flat: Case; direction: Given } {
  let size = 0;
  const flat: Case = {
    ...c,
    build: (g, t) => {
      const result = c.build(g, t);
      size = result.elements;
      return g.reshape(result.contiguous ? result : g.cont(result), size);
    },
  };
  new Evaluation(device, c.inputs, (g, t) => ({ result: flat.build(g, t) })).dispose();
  const next = randomNumbers(11);
  const values = Float32Array.from({ length: size }, () => (Math.floor(next() * 17) - 8) / 8);
  return { flat, direction: { dims: [size], values } };
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
