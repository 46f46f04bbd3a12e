// The protocol both runners speak.

import { expect, test } from "vitest";
import { needsLinux, testUnless } from "../../src/base/testing-unproven.ts";
import { count, measurement, promptIds, readBytes, residentMemory } from "./runner.mjs";

test("the standard prompt is the same every time and stays inside the vocabulary", () => {
  const ids = promptIds(500, 512);
  expect(ids).toEqual(promptIds(500, 512));
  expect(Math.min(...ids)).toBeGreaterThanOrEqual(3);
  expect(Math.max(...ids)).toBeLessThan(512);
  expect(new Set(ids).size).toBeGreaterThan(100);
});

test("the first step is the prefill, the others are decode steps", () => {
  const steps = [
    { token: 5, seconds: 2, read: 100 },
    { token: 6, seconds: 0.5, read: 10 },
    { token: 7, seconds: 0.25, read: 0 },
  ];
  const run = { engine: "x", version: "1", load: { seconds: 1, read: 9 }, promptLength: 8 };
  expect(measurement({ ...run, steps })).toMatchObject({
    prefill_tokens_per_s: 4,
    seconds_per_token: [0.5, 0.25],
    read_bytes_per_token: [10, 0],
    tokens: [5, 6, 7],
    load_read_bytes: 9,
  });
  expect(() => measurement({ ...run, steps: [] })).toThrow(/no token/);
});

test("a count that is not a whole number in range is refused by name", () => {
  expect(count({ tokens: "4" }, "tokens", 1)).toBe(4);
  for (const tokens of ["0", "-1", "1.5", "many", undefined])
    expect(() => count({ tokens }, "tokens", 1)).toThrow(/--tokens/);
});

testUnless(needsLinux("/proc"))("memory and reads are those of this process", () => {
  const { rss_bytes, peak_rss_bytes } = residentMemory();
  expect(rss_bytes).toBeGreaterThan(1 << 20);
  expect(peak_rss_bytes).toBeGreaterThanOrEqual(rss_bytes - (1 << 24));
  expect(readBytes()).toBeGreaterThanOrEqual(0);
});
