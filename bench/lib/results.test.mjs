// The arithmetic behind every number the benches print.
import { expect, test } from "vitest";
import { agreement, median, round, spread, table, withRange } from "./results.mjs";

test("a median is the middle value, or the mean of the two in the middle", () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(median([10, 1, 4, 2])).toBe(3);
  expect(median([])).toBeNaN();
});

test("numbers are rounded to significant digits and never written with an exponent", () => {
  expect(round(0.012345)).toBe("0.0123");
  expect(round(1.2345)).toBe("1.23");
  expect(round(123456)).toBe("123456");
  expect(round(0)).toBe("0.00");
  expect(round(undefined)).toBe("-");
  expect(round(Number.NaN)).toBe("-");
});

test("a range is shown when there is more than one value", () => {
  expect(withRange(spread([1, 2, 4]))).toBe("2.00 (1.00-4.00)");
  expect(withRange(spread([2]))).toBe("2.00");
  expect(withRange(spread([]))).toBe("-");
});

test("agreement counts the tokens before the first that differs", () => {
  expect(agreement([1, 2, 3], [1, 2, 3])).toBe("3 of 3");
  expect(agreement([1, 2, 3], [1, 9, 3])).toBe("1 of 3");
  expect(agreement([1], undefined)).toBeUndefined();
});

test("a table aligns its columns and marks what is missing", () => {
  expect(table([{ engine: "a", speed: 10 }, { engine: "longer" }])).toBe(
    "engine  speed\na       10\nlonger  -",
  );
});
