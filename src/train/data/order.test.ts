import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ConfigError } from "../../base/errors.ts";
import { GROUP_CACHE_BYTES } from "./files/parquet.ts";
import { epochOrder, Permutation, validationSplit } from "./order.ts";

const upTo = (n: number) => Array.from({ length: n }, (_, i) => i);
const sorted = (numbers: readonly number[]) => [...numbers].sort((a, b) => a - b);

describe("Permutation", () => {
  test("gives every number once, whatever the size", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 300 }), fc.array(fc.nat(), { minLength: 1 }), (size, key) => {
        const permutation = new Permutation(size, key);
        expect(sorted(upTo(size).map((i) => permutation.at(i)))).toEqual(upTo(size));
      }),
    );
  });

  test("every number comes to every place about equally often", () => {
    const size = 20;
    const keys = 4000;
    const counts = new Float64Array(size * size);
    for (let key = 0; key < keys; key++) {
      const permutation = new Permutation(size, [key]);
      for (let i = 0; i < size; i++) counts[i * size + permutation.at(i)]! += 1;
    }
    const expected = keys / size;
    const chiSquared = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
    // 19 * 19 = 361 degrees of freedom: standard deviation 27
    expect(chiSquared).toBeGreaterThan(361 - 4 * 27);
    expect(chiSquared).toBeLessThan(361 + 4 * 27);
  });

  test("neighbours part: of 10,000 pairs about one stays together", () => {
    const permutation = new Permutation(10_000, [3]);
    const order = upTo(10_000).map((i) => permutation.at(i));
    expect(order.filter((row, i) => order[i + 1] === row + 1).length).toBeLessThan(8);
  });

  test("sizes past 32 bits", () => {
    const permutation = new Permutation(2 ** 40 + 1, [1]);
    const places = upTo(100).map((i) => permutation.at(i));
    expect(new Set(places).size).toBe(100);
    expect(Math.max(...places)).toBeGreaterThan(2 ** 36);
    for (const place of places) expect(place).toBeLessThanOrEqual(2 ** 40);
  });
});

describe("epochOrder", () => {
  const order = (options: Partial<Parameters<typeof epochOrder>[0]>, epoch: number, rows = 50) =>
    upTo(rows).map(epochOrder({ rows, groups: undefined, seed: 1, shuffle: true, ...options }, epoch));

  test("without shuffling, the order of the files in every epoch", () => {
    expect(order({ shuffle: false }, 3)).toEqual(upTo(50));
  });

  test("the same for the same seed and epoch, another for another", () => {
    expect(order({}, 0)).toEqual(order({}, 0));
    expect(order({}, 1)).not.toEqual(order({}, 0));
    expect(order({ seed: 2 }, 0)).not.toEqual(order({}, 0));
    expect(order({ seed: 2 ** 32 + 1 }, 0)).not.toEqual(order({}, 0)); // high bits count
  });

  test("rows in groups: all rows, and a window's groups are used up before the next window's", () => {
    // Two groups fill a window, so that windows are pairs of groups of 10 rows.
    const groups = upTo(6).map(() => ({ rows: 10, bytes: GROUP_CACHE_BYTES / 2 }));
    const rows = order({ groups }, 0, 60);
    expect(sorted(rows)).toEqual(upTo(60));
    for (const window of [0, 1, 2]) {
      const used = rows.slice(window * 20, window * 20 + 20).map((row) => Math.floor(row / 10));
      expect(new Set(used).size).toBe(2);
      expect(new Set(used.slice(0, 8)).size).toBe(2); // both from the beginning, not one after the other
    }
    expect(order({ groups }, 1, 60)).not.toEqual(rows);
  });

  test("groups without rows, and one larger than a window", () => {
    const sizes = [0, 3, 0, 4, 0];
    const groups = sizes.map((rows, i) => ({ rows, bytes: i === 3 ? 5 * GROUP_CACHE_BYTES : 1 }));
    for (const epoch of upTo(10)) expect(sorted(order({ groups }, epoch, 7))).toEqual(upTo(7));
  });
});

describe("validationSplit", () => {
  const chosen = (rows: number, size: number, seed = 0) =>
    upTo(rows).filter(validationSplit(rows, size, seed));

  test("a share is met about, and stays when rows are added", () => {
    const few = chosen(1000, 0.1);
    expect(few.length).toBeGreaterThan(70);
    expect(few.length).toBeLessThan(130);
    expect(chosen(5000, 0.1).filter((row) => row < 1000)).toEqual(few);
  });

  test("a count is met exactly, whatever the numbers", () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 400 }), fc.nat(), fc.nat(), (rows, n, seed) => {
        const count = 1 + (n % (rows - 1));
        expect(chosen(rows, count, seed)).toHaveLength(count);
      }),
    );
  });

  test("another seed chooses others; 0 chooses none", () => {
    expect(chosen(1000, 20, 1)).not.toEqual(chosen(1000, 20, 2));
    expect(chosen(1000, 0)).toEqual([]);
  });

  test.each([-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 10, 11])("refuses %s of 10 rows", (size) => {
    expect(() => validationSplit(10, size, 0)).toThrow(ConfigError);
  });
});
