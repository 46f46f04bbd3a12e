import { expect, test } from "vitest";
import { counted, joinNotes, listed } from "./notes.ts";

test("notes of several readers become one list in which each stands once", () => {
  expect(joinNotes(["a", "b"], undefined, ["b", "c"], [])).toEqual(["a", "b", "c"]);
  expect(joinNotes()).toEqual([]);
});

test("notes are lines that a terminal does not obey", () => {
  expect(joinNotes(["ignored \u001b[31mred\nand more"])).toEqual(["ignored \\u001b[31mred and more"]);
  expect(joinNotes(["a".repeat(5000)])[0]?.length).toBeLessThan(1100);
});

test.each([
  [[], ""],
  [["a"], "a"],
  [["a", "b"], "a and b"],
  [["a", "b", "c", "d"], "a, b, c and d"], // one more name is no longer than "and 1 more"
  [["a", "b", "c", "d", "e"], "a, b, c and 2 more"],
])("names %j are listed as %j", (names, text) => {
  expect(listed(names)).toBe(text);
});

test("counts agree with their noun", () => {
  expect([0, 1, 2].map((n) => counted(n, "tensor"))).toEqual(["0 tensors", "1 tensor", "2 tensors"]);
});
