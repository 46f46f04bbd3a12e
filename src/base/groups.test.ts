import { expect, test } from "vitest";
import { inGroups } from "./groups.ts";

test.each([
  [[], 10, []],
  [[3, 3, 3, 3], 10, [[3, 3, 3], [3]]],
  [[5, 5, 1], 10, [[5, 5], [1]]],
  [[20, 1, 1], 10, [[20], [1, 1]]], // one that needs more has a group of its own
  [[1, 20, 1], 10, [[1], [20], [1]]],
  [[1, 20, 1], Number.POSITIVE_INFINITY, [[1, 20, 1]]],
])("%j in groups of at most %d: %j", (sizes, limit, groups) => {
  expect(inGroups(sizes, limit, (bytes) => bytes)).toEqual(groups);
});
