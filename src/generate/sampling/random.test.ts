import { describe, expect, test } from "vitest";
import { Xoshiro128 } from "./random.ts";

describe("Xoshiro128", () => {
  // Printed by the authors' C code, seeded as the class comment says.
  test.each([
    [0, [3809008728, 1133695204, 53579671, 2891528803, 139681546]],
    [42, [2837322924, 544945897, 479756282, 3500138142, 339756180]],
    [2 ** 32 - 1, [835879718, 1921286648, 2356205009, 1885780724, 980451116]],
    [2 ** 32 + 1, [3005429052, 647082168, 1470198332, 1989636915, 2272527378]],
    [Number.MAX_SAFE_INTEGER, [2818521692, 2816829215, 808817163, 1138062339, 1526836204]],
  ])("gives the reference implementation's numbers for seed %d", (seed, expected) => {
    const random = new Xoshiro128(seed);
    expect(expected.map(() => random.uint32())).toEqual(expected);
  });

  test("has a state for seeds whose halves are equal", () => {
    // Seeding both halves alike and combining them could cancel to the all-zero state, which only gives zeros.
    for (const half of [1, 7, 2 ** 20]) {
      const random = new Xoshiro128(half * 2 ** 32 + half);
      expect([random.uint32(), random.uint32(), random.uint32()].some((x) => x !== 0)).toBe(true);
    }
  });

  test("uniform numbers fill [0, 1) evenly", () => {
    const random = new Xoshiro128(1);
    const buckets = new Array<number>(10).fill(0);
    for (let i = 0; i < 20_000; i++) {
      const x = random.uniform();
      expect(x >= 0 && x < 1).toBe(true);
      buckets[Math.floor(x * 10)]!++;
    }
    // 2000 expected in each, standard deviation 42
    for (const count of buckets) expect(Math.abs(count - 2000)).toBeLessThan(200);
  });
});
