// Every C function that is declared is called: what is not would be bound, and have to be there, for nothing.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

const HERE = import.meta.dirname;
const DECLARATIONS = "declarations.ts";
const declared = [...readFileSync(join(HERE, DECLARATIONS), "utf8").matchAll(/^ {2}(ggml_\w+): "/gm)].map(
  ([, name]) => name as string,
);
const backend = readdirSync(HERE, { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".ts") && file !== DECLARATIONS && !file.endsWith("declarations.test.ts"))
  .map((file) => readFileSync(join(HERE, file), "utf8"))
  .join("\n");

test("the table is found", () => {
  expect(declared.length).toBeGreaterThan(80);
  expect(declared).toContain("ggml_mul_mat");
});

test.each(declared)("%s", (name) => {
  // Operations of one kind are called by what follows "ggml_", native[`ggml_${op}`], which their type lists.
  const listed = `([|:=]\\s*|UNARY = \\[[^\\]]*)"${name.replace("ggml_", "")}"`;
  expect(new RegExp(`\\b${name}\\b|${listed}`).test(backend)).toBe(true);
});
