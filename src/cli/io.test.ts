import { describe, expect, test, vi } from "vitest";
import { AbortError, BudgetError, ConfigError, IoError } from "../base/errors.ts";
import { exitOf, ToldInJson } from "./exit-codes.ts";
import {
  forTerminal,
  Interruption,
  note,
  processIo,
  ReaderLeft,
  styled,
  writeJson,
  writeLines,
} from "./io.ts";
import { Captured, testIo } from "./testing.ts";

describe("what a model writes to a terminal", () => {
  test("keeps lines, tabs and every language, but no control characters", () => {
    const terminal = { isTTY: true };
    expect(forTerminal("a\tb\nздравствуй 世界 🙂", terminal)).toBe("a\tb\nздравствуй 世界 🙂");
    expect(forTerminal("\x1b]0;title\x07\x1b[2J\x9b2J\r", terminal)).toBe("�]0;title��[2J�2J�");
  });

  test("is left as it is in a file", () => {
    expect(forTerminal("\x1b[2J", {})).toBe("\x1b[2J");
  });
});

describe("output", () => {
  test("JSON writes what has no number as null", async () => {
    const stdout = new Captured();
    await writeJson(testIo(stdout, new Captured()), { budget: Number.POSITIVE_INFINITY });
    expect(JSON.parse(stdout.text)).toEqual({ budget: null });
  });

  test("of names holds no control characters but our own styles, as lines and as JSON", async () => {
    const [stdout, stderr] = [new Captured(), new Captured()];
    const io = testIo(stdout, stderr);
    const name = "a\x1b]52;c;eA==\x07\u202eb\x9b";
    note(io, `\x1b[31merror:\x1b[39m ${name}`);
    await writeLines(io, ["checkpoint", name]);
    await writeJson(io, { name });
    expect(stderr.text).toBe("\x1b[31merror:\x1b[39m a\\u001b]52;c;eA==\\u0007\\u202eb\\u009b\n");
    for (const character of ["\x1b", "\x07", "\u202e", "\x9b"]) expect(stdout.text).not.toContain(character);
    expect(JSON.parse(stdout.text.slice(stdout.text.indexOf("{")))).toEqual({ name });
  });

  test("is not coloured where nobody can see it", () => {
    expect(styled(new Captured(), "red", "error")).toBe("error");
  });
});

describe("exit codes", () => {
  const never = new AbortController().signal;
  const budget = new BudgetError("too big", { tier: "cpu", needed: 2, budget: 1 });
  test.each([
    [new ConfigError("no"), 2],
    [budget, 3],
    [new ToldInJson("too big", { cause: budget }), 3],
    [new IoError("no"), 1],
    [new TypeError("a defect"), 1],
    ["not even an error", 1],
    [new ReaderLeft(), 0],
    [new AbortError(new Interruption("SIGINT")), 130],
    [new AbortError(new Interruption("SIGTERM")), 143],
  ])("%s -> %d", (error, code) => {
    expect(exitOf(error, never).exitCode).toBe(code);
  });

  test("an error of the platform after Ctrl-C is the interrupt", () => {
    const error = new DOMException("This operation was aborted", "AbortError");
    expect(exitOf(error, AbortSignal.abort(new Interruption("SIGINT"))).exitCode).toBe(130);
  });

  test("a real failure while the user was leaving stays a failure", () => {
    expect(exitOf(new IoError("disk"), AbortSignal.abort(new Interruption("SIGINT"))).exitCode).toBe(1);
  });
});

describe("signals", () => {
  test("the first one asks for an end, the second one is an end, and close() stops listening", () => {
    const exit = vi.spyOn(process, "exit").mockReturnValue(undefined as never);
    const listening = process.listenerCount("SIGINT");
    const io = processIo();
    try {
      const send = process.listeners("SIGINT").at(-1) as (signal: NodeJS.Signals) => void;
      send("SIGINT");
      expect(io.signal.reason).toEqual(new Interruption("SIGINT"));
      expect(exit).not.toHaveBeenCalled();
      send("SIGINT");
      expect(exit).toHaveBeenCalledWith(130);
    } finally {
      io.close();
      exit.mockRestore();
    }
    expect(process.listenerCount("SIGINT")).toBe(listening);
  });
});
