// Errors are told apart by class, by code and by name. Names are written out, because bundlers shorten those of classes.
import { expect, test } from "vitest";
import * as errors from "./errors.ts";
import { AbortError, BudgetError, CleanupError, DisposedError, IoError, SpillwayError } from "./errors.ts";

test("each class has the name it is exported by", () => {
  const numbers = { tier: "cpu", needed: 2, budget: 1 } as const;
  const made: Record<string, SpillwayError> = {
    CleanupError: new CleanupError([new Error("x"), new Error("y")]),
    BudgetError: new BudgetError("x", numbers),
    DisposedError: new DisposedError("x"),
    AbortError: new AbortError(),
    IoError: new IoError("x", "/file"),
  };
  for (const [name, value] of Object.entries(errors)) {
    if (!/Error$/.test(name) || value === (SpillwayError as unknown)) continue;
    const error = made[name] ?? new (value as unknown as new (message: string) => SpillwayError)("x");
    expect(error.name).toBe(name);
  }
});

test("a class that was renamed keeps its name as an error", () => {
  const Short = { a: class extends errors.ConfigError {} }.a;
  expect(Short.name).toBe("a");
  expect(new Short("x").name).toBe("ConfigError");
});

test("the base stands for itself", () => {
  expect(new SpillwayError("graph", "x").name).toBe("SpillwayError");
});
