import { expect, test } from "vitest";
import { KNOWN_REGEXES, knownPattern } from "./known-regexes.ts";
import { translated } from "./oniguruma.ts";
import { UnknownRegex } from "./pattern.ts";

test.each(KNOWN_REGEXES)("%s is translated as the translator does", (oniguruma, source, flags) => {
  const made = translated(oniguruma);
  expect([source, flags]).toEqual([made.source, made.flags]);
});

test.each(KNOWN_REGEXES)("%s takes no more than a few steps for each character", (oniguruma) => {
  const { spans } = knownPattern(oniguruma, "");
  for (const unit of [" ", "\n", "a", "A", "aA", "1", "'", "的", "\u0301", " \n", "'S", "!a", "\r\n "]) {
    // Were it the square of the length, it would be 10^10 steps: the test would end by its limit of time.
    const text = unit.repeat(100_000);
    expect(spans(`${text}x`).at(-2)).toBe(text.length + 1);
  }
});

test("any other is not made", () => {
  expect(() => knownPattern("(a+)+$", "")).toThrow(UnknownRegex);
});
