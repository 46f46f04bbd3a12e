import { afterAll, describe, expect, test } from "vitest";
import { GraphError } from "../../base/errors.ts";
import { testUnless, whyNoGpu } from "../../base/testing-unproven.ts";
import { CASES } from "./gradients/cases.ts";
import { RULES } from "./gradients/rules.ts";
import {
  type Case,
  Evaluation,
  type Given,
  gradientGraph,
  gradientsOf,
  type Inputs,
  numeric,
  onCpu,
  projected,
  relativeDifference,
  TestGpu,
} from "./gradients/testing.ts";
import { backward } from "./gradients.ts";

/**
 * The step of central differences. Their error is h^2 / 6 times the third derivative, below 20 here, plus the rounding of
 * f32 results, 6e-8, over h: together below 5e-4 of the largest gradient.
 */
const STEP = 2 ** -7;
const NUMERIC_TOLERANCE = 1e-3;

describe("every rule agrees with central differences", () => {
  test.each(CASES.map((c) => [c.name, c] as const))("%s", (_name, c) =>
    onCpu(async (device) => {
      const { flat, direction } = projected(device, c);
      const gradients = await gradientsOf(device, flat, direction);
      const expected = await numeric(device, flat, direction, c.h ?? STEP);
      for (const name of c.wanted) {
        expect(relativeDifference(gradients[name]!, expected[name]!), name).toBeLessThan(NUMERIC_TOLERANCE);
      }
    }),
  );

  test.each(CASES.map((c) => [c.name, c] as const))(
    "in memory of the caller's, fresh or not: %s",
    (_name, c) =>
      onCpu(async (device) => {
        const { flat, direction } = projected(device, c);
        const expected = await gradientsOf(device, flat, direction);
        const buffers = flat.wanted.map((name) =>
          device.memory.allocate((flat.inputs[name]!.values.length + 1) * 4),
        );
        try {
          for (const fresh of [true, false]) {
            // what fresh memory holds does not count
            for (const buffer of buffers) new Float32Array(buffer.view()).fill(fresh ? Number.NaN : 0);
            const evaluation = new Evaluation(device, { ...flat.inputs, direction }, (g, t) => {
              g.tape = [];
              const result = flat.build(g, t);
              const wanted = flat.wanted.map((name) => t[name]!);
              const into = new Map(wanted.map((w, i) => [w, g.bind(buffers[i]!, 0, "f32", w.ne)]));
              const options = { into, ...(fresh && { fresh: new Set(wanted) }) };
              backward(g, g.tape, new Map([[result, t.direction!]]), new Set(wanted), options);
              return {};
            });
            await evaluation.run({ ...flat.inputs, direction });
            evaluation.dispose();
            for (const [i, name] of flat.wanted.entries()) {
              const length = expected[name]!.length;
              const found = new Float32Array(buffers[i]!.view(0, length * 4));
              expect(relativeDifference(found, expected[name]!), name).toBeLessThan(1e-6);
            }
          }
        } finally {
          for (const buffer of buffers) buffer.dispose();
        }
      }),
  );

  test("and no rule is left out", () =>
    onCpu((device) => {
      const recorded = new Set<string>();
      for (const c of CASES) {
        new Evaluation(device, c.inputs, (g, t) => {
          g.tape = [];
          c.build(g, t);
          for (const { op } of g.tape) recorded.add(op);
          return {};
        }).dispose();
      }
      expect(Object.keys(RULES).filter((op) => !recorded.has(op))).toEqual([]);
    }));
});

describe("a GPU gives the CPU's gradients", () => {
  const gpu = TestGpu.find();
  afterAll(() => gpu?.dispose());

  const cases = CASES.filter((c) => !c.cpuOnly).map((c) => [c.name, c] as const);
  testUnless(whyNoGpu(gpu)).each(cases)("%s", (_name, c) =>
    onCpu(async (device) => {
      const { flat, direction } = projected(device, c);
      const expected = await gradientsOf(device, flat, direction);
      const gradients = await gpu!.evaluate({ ...c.inputs, direction }, gradientGraph(flat));
      for (const name of c.wanted) {
        expect(relativeDifference(gradients[name]!, expected[name]!), name).toBeLessThan(gpu!.tolerance);
      }
    }),
  );
});

const a: Given = { dims: [8, 2], values: new Float32Array(16).fill(1) };

describe("only what is asked for is computed", () => {
  test("operations that lead to no wanted tensor get no gradient", () =>
    onCpu((device) => {
      const count = (wanted: string[]) => {
        let added = 0;
        new Evaluation(device, { a, b: a }, (g, t) => {
          g.tape = [];
          const y = g.mul(g.unary("exp", g.unary("sqr", t.a!)), t.b!);
          const tape = g.tape;
          g.tape = undefined;
          const node = g.node.bind(g);
          g.node = (...args) => {
            added++;
            return node(...args);
          };
          backward(g, tape, new Map([[y, y]]), new Set(wanted.map((name) => t[name]!)));
          return { y };
        }).dispose();
        return added;
      };
      expect(count([])).toBe(0);
      expect(count(["b"])).toBe(1); // dy exp(a^2)
      expect(count(["a"])).toBe(4); // dy b, times exp, times a, times 2
    }));

  test("the tape is not written to, and on again afterwards", () =>
    onCpu((device) => {
      new Evaluation(device, { a }, (g, t) => {
        g.tape = [];
        const y = g.unary("sqr", t.a!);
        const gradients = backward(g, g.tape, new Map([[y, y]]), new Set([t.a!]));
        expect(g.tape.map(({ op }) => op)).toEqual(["sqr"]);
        return { gradient: gradients.get(t.a!)! };
      }).dispose();
    }));

  test("a gradient that is a result keeps its memory though others are computed from it", () =>
    onCpu(async (device) => {
      // The sum's gradient is a reshaped view: the first operand gets it as it is, the second's is derived from it.
      const b: Given = { dims: [2], values: new Float32Array(2) };
      const flat: Given = { dims: [16], values: Float32Array.from({ length: 16 }, (_, i) => i) };
      const evaluation = new Evaluation(device, { a, b, flat }, (g, t) => {
        g.tape = [];
        const repeated = g.repeat(g.repeat(g.repeat(t.b!, [4]), [8]), [8, 2]);
        const y = g.reshape(g.add(t.a!, repeated), 16);
        const gradients = backward(g, g.tape, new Map([[y, g.scale(t.flat!, 2)]]), new Set([t.a!, t.b!]));
        return { a: gradients.get(t.a!)!, b: gradients.get(t.b!)! };
      });
      const results = await evaluation.run({ a, b, flat });
      evaluation.dispose();
      expect([...results.a!]).toEqual(Array.from({ length: 16 }, (_, i) => 2 * i));
      expect([...results.b!]).toEqual([112, 128]);
    }));

  test("a way on which nothing comes back gives zeros", () =>
    onCpu(async (device) => {
      const c: Case = {
        inputs: { a },
        wanted: ["a"],
        build: (g, t) => g.unary("sqr", g.unary("step", t.a!)),
      };
      const gradients = await gradientsOf(device, c, { ...a, values: new Float32Array(16).fill(1) });
      expect([...gradients.a!]).toEqual(new Array(16).fill(0));
    }));
});

describe("what cannot be differentiated", () => {
  /** Builds on a graph with the tape on, then asks for the gradient of "a" with the result as its own seed. */
  const gradientOfA = (inputs: Inputs, build: Case["build"]) =>
    onCpu((device) =>
      new Evaluation(device, inputs, (g, t) => {
        g.tape = [];
        const result = build(g, t);
        backward(g, g.tape, new Map([[result, result]]), new Set([t.a!]));
        return { result };
      }).dispose(),
    );
  const ids: Given = { dims: [2], values: new Int32Array(2) };
  const square: Given = { dims: [2, 2], values: new Float32Array(4) };
  const heads: Given = { dims: [8, 8], values: new Float32Array(64) };

  test.each<[string, Inputs, Case["build"], RegExp]>([
    [
      "attention without stored products",
      { a: heads, k: { ...heads, dtype: "f16" } },
      (g, t) => g.flashAttention(t.a!, t.k!, t.k!, undefined, 1),
      /flash_attn has no gradient for its inputs \(a f32\[8, 8, 1, 1\]\)/,
    ],
    ["a copy into other memory", { a, b: a }, (g, t) => g.copy(t.a!, t.b!), /cpy has no gradient/],
    [
      "a mask",
      { a: square, b: square },
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
      /no recorded operation leads from a f32/,
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
  ])("%s", async (_name, inputs, build, message) => {
    await expect(gradientOfA(inputs, build)).rejects.toThrow(GraphError);
    await expect(gradientOfA(inputs, build)).rejects.toThrow(message);
  });

  test("a seed of another shape", async () => {
    const seeding = onCpu(
      (device) =>
        new Evaluation(device, { a }, (g, t) => {
          backward(g, [], new Map([[t.a!, g.sumRows(t.a!)]]), new Set([t.a!]));
          return {};
        }),
    );
    await expect(seeding).rejects.toThrow(/gradient of a f32\[8, 2, 1, 1\] must be f32 of its shape/);
  });
});
