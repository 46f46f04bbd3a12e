import { stripVTControlCharacters } from "node:util";
import { describe, expect, test } from "vitest";
import type { TrainingRecord } from "../../report/training-log.ts";
import { Captured, testIo } from "../testing.ts";
import { TrainingLine } from "./train-progress.ts";

const record = (step: number, more: Partial<TrainingRecord> = {}): TrainingRecord => ({
  ...{ step, epoch: 0.1, loss: 2, grad_norm: 1, learning_rate: 1e-4, tokens: 64 * step },
  ...{ tokens_per_second: 64, seconds: 1, elapsed: step, stalled: { disk: 0, copy: 0, optimizer: 0 } },
  ...{ read_bytes: 0, written_bytes: 0, ...more },
});

function lineOn({ terminal = false, every }: { terminal?: boolean; every?: number } = {}) {
  const stderr: Captured & { isTTY?: boolean; columns?: number } = new Captured();
  if (terminal) Object.assign(stderr, { isTTY: true, columns: 60 });
  const clock = { now: 0 };
  const line = new TrainingLine(testIo(new Captured(), stderr), every, () => clock.now);
  return { line, stderr, clock };
}

const steps = (text: string) => [...text.matchAll(/step (\d+)\//g)].map((match) => Number(match[1]));

describe("where stderr is no terminal", () => {
  test("the first step, every so many, the last, and those that were evaluated have a line", () => {
    const { line, stderr } = lineOn({ every: 4 });
    for (let step = 1; step <= 10; step++) line.step(record(step, step === 6 ? { eval_loss: 3 } : {}), 10);
    line.end();
    expect(steps(stderr.text)).toEqual([1, 4, 6, 8, 10]);
    expect(stderr.text).toContain("step 6/10  loss 2.000  eval 3.000");
    for (const control of ["\r", "\x1b"]) expect(stderr.text).not.toContain(control);
  });

  test("the last evaluation stays, with its step", () => {
    const { line, stderr } = lineOn({ every: 1 });
    for (let step = 1; step <= 3; step++) line.step(record(step, step === 2 ? { eval_loss: 3 } : {}), 10);
    expect(stderr.text).toContain("step 2/10  loss 2.000  eval 3.000  ");
    expect(stderr.text).toContain("step 3/10  loss 2.000  eval 3.000 at 2");
  });

  test("a long run has some 50 lines", () => {
    const { line, stderr } = lineOn();
    for (let step = 1; step <= 1000; step++) line.step(record(step), 1000);
    expect(steps(stderr.text)).toHaveLength(51);
  });

  test("the time left is judged by the last steps together", () => {
    const { line, stderr } = lineOn({ every: 1 });
    for (const [i, seconds] of [1, 3].entries()) line.step(record(i + 1, { seconds }), 12);
    expect(stderr.text).toContain("20.0 s left");
  });
});

describe("on a terminal", () => {
  test("one line is redrawn, not more than ten times a second; its last state stays", () => {
    const { line, stderr, clock } = lineOn({ terminal: true });
    for (let step = 1; step <= 10; step++, clock.now += 40) line.step(record(step), 10);
    line.end();
    line.end();
    expect(steps(stderr.text)).toEqual([1, 4, 7, 10]);
    expect(stderr.text.endsWith("\x1b[K\n")).toBe(true);
    const drawn = stripVTControlCharacters(stderr.text).split("\r");
    for (const line of drawn) expect(line.trimEnd().length).toBeLessThan(60);
  });

  test("a note stands above it", () => {
    const { line, stderr } = lineOn({ terminal: true });
    line.step(record(1), 10);
    const drawn = stderr.text;
    line.note("saved x");
    expect(stderr.text).toBe(`${drawn}\r\x1b[Ksaved x\n${drawn.slice(1)}`);
  });
});
