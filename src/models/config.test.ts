import { describe, expect, test } from "vitest";
import { ConfigError } from "../errors.ts";
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
  test.each([0, -1, 1.5, "64", true, 2 ** 31, Number.POSITIVE_INFINITY, [64]])("a size of %j", (value) => {
    expect(() => wrong(value).size("key")).toThrow(ConfigError);
    expect(() => wrong(value).size("key")).toThrow(
      `somewhere/config.json: key is ${JSON.stringify(value)}, expected a whole number from 1 to 2147483647`,
    );
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

test("the element type has an older and a newer name", () => {
  expect(new RawConfig({ torch_dtype: "bfloat16" }).dtype).toBe("bfloat16");
  expect(new RawConfig({ dtype: "float16", torch_dtype: "float32" }).dtype).toBe("float16");
  expect(new RawConfig({}).dtype).toBeUndefined();
  expect(new RawConfig({ dtype: 16 }).dtype).toBeUndefined();
});
