import { expect, test } from "vitest";
import { tableLines } from "./table.ts";

test("the first column stands left, numbers right, and no line ends in spaces", () => {
  const lines = tableLines([
    ["memory", "used", "peak"],
    ["  weights", "1.2 GiB"],
    ["cpu", "9 B", "12.5 MiB"],
  ]);
  expect(lines).toEqual([
    "memory        used      peak",
    "  weights  1.2 GiB",
    "cpu            9 B  12.5 MiB",
  ]);
});

test("columns stand as they are told to", () => {
  expect(
    tableLines(
      [
        ["a", "long"],
        ["bb", "x"],
      ],
      ["right", "left"],
    ),
  ).toEqual([" a  long", "bb  x"]);
});

test("no rows are no lines", () => {
  expect(tableLines([])).toEqual([]);
});
