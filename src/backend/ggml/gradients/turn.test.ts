import { describe, expect, test } from "vitest";
import type { Graph } from "../ops.ts";
import type { Tensor } from "../tensor.ts";
import { expectGives, Grid } from "../testing.ts";
import { onCpu } from "./testing.ts";
import { sumSize, turn, turnFilled } from "./turn.ts";

/** Numbers that are all different, so that a misplaced one is found. */
const counted = (...dims: number[]) => {
  let next = 0;
  return new Grid(dims, () => ++next);
};
const given = (a: Grid) => ({ a: { dims: [...a.dims], values: Float32Array.from(a.values) } });

const SHAPES = [
  { what: "whole runs", dims: [64, 7] },
  { what: "an odd number of runs", dims: [48, 5] },
  { what: "a single run", dims: [16, 9] },
  { what: "rows that are no whole runs", dims: [40, 6] },
  { what: "one column", dims: [32, 1] },
  { what: "several matrices", dims: [32, 5, 3] },
  { what: "matrices in two dimensions", dims: [32, 5, 2, 3] },
] as const;

describe("turning exchanges rows and columns exactly", () => {
  test.each(SHAPES)("$what: $dims", ({ dims }) =>
    onCpu((device) => {
      const a = counted(...dims);
      const [k, n, b, d] = a.dims;
      const expected = new Grid([n, k, b, d], ([i, j, ...rest]) => a.at(j, i, ...rest));
      return expectGives(device, given(a), (g, t) => turn(g, t.a as Tensor), expected, 0);
    }),
  );

  test("of rows that lie apart", () =>
    onCpu((device) => {
      const a = counted(80, 6);
      const window = (g: Graph, t: Tensor) => g.view(t, [64, 6], [t.nb[1]], 8 * 4);
      const expected = new Grid([6, 64], ([i, j]) => a.at(j + 8, i));
      return expectGives(device, given(a), (g, t) => turn(g, window(g, t.a as Tensor)), expected, 0);
    }));
});

describe("what a product sums over", () => {
  test.each(SHAPES)("is filled up with zeros: $what", ({ dims }) =>
    onCpu((device) => {
      const a = counted(...dims);
      const [k, n, b, d] = a.dims;
      const expected = new Grid([n + 3, k, b, d], ([i, j, ...rest]) => (i < n ? a.at(j, i, ...rest) : 0));
      return expectGives(device, given(a), (g, t) => turnFilled(g, t.a as Tensor, n + 3), expected, 0);
    }),
  );

  test("to whole vectors, where it is more than one", () =>
    onCpu(async (device) => {
      const g = { device } as Graph;
      expect([1, 16, 17, 255, 256].map((size) => sumSize(g, size))).toEqual([1, 16, 32, 256, 256]);
    }));
});
