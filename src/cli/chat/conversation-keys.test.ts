import { PassThrough } from "node:stream";
import { describe, expect, test } from "vitest";
import type { Io } from "../io.ts";
import { main } from "../program.ts";
import { Captured, PLAIN, TINY } from "../testing.ts";

const CTRL_C = "\x03";
const CTRL_D = "\x04";

/** Somebody at a terminal: types `keys[i]` when the i-th prompt appears, and `during` when an answer has begun. */
async function sit(
  keys: readonly string[],
  during = "",
): Promise<{ code: number; stdout: string; stderr: string }> {
  const stdin: PassThrough & { isTTY?: boolean } = Object.assign(new PassThrough(), { isTTY: true });
  let typed = 0;
  let interrupted = 0;
  const stdout = new Captured(() => {
    if (interrupted++ === 0 && during !== "") stdin.write(during);
  });
  const stderr: Captured & { isTTY?: boolean } = new Captured((text) => {
    const prompts = text.split("> ").length - 1;
    if (prompts > typed && typed < keys.length) stdin.write(keys[typed++]);
  });
  stderr.isTTY = true;
  const io: Io = { stdin, stdout, stderr, signal: new AbortController().signal };
  const argv = ["chat", TINY, ...PLAIN, "--quiet", "--max-new-tokens", "200", "--ignore-eos"];
  return { code: await main(argv, io), stdout: stdout.text, stderr: stderr.text };
}

describe("keys in a conversation", () => {
  test("Ctrl-C stops the answer and the conversation goes on", async () => {
    const { code, stdout, stderr } = await sit(["hello\r", "/save /dev/null\r", "/exit\r"], CTRL_C);
    const whole = await sit(["hello\r", "/exit\r"]);
    expect(code).toBe(0);
    expect(stderr).toContain("(stopped)");
    expect(stdout.trimEnd()).not.toBe("");
    expect(whole.stdout.length).toBeGreaterThan(stdout.length);
    expect(whole.stdout.startsWith(stdout.trimEnd())).toBe(true);
  });

  test("Ctrl-C twice leaves with 130", async () => {
    const { code, stderr } = await sit(["hello\r"], CTRL_C + CTRL_C);
    expect(code).toBe(130);
    expect(stderr).toContain("interrupted");
  });

  test("at the prompt, the first Ctrl-C only says that another one leaves", async () => {
    const once = await sit([CTRL_C, "/exit\r"]);
    expect(once.code).toBe(0);
    expect(once.stderr).toContain("(Ctrl-C again leaves)");
    expect((await sit([CTRL_C, CTRL_C])).code).toBe(130);
  });

  test("a line between two Ctrl-C makes the second one a first one again", async () => {
    expect((await sit([CTRL_C, "/help\r", CTRL_C, "/exit\r"])).code).toBe(0);
  });

  test("Ctrl-D leaves, and so does the end of the terminal", async () => {
    expect((await sit([CTRL_D])).code).toBe(0);
  });

  test("a mistyped command does not end the conversation", async () => {
    const { code, stderr } = await sit(["/exti\r", "/exit\r"]);
    expect(code).toBe(0);
    expect(stderr).toContain("there is no /exti");
  });

  test("a message that is too long is answered with the numbers, and the conversation goes on", async () => {
    const { code, stderr } = await sit([`${"very long ".repeat(100)}\r`, "/exit\r"]);
    expect(code).toBe(0);
    expect(stderr).toMatch(/the model has positions for 256; .*\/reset starts over/);
  });
});
