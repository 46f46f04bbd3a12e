// The rule that says which products go outside the tensor library, and the file that keeps what was measured.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { temporaryFolder } from "../../formats/testing.ts";
import { chooseArithmetic, keepLimits, LEAST_MATRIX, limitsFile, readLimits } from "./choice.ts";

const rule = { limits: { bf16: 16, f32: 8, q8_0: 64, q4_0: null }, hasBf16: true } as const;
const large = [4096, 4096] as const;

test("a type goes there from as many columns on as were measured", () => {
  expect(chooseArithmetic(rule, "result", "bf16", 15, ...large)).toBeUndefined();
  expect(chooseArithmetic(rule, "result", "bf16", 16, ...large)).toBe("bf16");
  expect(chooseArithmetic(rule, "input-gradient", "f32", 8, ...large)).toBe("f32");
});

test("types that were found slower or not measured stay", () => {
  expect(chooseArithmetic(rule, "result", "q4_0", 512, ...large)).toBeUndefined();
  expect(chooseArithmetic(rule, "result", "q6_k", 512, ...large)).toBeUndefined();
  expect(chooseArithmetic(rule, "result", "i32", 512, ...large)).toBeUndefined();
});

test("quantized weights become bf16 where the processor has it, f16 always f32", () => {
  expect(chooseArithmetic(rule, "result", "q8_0", 64, ...large)).toBe("bf16");
  const f16 = { limits: { f16: 16 } };
  expect(chooseArithmetic({ ...f16, hasBf16: true }, "result", "f16", 64, ...large)).toBe("f32");
  expect(chooseArithmetic({ ...rule, hasBf16: false }, "result", "bf16", 64, ...large)).toBe("f32");
});

test("small matrices and little work stay, whatever their type", () => {
  expect(LEAST_MATRIX).toBe(256 * 256);
  expect(chooseArithmetic(rule, "result", "f32", 100_000, 256, 255)).toBeUndefined();
  expect(chooseArithmetic(rule, "result", "f32", 511, 256, 256)).toBeUndefined(); // 2^25 less a column
  expect(chooseArithmetic(rule, "result", "f32", 512, 256, 256)).toBe("f32");
  expect(chooseArithmetic(rule, "result", "f32", 512, 32, 65_536)).toBeUndefined();
});

test("without limits everything goes there that can", () => {
  const all = { limits: undefined, hasBf16: true };
  expect(chooseArithmetic(all, "result", "q6_k", 1, 16, 256)).toBe("bf16");
  // A row that the scratch for unpacking cannot hold sixteen times.
  expect(chooseArithmetic(all, "result", "q6_k", 1, 16, 20_480)).toBeUndefined();
  expect(chooseArithmetic(all, "result", "bf16", 1, 16, 20_480)).toBe("bf16");
});

test("limits are kept by machine, and added to", () => {
  const file = join(temporaryFolder(), "cache", "products.json");
  expect(readLimits("a", file)).toEqual({});
  keepLimits("a", { f32: 8 }, file);
  keepLimits("b", { f32: 64 }, file);
  keepLimits("a", { bf16: null }, file);
  expect(readLimits("a", file)).toEqual({ f32: 8, bf16: null });
  expect(readLimits("b", file)).toEqual({ f32: 64 });
  expect(JSON.parse(readFileSync(file, "utf8"))).toHaveProperty("b");
});

test.each(["", "[]", "null", '{"a": 5}', '{"a": {"f32": "8", "bf16": -1, "nonsense": 8}}'])(
  "a file that holds %j has no limits",
  (text) => {
    const file = join(temporaryFolder(), "products.json");
    writeFileSync(file, text);
    expect(readLimits("a", file)).toEqual({});
  },
);

test("a file that cannot be written is done without", () => {
  const file = join(temporaryFolder(), "products.json");
  mkdirSync(file);
  expect(() => keepLimits("a", { f32: 8 }, file)).not.toThrow();
  expect(existsSync(`${file}.${process.pid}`)).toBe(false);
});

test("it is in the user's cache", () => {
  expect(limitsFile({ XDG_CACHE_HOME: "/there" })).toBe("/there/spillway/products.json");
  expect(limitsFile({})).toMatch(/\.cache.spillway.products\.json$/);
});
