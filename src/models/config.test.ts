import { describe, expect, test } from "vitest";
import { ConfigError } from "../base/errors.ts";
import { RawConfig } from "./config.ts";

const config = new RawConfig({
  hidden_size: 64,
  eps: 1e-5,
  tie: false,
  name: "llama",
  absent: null,
  rope: { theta: 10_000 },
  list: [1],
});

test("values by their kind", () => {
  expect(config.size("hidden_size")).toBe(64);
  expect(config.number("eps")).toBe(1e-5);
  expect(config.positive("eps")).toBe(1e-5);
  expect(config.boolean("tie")).toBe(false);
  expect(config.string("name")).toBe("llama");
  expect(config.raw("list")).toEqual([1]);
});

test("null is absent, and takes the default", () => {
  expect(config.has("absent")).toBe(false);
  expect(config.size("absent", 7)).toBe(7);
  expect(config.boolean("missing", true)).toBe(true);
  expect(config.object("absent")).toBeUndefined();
  expect(() => config.size("absent")).toThrow("config.json: absent is missing");
});

test("a nested object is a config whose errors say where it is", () => {
  expect(config.object("rope")?.number("theta")).toBe(10_000);
  expect(() => config.object("rope")?.number("factor")).toThrow("config.json: rope: factor is missing");
  expect(() => config.object("list")).toThrow("config.json: list: expected an object");
});

describe("what is refused", () => {
  const wrong = (value: unknown) => new RawConfig({ key: value }, "somewhere/config.json");
  test.each([0, -1, 1.5, "64", true, 2 ** 31, [64]])("a size of %j", (value) => {
    expect(() => wrong(value).size("key")).toThrow(ConfigError);
    expect(() => wrong(value).size("key")).toThrow(
      `somewhere/config.json: key is ${JSON.stringify(value)}, expected a whole number from 1 to 2147483647`,
    );
  });
  test("null, where a file must say what it means", () => {
    const strict = new RawConfig({ key: null, rope: { key: null } }, "config.json", "refused");
    expect(() => strict.size("key", 7)).toThrow("config.json: key is null, expected a whole number");
    expect(() => strict.boolean("key", true)).toThrow("config.json: key is null, expected true or false");
    expect(() => strict.object("rope")?.number("key", 1)).toThrow("config.json: rope: key is null");
    expect(strict.size("absent", 7)).toBe(7);
    expect(strict.has("key")).toBe(false);
    expect(strict.names("key")).toBe(true);
  });
  test("a size beyond a limit of its own, be it the default", () => {
    expect(() => wrong(101).size("key", undefined, 100)).toThrow(/from 1 to 100/);
    expect(() => wrong(null).size("key", 101, 100)).toThrow(/from 1 to 100/);
    expect(wrong(100).size("key", undefined, 100)).toBe(100);
  });
  test.each(["1", null, Number.NaN, {}])("a number of %j", (value) => {
    expect(() => wrong(value).number("key")).toThrow(ConfigError);
  });
  test.each([0, -1])("a positive number of %j", (value) => {
    expect(() => wrong(value).positive("key")).toThrow(/expected a number above 0/);
  });
  test.each([0, "false", {}])("true or false of %j", (value) => {
    expect(() => wrong(value).boolean("key")).toThrow(/expected true or false/);
  });
  test.each([0, false, []])("a string of %j", (value) => {
    expect(() => wrong(value).string("key")).toThrow(/expected a string/);
  });
  test.each([null, 7, "text", [], undefined])("a config of %j", (value) => {
    expect(() => new RawConfig(value)).toThrow("config.json: expected an object");
  });
});

test("keys nobody asked for, and sizes that were not there, are remembered", () => {
  const some = new RawConfig({ a: 1, b: null, c: {}, d: 4 });
  some.size("a");
  some.has("b");
  expect(some.unasked()).toEqual(["c", "d"]);
  some.dimension("d", 5);
  some.dimension("e", 6);
  expect(some.defaulted).toEqual(["e 6"]);
  expect(new RawConfig(JSON.parse('{"__proto__": 1}')).unasked()).toEqual(["__proto__"]);
});

test("lists of numbers, of the length that is wanted", () => {
  const lists = new RawConfig({ good: [1, 2.5], zero: [1, 0], text: [1, "2"], one: 3 });
  expect(lists.numbers("good", 2)).toEqual([1, 2.5]);
  for (const [key, length] of [
    ["good", 3],
    ["zero", 2],
    ["text", 2],
    ["one", 1],
  ] as const)
    expect(() => lists.numbers(key, length)).toThrow(`expected a list of ${length} numbers above 0`);
});

test("the element type has an older and a newer name", () => {
  expect(new RawConfig({ torch_dtype: "bfloat16" }).dtype).toBe("bfloat16");
  expect(new RawConfig({ dtype: "float16", torch_dtype: "float32" }).dtype).toBe("float16");
  expect(new RawConfig({}).dtype).toBeUndefined();
  expect(new RawConfig({ dtype: 16 }).dtype).toBeUndefined();
});
