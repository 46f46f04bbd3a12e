// Products outside the tensor library: the numbers they should be, for every kind, type and edge of a tile.

import { afterAll, beforeAll, expect, test } from "vitest";
import { describeUnless, testUnless } from "../../base/testing-unproven.ts";
import { Device, findDevice } from "../ggml/device.ts";
import { DTYPES, type DType } from "../ggml/dtypes.ts";
import { backward } from "../ggml/gradients.ts";
import { HeaderArena } from "../ggml/graph.ts";
import { GraphMemory } from "../ggml/graph-memory.ts";
import { dataOf } from "../ggml/header-fields.ts";
import { Graph } from "../ggml/ops.ts";
import type { Tensor } from "../ggml/tensor.ts";
import { downloadNow, uploadNow } from "../ggml/transfer.ts";
import { productsMissing, wideDevice } from "./testing.ts";
import { wideInputGradient, wideWeightGradient } from "./wide.ts";

const skip = productsMissing();
let device: Device;
beforeAll(async () => {
  if (!skip) device = await wideDevice();
});
afterAll(() => device?.dispose());

/** Small numbers that bf16 holds exactly, so that only the order of sums differs. */
const numbers = (count: number, seed: number) =>
  Float32Array.from({ length: count }, (_, i) => (((i + 1) * 7919 + seed * 104729) % 33) / 16 - 1);

/** Builds over f32 inputs, computes, and gives the result's values and how many products went outside. */
async function computed(
  inputs: Record<string, { dims: number[]; values: Float32Array }>,
  build: (g: Graph, t: Record<string, Tensor>) => Tensor,
  on = device,
): Promise<{ values: Float32Array; outside: number; result: Tensor }> {
  const arena = new HeaderArena(256, { graph: true });
  const memory = new GraphMemory(on.memory, () => {});
  try {
    const g = new Graph(on, arena, { wide: true });
    const t = Object.fromEntries(
      Object.entries(inputs).map(([name, { dims }]) => [name, g.input("f32", dims, name)]),
    );
    const result = g.output(build(g, t));
    g.checkSupport();
    memory.place(g.handle);
    for (const [name, { values }] of Object.entries(inputs))
      if (dataOf(t[name] as Tensor)) uploadNow(t[name] as Tensor, values);
    await on.compute(g);
    const values = new Float32Array(result.elements);
    downloadNow(values, result);
    return { values, outside: g.products.length, result };
  } finally {
    memory.dispose();
    arena.dispose();
  }
}

function expectClose(actual: Float32Array, wanted: Float64Array, tolerance: number): void {
  const scale = wanted.reduce((most, x) => Math.max(most, Math.abs(x)), 1);
  let worst = 0;
  for (const [i, x] of wanted.entries()) worst = Math.max(worst, Math.abs((actual[i] as number) - x));
  expect(worst / scale).toBeLessThanOrEqual(tolerance);
}

/** C [m, n] by a loop over C[i][j] = sum of a(i, l) b(l, j). */
function reference(
  [m, n, k]: readonly [number, number, number],
  a: (i: number, l: number) => number,
  b: (l: number, j: number) => number,
): Float64Array {
  const c = new Float64Array(m * n);
  for (let i = 0; i < m; i++)
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let l = 0; l < k; l++) sum += a(i, l) * b(l, j);
      c[i * n + j] = sum;
    }
  return c;
}

/** Columns, outputs, inputs: one token, fewer than a vector, tiles with a rest, more rows than a tile. */
const SHAPES = [
  [1, 64, 64],
  [5, 48, 96],
  [16, 300, 256],
  [47, 129, 64],
  [64, 257, 128],
  [530, 130, 64],
  [513, 129, 64],
  [20, 1025, 257],
] as const;

describeUnless(skip)("the result of a linear layer", () => {
  test.each(SHAPES.flatMap((shape) => (["f32", "bf16"] as const).map((type) => [type, ...shape] as const)))(
    "%s, %i columns, %i x %i",
    async (type, m, n, k) => {
      const [w, x] = [numbers(n * k, 1), numbers(m * k, 2)];
      const { values, outside } = await computed(
        { w: { dims: [k, n], values: w }, x: { dims: [k, m], values: x } },
        (g, t) => g.mulMat(g.cast(t.w as Tensor, type), t.x as Tensor),
      );
      expect(outside).toBe(1);
      const wanted = reference(
        [m, n, k],
        (i, l) => x[i * k + l] as number,
        (l, j) => w[j * k + l] as number,
      );
      expectClose(values, wanted, 2e-6);
    },
  );

  const packed = ["f16", "q8_0", "q4_0", "q5_1"] as const satisfies readonly DType[];
  test.each(packed)("%s weights are unpacked by the tile", async (type) => {
    const [m, n, k] = [70, 200, 256];
    const [w, x] = [numbers(n * k, 3), numbers(m * k, 4)];
    const inputs = { w: { dims: [k, n], values: w }, x: { dims: [k, m], values: x } };
    const { values, outside } = await computed(inputs, (g, t) =>
      g.mulMat(g.cast(t.w as Tensor, type), t.x as Tensor),
    );
    const { values: unpacked } = await computed({ w: inputs.w }, (g, t) =>
      g.cast(g.cast(t.w as Tensor, type), "f32"),
    );
    expect(outside).toBe(1);
    const wanted = reference(
      [m, n, k],
      (i, l) => x[i * k + l] as number,
      (l, j) => unpacked[j * k + l] as number,
    );
    // The values of quantized types are rounded to bf16.
    expectClose(values, wanted, DTYPES[type].block > 1 ? 2 ** -8 : 2e-6);
  });

  test("activations of several dimensions count as columns of one product", async () => {
    const [w, x] = [numbers(64 * 80, 5), numbers(64 * 30, 6)];
    const { values, result } = await computed(
      { w: { dims: [64, 80], values: w }, x: { dims: [64, 5, 3, 2], values: x } },
      (g, t) => g.mulMat(t.w as Tensor, t.x as Tensor),
    );
    expect(result.ne).toEqual([80, 5, 3, 2]);
    const at = (i: number, l: number) => x[i * 64 + l] as number;
    expectClose(
      values,
      reference([30, 80, 64], at, (l, j) => w[j * 64 + l] as number),
      2e-6,
    );
  });

  test("between products the tensor library computes, and what one gives the next takes", async () => {
    const [w, v, x] = [numbers(64 * 64, 7), numbers(64 * 64, 8), numbers(64 * 20, 9)];
    const { values, outside } = await computed(
      {
        w: { dims: [64, 64], values: w },
        v: { dims: [64, 64], values: v },
        x: { dims: [64, 20], values: x },
      },
      (g, t) => {
        const hidden = g.unary("relu", g.mulMat(t.w as Tensor, t.x as Tensor));
        const direct = g.mulMat(t.v as Tensor, g.mulMat(t.w as Tensor, t.x as Tensor));
        return g.add(g.mulMat(t.v as Tensor, hidden), direct);
      },
    );
    expect(outside).toBe(4);
    const first = reference(
      [20, 64, 64],
      (i, l) => x[i * 64 + l] as number,
      (l, j) => w[j * 64 + l] as number,
    );
    const wanted = reference(
      [20, 64, 64],
      (i, l) => Math.max(0, first[i * 64 + l] as number) + (first[i * 64 + l] as number),
      (l, j) => v[j * 64 + l] as number,
    );
    expectClose(values, wanted, 5e-6);
  });
});

describeUnless(skip)("gradients of a linear layer", () => {
  const cases = SHAPES.flatMap((shape) =>
    (["f32", "bf16"] as const).map((type) => [type, ...shape] as const),
  );

  test.each(cases)("of its input: %s, %i columns, %i x %i", async (type, m, n, k) => {
    const [w, dy] = [numbers(n * k, 10), numbers(n * m, 11)];
    const { values, outside } = await computed(
      { w: { dims: [k, n], values: w }, dy: { dims: [n, m], values: dy } },
      (g, t) => wideInputGradient(g, g.cast(t.w as Tensor, type), t.dy as Tensor) as Tensor,
    );
    expect(outside).toBe(1);
    const wanted = reference(
      [m, k, n],
      (i, l) => dy[i * n + l] as number,
      (l, j) => w[l * k + j] as number,
    );
    expectClose(values, wanted, 2e-6);
  });

  test.each(cases)("of its weights: %s, %i columns, %i x %i", async (type, m, n, k) => {
    const [x, dy] = [numbers(k * m, 12), numbers(n * m, 13)];
    const { values } = await computed(
      { x: { dims: [k, m], values: x }, dy: { dims: [n, m], values: dy } },
      (g, t) => {
        const w = g.arena.header(type, [k, n]);
        const some = (first: number, rows: number) =>
          wideWeightGradient(g, w, t.x as Tensor, t.dy as Tensor, [first, rows]) as Tensor;
        return g.concat(some(0, 32), some(32, n - 32), 1); // rows 0 to 31, and the rest
      },
    );
    const wanted = reference(
      [n, k, m],
      (i, l) => dy[l * n + i] as number,
      (l, j) => x[l * k + j] as number,
    );
    expectClose(values, wanted, 2e-6);
  });
});

describeUnless(skip)("a stack of products, as attention has", () => {
  // [head_dim, heads, tokens, sequences] seen as [head_dim, tokens, heads, sequences]: rows lie apart
  const [size, tokens, heads, groups, sequences] = [64, 40, 6, 2, 3];
  const [q, k, dy] = [size * heads, size * groups, tokens * heads].map((n, i) =>
    numbers(n * tokens * sequences, 16 + i),
  ) as [Float32Array, Float32Array, Float32Array];
  const inputs = {
    q: { dims: [size, heads, tokens, sequences], values: q },
    k: { dims: [size, groups, tokens, sequences], values: k },
  };
  const withDy = { ...inputs, dy: { dims: [tokens, tokens, heads, sequences], values: dy } };
  const byHead = (g: Graph, t: Tensor) => g.permute(t, 0, 2, 1, 3);
  const scores = (g: Graph, t: Record<string, Tensor>) =>
    g.mulMat(byHead(g, t.k as Tensor), byHead(g, t.q as Tensor)); // [tokens, tokens, heads, sequences]

  /** The same graph, computed by the tensor library. */
  async function alone(build: (g: Graph, t: Record<string, Tensor>) => Tensor, given = withDy) {
    const own = Device.open(findDevice("cpu"), { threads: 1 });
    try {
      return Float64Array.from((await computed(given, build, own)).values);
    } finally {
      await own.dispose();
    }
  }

  test("rows that lie apart, and matrices that repeat over others", async () => {
    const { values, outside, result } = await computed(inputs, scores);
    expect(outside).toBe(1);
    expect(result.ne).toEqual([tokens, tokens, heads, sequences]);
    expectClose(values, await alone(scores, inputs as typeof withDy), 2e-6);
  });

  test.each(["q", "k"] as const)("the gradient of %s", async (name) => {
    const gradient = (g: Graph, t: Record<string, Tensor>) => {
      g.tape = [];
      const y = scores(g, t);
      const tape = g.tape;
      g.tape = undefined;
      const wanted = t[name] as Tensor;
      return backward(g, tape, new Map([[y, t.dy as Tensor]]), new Set([wanted])).get(wanted) as Tensor;
    };
    const { values, outside } = await computed(withDy, gradient);
    expect(outside).toBe(2); // the scores, which are not needed, and the gradient
    expectClose(values, await alone(gradient), 2e-6);
  });
});

describeUnless(skip)("the same bits", () => {
  const inputs = {
    w: { dims: [256, 600], values: numbers(256 * 600, 14).map(Math.sin) },
    x: { dims: [256, 100], values: numbers(256 * 100, 15).map(Math.cos) },
  };
  const product = (g: Graph, t: Record<string, Tensor>) => g.mulMat(t.w as Tensor, t.x as Tensor);

  test("however many threads there are, and every time", async () => {
    const { values } = await computed(inputs, product);
    for (const threads of [1, 3]) {
      const other = await wideDevice(threads);
      try {
        for (let i = 0; i < 3; i++) expect((await computed(inputs, product, other)).values).toEqual(values);
      } finally {
        await other.dispose();
      }
    }
  });
});

testUnless(skip)("a graph that was not built for them has no products outside", async () => {
  const arena = new HeaderArena(8, { graph: true });
  try {
    const g = new Graph(device, arena);
    g.mulMat(g.input("f32", [64, 64]), g.input("f32", [64, 600]));
    expect(g.products).toEqual([]);
  } finally {
    arena.dispose();
  }
});
