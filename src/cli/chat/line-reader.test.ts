import { PassThrough } from "node:stream";
import { describe, expect, test } from "vitest";
import type { Io } from "../io.ts";
import { Captured } from "../testing.ts";
import { LineReader } from "./line-reader.ts";

/** A terminal at which a test types. */
function terminal() {
  const stdin: PassThrough & { isTTY?: boolean } = new PassThrough();
  stdin.isTTY = true;
  const stderr: Captured & { isTTY?: boolean } = new Captured();
  stderr.isTTY = true;
  const interrupts: { cleared: boolean; again: boolean }[] = [];
  const controller = new AbortController();
  const io: Io = { stdin, stdout: new Captured(), stderr, signal: controller.signal };
  const reader = new LineReader(io, "> ", (how) => interrupts.push(how));
  /** Types, and waits until it has been seen. */
  const type = async (text: string) => {
    stdin.write(text);
    for (let i = 0; i < 4; i++) await new Promise(setImmediate);
  };
  return { reader, type, stdin, stderr, interrupts };
}

const PASTE = (text: string) => `\x1b[200~${text}\x1b[201~`;

describe("at a terminal", () => {
  test("a line is a turn", async () => {
    const { reader, type } = terminal();
    await type("hello\r");
    expect(await reader.next()).toBe("hello");
    await type("again\r");
    expect(await reader.next()).toBe("again");
    reader.close();
    expect(await reader.next()).toBeUndefined();
  });

  test("pasted lines are one turn, with what is typed after them, once Enter is pressed", async () => {
    const { reader, type } = terminal();
    await type(PASTE("def f():\r  return 1\r"));
    const turn = reader.next();
    await type(" # what is it?\r");
    expect(await turn).toBe("def f():\n  return 1\n # what is it?");
    await type(PASTE("one\rtwo"));
    await type("\r");
    expect(await reader.next()).toBe("one\ntwo");
    reader.close();
  });

  test("lines that come in one piece are one turn where the terminal does not mark pastes", async () => {
    const { reader, type } = terminal();
    await type("one\rtwo\rthree\r");
    expect(await reader.next()).toBe("one\ntwo\nthree");
    reader.close();
  });

  test("commands stand alone however they are typed", async () => {
    const { reader, type } = terminal();
    await type("one\rtwo\r/reset\rthree\r/exit\r");
    expect([await reader.next(), await reader.next(), await reader.next(), await reader.next()]).toEqual([
      "one\ntwo",
      "/reset",
      "three",
      "/exit",
    ]);
    reader.close();
  });

  test("Ctrl-C clears what was typed, wherever the cursor is, and what was pasted", async () => {
    const { reader, type, interrupts } = terminal();
    await type("half a thought\x1b[D\x1b[D\x03");
    await type("whole\r");
    expect(await reader.next()).toBe("whole");
    await type(`${PASTE("one\rtwo")}\x03`);
    await type("three\r");
    expect(await reader.next()).toBe("three");
    expect(interrupts).toEqual([
      { cleared: true, again: false },
      { cleared: true, again: false },
    ]);
    reader.close();
  });

  test("two in a row are told apart from two with a key between them", async () => {
    const { reader, type, interrupts } = terminal();
    await type("\x03\x03");
    await type("x");
    await type("\x03");
    expect(interrupts).toEqual([
      { cleared: false, again: false },
      { cleared: false, again: true },
      { cleared: true, again: false },
    ]);
    reader.close();
  });

  test("asks the terminal to mark pastes, and takes that back", async () => {
    const { reader, stderr } = terminal();
    expect(stderr.text).toContain("\x1b[?2004h");
    reader.close();
    reader.close();
    expect(stderr.text.split("\x1b[?2004l")).toHaveLength(2);
  });

  test("an end of the input ends the turn that was begun", async () => {
    const { reader, type, stdin } = terminal();
    await type("last\r");
    stdin.end();
    expect(await reader.next()).toBe("last");
    expect(await reader.next()).toBeUndefined();
  });
});

test("in a pipe every line is a turn, and nothing is written", async () => {
  const stdin = new PassThrough();
  const stderr = new Captured();
  const io: Io = { stdin, stdout: new Captured(), stderr, signal: new AbortController().signal };
  const reader = new LineReader(io, "> ", () => {});
  stdin.end("one\ntwo\n\nthree");
  expect([await reader.next(), await reader.next(), await reader.next(), await reader.next()]).toEqual([
    "one",
    "two",
    "",
    "three",
  ]);
  expect(await reader.next()).toBeUndefined();
  expect(stderr.text).toBe("");
});
