import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../backend/ggml/device.ts";
import { AbortError, BudgetError, ConfigError } from "../../base/errors.ts";
import { Ledger } from "../../memory/ledger.ts";
import { holdings, hostBytes } from "../../memory/stores/testing.ts";
import { type GradientPart, gradientNorm2, type NormContext } from "./gradient-norm.ts";
import { gradientValues, hostGradient, openCpu, weightValues } from "./testing.ts";

let cpu: Device;
beforeAll(() => {
  cpu = openCpu();
});
afterAll(() => cpu.dispose());

/** The norm of gradients given as values, with all memory accounted for. */
async function norm(values: readonly Float32Array[], context: Partial<NormContext> = {}) {
  const before = holdings();
  const ledger = new Ledger();
  const parts = values.map((v) => ({ ...hostGradient(v), elements: v.length }));
  try {
    return await gradientNorm2(parts, { cpu, ledger, ...context });
  } finally {
    for (const { buffer } of parts) buffer.dispose();
    ledger.assertEmpty();
    expect(holdings()).toEqual(before);
  }
}

/** In doubles, one value after another. */
function slow(values: readonly Float32Array[]): number {
  let sum = 0;
  for (const one of values) for (const x of one) sum += x * x;
  return sum;
}

describe("gradientNorm2", () => {
  test("is the sum of the squares of all values", async () => {
    const sizes = fc.array(fc.constantFrom(1, 3, 1023, 1024, 1025, 50_000), { maxLength: 5 });
    await fc.assert(
      fc.asyncProperty(sizes, fc.integer({ min: -15, max: 15 }), async (lengths, exponent) => {
        const values = lengths.map((n, seed) => gradientValues(n, seed).map((x) => x * 10 ** exponent));
        const { sumOfSquares, nonFinite } = await norm(values);
        const expected = slow(values);
        // Squares below the smallest normal f32 are whole multiples of the smallest of all.
        const count = values.reduce((sum, one) => sum + one.length, 0);
        const tolerance = 2e-6 * expected + count * 2 ** -149;
        expect(Math.abs(sumOfSquares - expected)).toBeLessThanOrEqual(tolerance);
        expect(nonFinite).toEqual([]);
      }),
      { numRuns: 40 },
    );
  });

  test("of more than one graph's worth, and of many values that would be lost in a sum of f32", async () => {
    const n = 17 * 2 ** 20 + 77;
    const values = new Float32Array(n).fill(1e-3);
    values[0] = 1000; // in f32 nothing of 1e-6 could be added to its square
    const { sumOfSquares } = await norm([values]);
    // In the row of the large value the small ones are lost; rows are added up in doubles.
    expect(sumOfSquares / (1e6 + 1e-6 * n) - 1).toBeLessThan(1e-8);
    expect(sumOfSquares - 1e6).toBeGreaterThan(1e-6 * (n - 1025));
  });

  test("numbers whose squares f32 cannot hold are numbers still", async () => {
    const values = weightValues(5000).map((x) => x * 1e25);
    const { sumOfSquares, nonFinite } = await norm([values]);
    expect(sumOfSquares / slow([values])).toBeCloseTo(1, 6);
    expect(nonFinite).toEqual([]);
  });

  test.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])(
    "says which gradients hold %f, wherever it is",
    async (bad) => {
      for (const at of [0, 1023, 1024, 2999]) {
        const values = [weightValues(3000), weightValues(3000), weightValues(10), weightValues(3000)];
        values[1]![at] = bad;
        values[3]![2999 - at] = bad;
        const { sumOfSquares, nonFinite } = await norm(values);
        expect(nonFinite).toEqual([1, 3]);
        expect(Number.isFinite(sumOfSquares)).toBe(false);
      }
    },
  );

  test("takes a gradient from the middle of a buffer and leaves the rest alone", async () => {
    using buffer = hostBytes(8000 * 4);
    new Float32Array(buffer.view()).fill(Number.NaN).fill(2, 1001, 4001);
    const part: GradientPart = { buffer, offset: 1001 * 4, elements: 3000 };
    const result = await gradientNorm2([part], { cpu, ledger: new Ledger() });
    expect(result).toEqual({ squares: [12_000], sumOfSquares: 12_000, nonFinite: [] });
  });

  test("of nothing is zero", async () => {
    expect(await norm([])).toEqual({ squares: [], sumOfSquares: 0, nonFinite: [] });
  });

  test("of each is the same alone and among others, however many there are", async () => {
    const values = Array.from({ length: 300 }, (_, i) => gradientValues(1 + ((i * 997) % 5000), i));
    const { squares, sumOfSquares } = await norm(values);
    for (const i of [0, 1, 127, 128, 299]) expect((await norm([values[i]!])).sumOfSquares).toBe(squares[i]);
    expect(sumOfSquares).toBe(squares.reduce((a, b) => a + b));
  });

  test("refuses parts outside their buffer, a full budget, and stops for a signal", async () => {
    using buffer = hostBytes(400);
    const ledger = new Ledger();
    for (const part of [
      { offset: 0, elements: 101 },
      { offset: 2, elements: 1 },
      { offset: -4, elements: 1 },
      { offset: 0, elements: 1.5 },
    ]) {
      await expect(gradientNorm2([{ buffer, ...part }], { cpu, ledger })).rejects.toThrow(ConfigError);
    }
    await expect(norm([weightValues(10)], { ledger: new Ledger({ cpu: 100 }) })).rejects.toThrow(BudgetError);
    await expect(norm([weightValues(10)], { signal: AbortSignal.abort() })).rejects.toThrow(AbortError);
  });
});
