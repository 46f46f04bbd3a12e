import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ConfigError } from "../base/errors.ts";
import { formatBudget, formatBytes, formatCount, formatDuration, formatRate, parseSize } from "./sizes.ts";

describe("parseSize", () => {
  test.each([
    ["6GiB", 6 * 2 ** 30],
    ["500MB", 500_000_000],
    ["1.5 gib", 1.5 * 2 ** 30],
    [" .5 KiB ", 512],
    ["3tb", 3e12],
    ["4096", 4096],
    ["12 B", 12],
    [1_000_000, 1_000_000],
    [0, 0],
    ["0.3KiB", 307],
  ])("%j is %i bytes", (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  test("a percentage is of the whole, where there is one", () => {
    expect(parseSize("50%", "max_memory.cpu", 1001)).toBe(500);
    expect(() => parseSize("50%", "max_memory.cpu")).toThrow(ConfigError);
    expect(() => parseSize("150%", "max_memory.cpu", 1000)).toThrow(/percentage up to 100/);
  });

  test.each([
    "",
    "big",
    "-1GiB",
    "6 GiB extra",
    "1e9x",
    "GiB",
    "1.2.3MB",
    -1,
    Number.NaN,
    null,
    undefined,
    {},
    [1],
    true,
  ])("%j is refused, naming the option and what it takes", (value) => {
    expect(() => parseSize(value, "max_memory.gpu")).toThrow(ConfigError);
    expect(() => parseSize(value, "max_memory.gpu")).toThrow(/max_memory\.gpu: .*KiB, MiB, GiB/);
  });

  test("a size nobody can count is refused", () => {
    expect(() => parseSize("9000 TiB")).toThrow(/more than can be counted/);
    expect(() => parseSize(Number.POSITIVE_INFINITY)).toThrow(/more than can be counted/);
  });

  test("an ambiguous unit is asked back, not guessed", () => {
    expect(() => parseSize("6g", "--cpu")).toThrow('did you mean "6GiB" or "6GB"?');
  });
});

describe("formatting", () => {
  test.each([
    [0, "0 B"],
    [1023, "1023 B"],
    [1024, "1.0 KiB"],
    [1024 * 1024 - 1, "1.0 MiB"],
    [21.4 * 2 ** 30, "21.4 GiB"],
    [5000 * 2 ** 40, "5000.0 TiB"],
    [-1536, "-1.5 KiB"],
    [Number.POSITIVE_INFINITY, "unlimited"],
  ])("%d bytes are %s", (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });

  test("rates and counts", () => {
    expect(formatRate(1.9 * 2 ** 30)).toBe("1.9 GiB/s");
    expect(formatCount(345e6)).toBe("345.0 M");
    expect(formatCount(512)).toBe("512");
    expect(formatCount(999_999)).toBe("1.0 M");
    expect(formatCount(7.24e9)).toBe("7.2 B");
  });

  test.each([
    [0, "0 s"],
    [0.000085, "85 µs"],
    [0.35, "350 ms"],
    [0.9999, "1.0 s"],
    [2.14, "2.1 s"],
    [59.97, "1 min 00 s"],
    [185, "3 min 05 s"],
    [3599.7, "1 h 00 min"],
    [3720, "1 h 02 min"],
    [51 * 3600, "2 d 03 h"],
    [-2, "-2.0 s"],
  ])("%d seconds are %s", (seconds, text) => {
    expect(formatDuration(seconds)).toBe(text);
  });

  test("a budget as printed is never less than the bytes it was printed for, nor much more", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 50 }), (bytes) => {
        const typed = parseSize(formatBudget(bytes));
        expect(typed).toBeGreaterThanOrEqual(bytes);
        expect(typed).toBeLessThanOrEqual(bytes * 1.21 + 1);
      }),
    );
    expect(formatBudget(7.04 * 2 ** 30)).toBe("7.1GiB");
  });
});
