import { describe, expect, it } from "vitest";
import { JsonSyntaxError, parseJson } from "./json.ts";

describe("parseJson", () => {
  it("reads JSON", () => {
    expect(parseJson('{"a": [1, "]]]]", {"b": "\\"[[["}]}')).toEqual({ a: [1, "]]]]", { b: '"[[[' }] });
  });

  it("refuses values that nest too deeply, wherever they are", () => {
    expect(parseJson("[".repeat(128) + "]".repeat(128))).toBeDefined();
    expect(() => parseJson("[".repeat(129) + "]".repeat(129))).toThrow(
      "nests deeper than 128 levels at character 128",
    );
    expect(() => parseJson(`{"a": ${'{"b":'.repeat(20_000)}1${"}".repeat(20_000)}}`)).toThrow(
      JsonSyntaxError,
    );
  });

  it("does not count brackets inside strings, escaped quotes included", () => {
    expect(parseJson(JSON.stringify(["[".repeat(1000), '"['.repeat(1000), "\\"]))).toHaveLength(3);
  });

  it("says what is wrong without control characters of the text", () => {
    expect(() => parseJson('{"a": \u001b]0;t\u0007}')).toThrow(JsonSyntaxError);
    try {
      parseJson('{"a": \u001b]0;t\u0007}');
    } catch (error) {
      expect((error as Error).message).not.toContain("\u001b");
    }
  });
});
