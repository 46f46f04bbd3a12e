import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { makeCheckpoint } from "../../formats/synthetic.ts";
import { call, PLAIN, TINY } from "../testing.ts";

interface Document {
  messages: { role: string; content: string }[];
}

const CHAT = ["chat", TINY, ...PLAIN, "--max-new-tokens", "6"];

async function conversation(stdin: string, ...more: string[]): Promise<Document["messages"]> {
  const { code, stdout } = await call([...CHAT, "--json", ...more], { stdin });
  expect(code).toBe(0);
  return (JSON.parse(stdout) as Document).messages;
}

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "spillway-chat-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

describe("chat from a pipe", () => {
  test("each line is a turn, each answer a line on stdout", async () => {
    const { code, stdout, stderr } = await call([...CHAT, "--quiet"], { stdin: "hello\n\nand again" });
    const messages = await conversation("hello\nand again\n");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(messages.map((m) => m.role)).toEqual(["user", "assistant", "user", "assistant"]);
    expect(stdout).toBe(`${messages[1]?.content}\n${messages[3]?.content}\n`);
  });

  test("earlier turns are part of the prompt: the same question gets another answer", async () => {
    const messages = await conversation("hello\nhello\n");
    expect(messages[3]?.content).not.toBe(messages[1]?.content);
  });

  test("/reset forgets, /system sets a message and forgets, /exit leaves", async () => {
    const messages = await conversation("hello\n/reset\nhello\n");
    expect(messages).toEqual((await conversation("hello\n")).slice(0, 2));
    const withSystem = await conversation("hello\n/system Be brief.\nhello\n/exit\nnever said\n");
    expect(withSystem.map((m) => m.role)).toEqual(["system", "user", "assistant"]);
    expect(await conversation("hello\n", "--system", "Be brief.")).toEqual(withSystem);
  });

  test("/save writes the conversation once, and does not replace a file", async () => {
    const path = join(folder, "saved.json");
    const messages = await conversation(`hello\n/save ${path}\n`);
    expect(JSON.parse(await readFile(path, "utf8"))).toEqual(messages);
    await writeFile(path, "mine");
    const again = await call(CHAT, { stdin: `hello\n/save ${path}\n` });
    expect(again.code).toBe(1);
    expect(again.stderr).toContain("exists already and is kept");
    expect(await readFile(path, "utf8")).toBe("mine");
  });

  test("a mistyped command is an error that lists those there are", async () => {
    const { code, stderr } = await call([...CHAT, "--quiet"], { stdin: "/exti\n" });
    expect(code).toBe(2);
    expect(stderr).toContain("there is no /exti");
    expect(stderr).toContain("/save FILE");
  });

  test("a message that is too long is an error with the numbers", async () => {
    const { code, stderr } = await call([...CHAT, "--quiet"], { stdin: "a very long message ".repeat(50) });
    expect(code).toBe(2);
    expect(stderr).toMatch(/\d+ tokens, the model has positions for 256/);
  });
});

describe("chat with the wrong model", () => {
  test("a checkpoint without a template is refused before it is loaded, with what to use instead", async () => {
    const { path } = await makeCheckpoint(join(folder, "base"), { family: "llama" });
    const { code, stderr } = await call(["chat", path, ...PLAIN], { stdin: "hello\n" });
    expect(code).toBe(1);
    expect(stderr).toContain("has no chat template");
    expect(stderr).toContain("spillway run MODEL");
    expect(stderr).not.toContain("loading");
  });
});
