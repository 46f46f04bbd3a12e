import { expect, test } from "vitest";
import { Captured } from "../testing.ts";
import { PromptLine } from "./prompt-line.ts";

function terminal(isTTY: boolean) {
  const stderr: Captured & { isTTY?: boolean; columns?: number } = new Captured();
  stderr.isTTY = isTTY;
  let time = 0;
  const line = new PromptLine({ stderr }, () => time);
  return {
    line,
    stderr,
    at: (ms: number) => {
      time = ms;
      line.draw();
    },
  };
}

test("a prompt that takes longer than half a second is seen being read, and the line goes with the answer", () => {
  const { line, stderr, at } = terminal(true);
  line.begin();
  line.update({ processed: 100, total: 1000 });
  at(499);
  expect(stderr.text).toBe("");
  at(1000);
  expect(stderr.text).toBe("\rreading the prompt: 100 of 1000 tokens  100 tokens/s  9.0 s left\x1b[K");
  line.end();
  line.end();
  expect(stderr.text.endsWith("\x1b[K\r\x1b[K")).toBe(true);
  at(2000);
  expect(stderr.text.split("\r")).toHaveLength(3); // nothing more
});

test("before the first figure it says what it does, and a narrow terminal gets a short line", () => {
  const { line, stderr, at } = terminal(true);
  Object.assign(stderr, { columns: 12 });
  line.begin();
  at(600);
  expect(stderr.text).toBe("\rreading the\x1b[K");
  line.end();
});

test("where nobody sits nothing is written", () => {
  const { line, stderr, at } = terminal(false);
  line.begin();
  line.update({ processed: 1, total: 2 });
  at(5000);
  line.end();
  expect(stderr.text).toBe("");
});
