import { describe, expect, test } from "vitest";
import { ConfigError } from "../base/errors.ts";
import { fullMatches, matchGroups } from "./patterns.ts";

const matches = (pattern: string, key: string) => fullMatches(pattern, [key], "config").has(key);

describe("patterns of Python", () => {
  test.each<[string, string, boolean]>([
    // the whole key must match
    [".*q_proj", "layers.0.q_proj", true],
    ["q_proj", "layers.0.q_proj", false],
    ["a|b.c", "b.c", true],
    ["a|b.c", "a.c", false],
    ["", "", true],
    // the same in both languages
    [String.raw`.*\.(q|v)_proj`, "0.v_proj", true],
    [String.raw`layers\.\d{1,2}\..*`, "layers.12.mlp", true],
    ["(?:a|b)+(?=c)c", "abc", true],
    [String.raw`.*\_proj\.x`, "q_proj.x", true],
    // only in Python
    [String.raw`\Amodel.*\Z`, "model.x", true],
    ["(?P<side>[qk])_(?P=side)", "q_q", true],
    ["(?P<side>[qk])_(?P=side)", "q_k", false],
    ["(?i)MODEL", "model", true],
    ["a(?#a comment)b", "ab", true],
    ["a{,2}", "aa", true],
    ["a{,2}", "aaa", false],
    ["[]x]", "]", true],
    ["[^]x]", "]", false],
    [String.raw`[\]\-.]+`, "]-.", true],
    [String.raw`\[\(\{,1\}`, "[({,1}", true],
  ])("%s against %s: %s", (pattern, key, expected) => {
    expect(matches(pattern, key)).toBe(expected);
  });

  test("named groups", () => {
    const found = matchGroups(String.raw`.*?\.(?P<layer>\d+)\..*`, ["h.1.x.2.y", "h.x", "a.30.b"], "config");
    expect([...found].map(([key, { layer }]) => [key, layer])).toEqual([
      ["h.1.x.2.y", "1"],
      ["a.30.b", "30"],
    ]);
  });

  test.each<[string, RegExp]>([
    ["(a", /is not a regular expression/],
    ["*a", /is not a regular expression/],
    [String.raw`\pL`, /"\\\\p", which is not supported/],
    ["a\\", /not supported/],
    ["(?x)a", /the flag "x"/],
    ["(?>a)b", /"\(\?>"/],
    ["(a)?(?(1)b)", /"\(\?\("/],
  ])("%s is refused", (pattern, message) => {
    expect(() => matches(pattern, "a")).toThrow(ConfigError);
    expect(() => matches(pattern, "a")).toThrow(message);
    expect(() => matches(pattern, "a")).toThrow(/^config: the pattern/);
  });

  test("a pattern that would never come to an end is stopped", () => {
    expect(() => matches("(a+)+b", "a".repeat(60))).toThrow(/takes too long to match/);
  });
});
