import { describe, expect, test } from "vitest";
import { ProgressLine } from "./progress-line.ts";
import { Captured, testIo } from "./testing.ts";

const MiB = 2 ** 20;
const ERASE = "\x1b[K";

/** A line with a clock that is set by hand, in milliseconds. */
function progressLine(terminal: boolean) {
  const stderr: Captured & { isTTY?: boolean; columns?: number } = new Captured();
  if (terminal) Object.assign(stderr, { isTTY: true, columns: 60 });
  const clock = { now: 0 };
  const line = new ProgressLine(testIo(new Captured(), stderr), () => clock.now);
  const at = (ms: number, loaded: number, status: "progress" | "done" = "progress") => {
    clock.now = ms;
    line.update({ status, name: "w", loaded, total: 100 * MiB });
  };
  return { line, stderr, at };
}

describe("ProgressLine", () => {
  test("elsewhere than on a terminal: one line at the start, one at the end", () => {
    const { stderr, at } = progressLine(false);
    for (let i = 1; i <= 100; i++) at(i * 20, i * MiB);
    at(2000, 100 * MiB, "done");
    expect(stderr.text).toBe("loading 100.0 MiB\nloaded 100.0 MiB in 2.0 s  50.0 MiB/s\n");
  });

  test("on a terminal: bytes, rate and time left, redrawn ten times a second at most", () => {
    const { stderr, at } = progressLine(true);
    for (let i = 1; i <= 50; i++) at(i * 20, i * MiB);
    const lines = stderr.text.split("\r").filter((part) => part !== "");
    expect(lines).toHaveLength(10);
    const last = "loading 46.0 MiB of 100.0 MiB  46 %  50.0 MiB/s  1.1 s left";
    expect(lines.at(-1)).toBe(last.slice(0, 59) + ERASE);
    at(2000, 100 * MiB, "done");
    expect(stderr.text.endsWith(`\r${ERASE}loaded 100.0 MiB in 2.0 s  50.0 MiB/s\n`)).toBe(true);
  });

  test("is never wider than the terminal", () => {
    const { stderr, at } = progressLine(true);
    at(5000, MiB);
    for (const part of stderr.text.split("\r")) expect(part.replace(ERASE, "").length).toBeLessThan(60);
  });

  test("end() takes the line away, once", () => {
    const { line, stderr, at } = progressLine(true);
    at(200, MiB);
    const drawn = stderr.text;
    line.end();
    line.end();
    expect(stderr.text).toBe(`${drawn}\r${ERASE}`);
  });

  test("bytes that are read twice, to convert them first, are two loads with a rate each", () => {
    const { stderr, at } = progressLine(false);
    at(1000, 100 * MiB);
    at(1500, 10 * MiB);
    at(2500, 100 * MiB, "done");
    expect(stderr.text).toBe(
      "loading 100.0 MiB\nloading 100.0 MiB\nloaded 100.0 MiB in 1.0 s  100.0 MiB/s\n",
    );
  });
});
