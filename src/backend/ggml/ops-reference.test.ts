// Every operation of the graph builder against a slow, clear loop over the same numbers.
import { afterAll, beforeAll, describe, test } from "vitest";
import { Device, findDevice } from "./device.ts";
import { type Given, type Inputs, randomNumbers } from "./gradients/testing.ts";
import type { RopeParams } from "./ops.ts";
import { dot, expectGives as expectOn, Grid, softMax, sum } from "./testing.ts";

let device: Device;
beforeAll(() => {
  device = Device.open(findDevice("cpu"), { threads: 1 });
});
afterAll(() => device.dispose());

const next = randomNumbers(3);
/** Multiples of 1/8 from -2 to 2: the same number in f32, f16 and bf16. */
const random = (...dims: number[]) => new Grid(dims, () => Math.floor(next() * 33 - 16) / 8);
const positive = (...dims: number[]) => random(...dims).map((x) => Math.abs(x) + 0.125);
const given = (grid: Grid, dtype?: Given["dtype"]): Given => ({
  dims: grid.dims,
  values: Float32Array.from(grid.values),
  ...(dtype && { dtype }),
});
const whole = (...values: number[]): Given => ({ dims: [values.length], values: Int32Array.from(values) });

const expectGives = (...args: Tail<Parameters<typeof expectOn>>) => expectOn(device, ...args);
type Tail<T extends unknown[]> = T extends [unknown, ...infer Rest] ? Rest : never;

describe("element by element", () => {
  const binary = {
    add: (x: number, y: number) => x + y,
    sub: (x: number, y: number) => x - y,
    mul: (x: number, y: number) => x * y,
    div: (x: number, y: number) => x / y,
  };
  const shapes: [number[], number[]][] = [
    [[5], [5]],
    [[4, 3], [4]],
    [
      [4, 3, 2],
      [1, 3],
    ],
    [
      [6, 2, 4, 3],
      [3, 1, 2],
    ],
  ];
  test.each(Object.entries(binary))("%s, the second repeated", async (op, f) => {
    for (const [large, small] of shapes) {
      const [a, b] = [random(...large), positive(...small)];
      await expectGives(
        { a: given(a), b: given(b) },
        (g, t) => g[op as keyof typeof binary](t.a!, t.b!),
        new Grid(large, (i) => f(a.at(...i), b.at(...i))),
      );
    }
  });

  test("scale", async () => {
    const a = random(7, 3);
    await expectGives(
      { a: given(a) },
      (g, t) => g.scale(t.a!, -1.5, 0.25),
      a.map((x) => -1.5 * x + 0.25),
    );
  });

  /** Abramowitz and Stegun 7.1.26 is too coarse; the series is exact enough for |x| up to 3. */
  const erf = (x: number) => {
    let term = x;
    let total = x;
    for (let n = 1; n < 60; n++) {
      term *= (-x * x) / n;
      total += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * total;
  };
  const unary = {
    sqr: (x: number) => x * x,
    sqrt: Math.sqrt,
    log: Math.log,
    exp: Math.exp,
    tanh: Math.tanh,
    sigmoid: (x: number) => 1 / (1 + Math.exp(-x)),
    silu: (x: number) => x / (1 + Math.exp(-x)),
    gelu_erf: (x: number) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
    relu: (x: number) => Math.max(0, x),
    step: (x: number) => Number(x > 0),
    abs: Math.abs,
    sgn: Math.sign,
  };
  test.each(Object.entries(unary))("%s", async (op, f) => {
    const a = op === "sqrt" || op === "log" ? positive(9, 4) : random(9, 4);
    await expectGives({ a: given(a) }, (g, t) => g.unary(op as keyof typeof unary, t.a!), a.map(f));
  });

  test("swiglu", async () => {
    const [a, b] = [random(8, 3), random(8, 3)];
    await expectGives(
      { a: given(a), b: given(b) },
      (g, t) => g.swiglu(t.a!, t.b!),
      new Grid([8, 3], (i) => unary.silu(a.at(...i)) * b.at(...i)),
    );
  });
});

describe("rows", () => {
  test("rmsNorm", async () => {
    const a = random(10, 3, 2);
    await expectGives(
      { a: given(a) },
      (g, t) => g.rmsNorm(t.a!, 1e-5),
      new Grid(a.dims, ([i0, i1, i2, i3]) => {
        const row = a.row(i1, i2, i3);
        return (row[i0] as number) / Math.sqrt(sum(row.map((x) => x * x)) / row.length + 1e-5);
      }),
    );
  });

  test("norm", async () => {
    const a = random(10, 3, 2);
    await expectGives(
      { a: given(a) },
      (g, t) => g.norm(t.a!, 1e-5),
      new Grid(a.dims, ([i0, i1, i2, i3]) => {
        const row = a.row(i1, i2, i3);
        const mean = sum(row) / row.length;
        const variance = sum(row.map((x) => (x - mean) ** 2)) / row.length;
        return ((row[i0] as number) - mean) / Math.sqrt(variance + 1e-5);
      }),
    );
  });

  test("sumRows", async () => {
    const a = random(6, 5);
    const reference = new Grid([1, 5], ([, i1]) => sum(a.row(i1, 0, 0)));
    await expectGives({ a: given(a) }, (g, t) => g.sumRows(t.a!), reference);
  });

  test.each(["f32", "f16", "bf16"] as const)("getRows of %s", async (dtype) => {
    const table = random(8, 6);
    const picked = [5, 0, 0, 3];
    await expectGives(
      { table: given(table, dtype), ids: whole(...picked) },
      (g, t) => g.getRows(t.table!, t.ids!),
      new Grid([8, 4], ([i0, i1]) => table.at(i0, picked[i1] as number)),
      0,
    );
  });

  test.each(["f32", "f16"] as const)("softMax with a mask of %s", async (dtype) => {
    const a = random(7, 4, 2);
    const mask = new Grid([7, 4], ([i0, i1]) => (i0 > i1 + 3 ? Number.NEGATIVE_INFINITY : i0 / 8));
    await expectGives(
      { a: given(a), mask: given(mask, dtype) },
      (g, t) => g.softMax(t.a!, t.mask!, 0.5),
      softMax(a, mask, 0.5),
    );
    await expectGives({ a: given(a) }, (g, t) => g.softMax(t.a!, undefined, 2), softMax(a, undefined, 2));
  });
});

describe("matrices", () => {
  test.each(["f32", "f16", "bf16"] as const)("mulMat, weights of %s", async (dtype) => {
    for (const tokens of [1, 3, 9, 33]) {
      const [w, x] = [random(32, 11), random(32, tokens)];
      await expectGives(
        { w: given(w, dtype), x: given(x) },
        (g, t) => g.mulMat(t.w!, t.x!),
        new Grid([11, tokens], ([i0, i1]) => dot(w.row(i0, 0, 0), x.row(i1, 0, 0))),
      );
    }
  });

  test("mulMat repeats the first over the second", async () => {
    const [w, x] = [random(4, 5, 2), random(4, 3, 6, 2)];
    await expectGives(
      { w: given(w), x: given(x) },
      (g, t) => g.mulMat(t.w!, t.x!),
      // Neighbouring matrices of the second share one of the first, as grouped heads do.
      new Grid([5, 3, 6, 2], ([i0, i1, i2, i3]) => dot(w.row(i0, Math.floor(i2 / 3), 0), x.row(i1, i2, i3))),
    );
  });

  test.each(["f32", "f16"] as const)("flashAttention over a cache of %s", async (dtype) => {
    const [headDim, heads, kvHeads, past, count] = [16, 4, 2, 5, 3];
    const q = random(headDim, count, heads);
    const [k, v] = [random(headDim, past + count, kvHeads), random(headDim, past + count, kvHeads)];
    const mask = new Grid([past + count, count], ([i0, i1]) =>
      i0 > past + i1 ? Number.NEGATIVE_INFINITY : 0,
    );
    const group = heads / kvHeads;
    const scores = new Grid([past + count, count, heads], ([row, token, head]) =>
      dot(q.row(token, head, 0), k.row(row, Math.floor(head / group), 0)),
    );
    const weights = softMax(scores, mask, 0.25);
    await expectGives(
      { q: given(q), k: given(k, dtype), v: given(v, dtype), mask: given(mask, "f16") },
      (g, t) => g.flashAttention(t.q!, t.k!, t.v!, t.mask!, 0.25),
      new Grid([headDim, heads, count], ([i0, head, token]) =>
        sum(weights.row(token, head, 0).map((w, row) => w * v.at(i0, row, Math.floor(head / group)))),
      ),
      dtype === "f32" ? 2e-6 : 2e-3, // over halves it adds in halves
    );
  });
});

describe("rope", () => {
  const plain: RopeParams = {
    dims: 8,
    freqBase: 10_000,
    freqScale: 1,
    extFactor: 0,
    attnFactor: 1,
    betaFast: 32,
    betaSlow: 1,
    originalContext: 64,
  };
  const factors = [1, 2, 4, 8];
  const cases: [string, RopeParams, boolean][] = [
    ["pairs of halves", plain, false],
    ["pairs of neighbours", { ...plain, interleaved: true }, false],
    ["some of the dimensions", { ...plain, dims: 4 }, false],
    ["frequencies divided", plain, true],
    ["values multiplied", { ...plain, attnFactor: 1.25 }, false],
    ["another base", { ...plain, freqBase: 500_000 }, false],
  ];
  test.each(cases)("%s", async (_what, params, divided) => {
    const a = random(8, 3, 4);
    const positions = [0, 1, 7, 300];
    const { dims, freqBase, attnFactor, interleaved } = params;
    const reference = new Grid(a.dims, ([i0, head, token]) => {
      if (i0 >= dims) return a.at(i0, head, token);
      const pair = interleaved ? Math.floor(i0 / 2) : i0 % (dims / 2);
      const [first, second] = interleaved ? [2 * pair, 2 * pair + 1] : [pair, pair + dims / 2];
      const divisor = divided ? (factors[pair] as number) : 1;
      const angle = ((positions[token] as number) * freqBase ** ((-2 * pair) / dims)) / divisor;
      const [x, y] = [a.at(first, head, token), a.at(second, head, token)];
      const turned =
        i0 === first ? x * Math.cos(angle) - y * Math.sin(angle) : x * Math.sin(angle) + y * Math.cos(angle);
      return turned * attnFactor;
    });
    const inputs: Inputs = {
      a: given(a),
      positions: whole(...positions),
      ...(divided && { factors: { dims: [4], values: Float32Array.from(factors) } }),
    };
    // Angles of hundreds of radians in f32.
    await expectGives(inputs, (g, t) => g.rope(t.a!, t.positions!, params, t.factors), reference, 3e-5);
  });
});

describe("shape", () => {
  test("reshape", async () => {
    const a = random(6, 4);
    const reference = new Grid([3, 2, 4], ([i0, i1, i2]) => a.at(i0 + 3 * i1, i2));
    await expectGives({ a: given(a) }, (g, t) => g.cont(g.reshape(t.a!, 3, 2, 4)), reference, 0);
  });

  test("view", async () => {
    const a = random(6, 5);
    const reference = new Grid([2, 3], ([i0, i1]) => a.at(3 + i0, 1 + i1));
    await expectGives({ a: given(a) }, (g, t) => g.cont(g.view(t.a!, [2, 3], [24], 24 + 12)), reference, 0);
  });

  test("permute, transpose and cont", async () => {
    const a = random(2, 3, 4, 5);
    await expectGives(
      { a: given(a) },
      (g, t) => g.cont(g.permute(t.a!, 2, 0, 3, 1)),
      new Grid([3, 5, 2, 4], ([i0, i1, i2, i3]) => a.at(i2, i0, i3, i1)),
      0,
    );
    const transposed = new Grid([3, 2, 4, 5], ([i0, i1, i2, i3]) => a.at(i1, i0, i2, i3));
    await expectGives({ a: given(a) }, (g, t) => g.cont(g.transpose(t.a!)), transposed, 0);
  });

  test("repeat", async () => {
    const a = random(2, 3);
    const reference = new Grid([4, 3, 2], (i) => a.at(...i));
    await expectGives({ a: given(a) }, (g, t) => g.repeat(t.a!, [4, 3, 2]), reference, 0);
  });

  test.each([0, 1, 2, 3] as const)("concat along dimension %d", async (dim) => {
    const a = random(2, 3, 4, 2);
    const b = new Grid(
      a.dims.map((n, i) => (i === dim ? 3 : n)),
      () => next(),
    );
    const length = a.dims[dim];
    const reference = new Grid(
      a.dims.map((n, i) => (i === dim ? n + 3 : n)),
      (i) => {
        const from = [...i] as [number, number, number, number];
        if (i[dim] < length) return a.at(...from);
        from[dim] -= length;
        return Math.fround(b.at(...from));
      },
    );
    await expectGives({ a: given(a), b: given(b) }, (g, t) => g.concat(t.a!, t.b!, dim), reference, 0);
  });
});

describe("types", () => {
  /** Rounds to a float of `bits` significant bits, halves to even; numbers of ordinary size. */
  const rounded = (x: number, bits: number) => {
    if (x === 0) return 0;
    const unit = 2 ** (Math.floor(Math.log2(Math.abs(x))) - bits + 1);
    const low = Math.floor(x / unit);
    const rest = x / unit - low;
    return (rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low) * unit;
  };
  const SIGNIFICANT = { f16: 11, bf16: 8 } as const;

  test.each(["f16", "bf16"] as const)("cast to %s and back rounds to even", async (dtype) => {
    const a = new Grid([64, 3], () => Math.fround((next() - 0.5) * 10 ** (next() * 4 - 2)));
    const back = a.map((x) => rounded(x, SIGNIFICANT[dtype]));
    await expectGives({ a: given(a) }, (g, t) => g.cast(g.cast(t.a!, dtype), "f32"), back, 0);
  });

  test("copy converts into memory that is there", async () => {
    const a = new Grid([8, 2], () => Math.fround(next()));
    const place = { dims: [8, 2], values: new Float32Array(16) };
    await expectGives(
      { a: given(a), place },
      (g, t) => g.cast(g.copy(t.a!, g.cast(t.place!, "f16")), "f32"),
      a.map((x) => rounded(x, SIGNIFICANT.f16)),
      0,
    );
  });

  test.each(["q8_0", "q4_0", "q6_k"] as const)("cast to %s and back is near", async (dtype) => {
    const a = new Grid([256, 2], () => Math.fround(next() - 0.5));
    const steps = { q8_0: 127, q4_0: 8, q6_k: 32 }[dtype];
    await expectGives({ a: given(a) }, (g, t) => g.cast(g.cast(t.a!, dtype), "f32"), a, 0.5 / steps);
  });
});
