import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { GraphError } from "../errors.ts";
import { Device, findDevice, listDevices } from "./device.ts";
import { CASES } from "./gradients/cases.ts";
import { RULES } from "./gradients/rules.ts";
import {
  type Case,
  Evaluation,
  type Given,
  gradientGraph,
  gradientsOf,
  numeric,
  randomNumbers,
  relativeDifference,
  resultSize,
} from "./gradients/testing.ts";
import { backward } from "./gradients.ts";
import type { Graph } from "./ops.ts";
import type { Tensor } from "./tensor.ts";

/**
 * The step of central differences. Their error is h^2 / 6 times the third derivative, below 20 here, plus the rounding of
 * f32 results, 6e-8, over h: together below 5e-4 of the largest gradient.
 */
const STEP = 2 ** -7;
const NUMERIC_TOLERANCE = 1e-3;
/** Kernels of two devices sum in another order and take exp and tanh from other libraries. */
const KERNEL_TOLERANCE = 2e-5;
/** Other GPUs may round operands of products to 10 bits (TF32), whatever is asked for. */
const TENSOR_CORE_TOLERANCE = 3e-3;

const cpu = () => Device.open(findDevice("cpu"), { threads: 1 });

/** Weights of the elements of a result in the number that is differentiated: multiples of 1/8 from -1 to 1. */
function directionFor(device: Device, c: Case): Given {
  const next = randomNumbers(11);
  const size = resultSize(device, c);
  return {
    dims: [size],
    values: Float32Array.from({ length: size }, () => (Math.floor(next() * 17) - 8) / 8),
  };
}

/** The same function with its result as a vector, so that the direction's shape is known. */
function flat(c: Case): Case {
  return {
    ...c,
    build: (g, t) => {
      const result = c.build(g, t);
      return g.reshape(result.contiguous ? result : g.cont(result), result.elements);
    },
  };
}

describe("every rule agrees with central differences", () => {
  test.each(CASES.map((c) => [c.name, c] as const))("%s", async (_name, named) => {
    const device = cpu();
    try {
      const c = flat(named);
      const direction = directionFor(device, c);
      const gradients = await gradientsOf(device, c, direction);
      const expected = await numeric(device, c, direction, named.h ?? STEP);
      for (const name of c.wanted) {
        expect(relativeDifference(gradients[name]!, expected[name]!), name).toBeLessThan(NUMERIC_TOLERANCE);
      }
    } finally {
      await device.dispose();
    }
  });

  test("and no rule is left out", () => {
    const recorded = new Set<string>();
    const device = cpu();
    for (const c of CASES) {
      new Evaluation(device, c.inputs, (g, t) => {
        g.tape = [];
        const result = g.cont(c.build(g, t));
        for (const { op } of g.tape) recorded.add(op);
        return { result };
      }).dispose();
    }
    expect([...Object.keys(RULES)].filter((op) => !recorded.has(op))).toEqual([]);
  });
});

describe("a GPU gives the CPU's gradients", () => {
  // Read when the GPU backend is loaded: without it Vulkan rounds what it multiplies to halves.
  process.env.GGML_VK_DISABLE_F16 = "1";
  const info = listDevices().find((d) => d.kind === "gpu");
  if (!info) console.log("gradients on a GPU: skipped, the tensor library reports no GPU device");
  test.runIf(process.env.SPILLWAY_TEST_GPU === "1")("there is one", () => expect(info).toBeDefined());

  // Memory is given back only after the device: see Device.forgetBuffers.
  const held: Evaluation[] = [];
  let gpu: Device;
  beforeAll(() => {
    if (info) gpu = Device.open(info, { threads: 1 });
  });
  afterAll(async () => {
    await gpu?.dispose();
    for (const evaluation of held) evaluation.dispose();
  });

  const cases = CASES.filter((c) => !c.cpuOnly).map((c) => [c.name, c] as const);
  test.skipIf(!info).each(cases)("%s", async (_name, named) => {
    const c = flat(named);
    const device = cpu();
    try {
      const inputs = { ...c.inputs, direction: directionFor(device, c) };
      const expected = await gradientsOf(device, c, inputs.direction);
      const evaluation = new Evaluation(gpu, inputs, gradientGraph(c));
      held.push(evaluation);
      const gradients = await evaluation.run(inputs);
      const tolerance = info?.name.startsWith("vulkan") ? KERNEL_TOLERANCE : TENSOR_CORE_TOLERANCE;
      for (const name of c.wanted) {
        expect(relativeDifference(gradients[name]!, expected[name]!), name).toBeLessThan(tolerance);
      }
    } finally {
      await device.dispose();
    }
  });
});

describe("what cannot be differentiated", () => {
  /** Builds on a graph with the tape on, then asks for the gradient of "a" with the result as its own seed. */
  function gradientOf(c: Case, wanted = "a"): void {
    const device = cpu();
    new Evaluation(device, c.inputs, (g, t) => {
      g.tape = [];
      const result = c.build(g, t);
      backward(g, g.tape, new Map([[result, result]]), new Set([t[wanted] as Tensor]));
      return { result };
    }).dispose();
  }
  const a: Given = { dims: [8, 2], values: new Float32Array(16) };
  const ids: Given = { dims: [2], values: new Int32Array(2) };
  const half: Given = { dims: [8, 8], values: new Float32Array(64), dtype: "f16" };

  test.each<[string, Record<string, Given>, (g: Graph, t: Record<string, Tensor>) => Tensor, RegExp]>([
    [
      "attention without stored products",
      { a: { ...half, dtype: "f32" }, k: half },
      (g, t) => g.flashAttention(t.a!, t.k!, t.k!, undefined, 1),
      /flash_attn has no gradient for its inputs \(a f32\[8, 8, 1, 1\]\)/,
    ],
    ["a copy into other memory", { a, b: a }, (g, t) => g.copy(t.a!, t.b!), /cpy has no gradient/],
    [
      "a mask",
      { a: { dims: [2, 2], values: new Float32Array(4) }, b: { dims: [2, 2], values: new Float32Array(4) } },
      (g, t) => g.softMax(t.b!, t.a!, 1),
      /soft_max has no gradient for its input 1/,
    ],
    [
      "whole numbers",
      { a: ids, b: a },
      (g, t) => g.getRows(t.b!, t.a!),
      /a i32\[2, 1, 1, 1\] cannot have a gradient/,
    ],
    [
      "what the result does not depend on",
      { a, b: a },
      (g, t) => g.unary("sqr", t.b!),
      /no recorded operation leads from/,
    ],
    [
      "a view whose rows overlap",
      { a },
      (g, t) => g.cont(g.view(t.a!, [4, 2], [8], 0)),
      /elements of view f32\[4, 2, 1, 1\] overlap/,
    ],
    [
      "a view across rows that lie apart",
      { a },
      (g, t) => g.cont(g.view(g.view(t.a!, [4, 2], [32], 0), [6], [], 0)),
      /rows of view f32\[6, 1, 1, 1\] are not within rows/,
    ],
  ])("%s", (_name, inputs, build, message) => {
    const c: Case = { inputs, wanted: ["a"], build };
    expect(() => gradientOf(c)).toThrow(GraphError);
    expect(() => gradientOf(c)).toThrow(message);
  });

  test("a seed of another shape", () => {
    const device = cpu();
    expect(
      () =>
        new Evaluation(device, { a }, (g, t) => {
          backward(g, [], new Map([[t.a!, g.sumRows(t.a!)]]), new Set([t.a!]));
          return {};
        }),
    ).toThrow(/gradient of a f32\[8, 2, 1, 1\] must be f32 of its shape/);
  });
});
