import { describe, expect, test } from "vitest";
import { parseRow, RowProblem } from "./row.ts";

describe("parseRow", () => {
  test("a text", () => {
    expect(parseRow({ text: "Once.", id: 7 })).toEqual({ kind: "text", text: "Once." });
  });

  test("a prompt with its completion, which may be empty", () => {
    expect(parseRow({ prompt: "2+2=", completion: "" })).toEqual({
      kind: "completion",
      prompt: "2+2=",
      completion: "",
    });
  });

  test("a conversation, with the fields of its messages as they are", () => {
    const messages = [
      { role: "user", content: "Hi", name: "Ann" },
      { role: "assistant", content: null },
    ];
    expect(parseRow({ messages })).toEqual({ kind: "chat", messages, learned: [1], tools: null });
    expect(parseRow({ messages, tools: [{ name: "f" }] })).toMatchObject({ tools: [{ name: "f" }] });
  });

  test("a null column is an absent one, and the richest kind counts", () => {
    expect(parseRow({ messages: null, prompt: null, completion: null, text: "a" })).toMatchObject({
      kind: "text",
    });
    expect(parseRow({ prompt: "a", completion: "b", text: "c" })).toMatchObject({ kind: "completion" });
  });

  test("turns that are not to be learned: OpenAI's weight, axolotl's train", () => {
    const messages = [
      { role: "user", content: "a", weight: 1 },
      { role: "assistant", content: "b", weight: 0 },
      { role: "assistant", content: "c", train: false },
      { role: "assistant", content: "d", weight: 1, train: true },
      { role: "assistant", content: "e", weight: null },
    ];
    const plain = messages.map(({ role, content }) => ({ role, content }));
    expect(parseRow({ messages })).toEqual({ kind: "chat", messages: plain, learned: [3, 4], tools: null });
  });

  test("ShareGPT's turns", () => {
    const conversations = [
      { from: "human", value: "a" },
      { from: "gpt", value: "b" },
      { from: "observation", value: "c", role: null },
      { from: "Assistant", value: "d" },
    ];
    const messages = [
      { role: "system", content: "Be brief." },
      { role: "user", content: "a" },
      { role: "assistant", content: "b" },
      { role: "tool", content: "c" },
      { role: "assistant", content: "d" },
    ];
    expect(parseRow({ system: "Be brief.", conversations })).toEqual({
      ...{ kind: "chat", learned: [2, 4], tools: null },
      messages,
    });
    expect(parseRow({ conversations: messages })).toMatchObject({ kind: "chat", messages, learned: [2, 4] });
  });

  test("a prompt and a completion that are messages: the completion is learned", () => {
    const prompt = [
      { role: "user", content: "a" },
      { role: "assistant", content: "b" },
      { role: "user", content: "c" },
    ];
    const completion = [{ role: "assistant", content: "d" }];
    expect(parseRow({ prompt, completion })).toEqual({
      ...{ kind: "chat", learned: [3], tools: null },
      messages: [...prompt, ...completion],
    });
  });

  test("Alpaca's instructions, with the prompts its models were trained with", () => {
    expect(parseRow({ instruction: "Add.", input: "1, 2", output: "3", text: "all of it" })).toEqual({
      kind: "completion",
      prompt:
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a " +
        "response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:",
      completion: "3",
    });
    for (const input of ["", null])
      expect(parseRow({ instruction: "Sing.", input, output: "La" })).toMatchObject({
        prompt:
          "Below is an instruction that describes a task. Write a response that appropriately completes the " +
          "request.\n\n### Instruction:\nSing.\n\n### Response:",
      });
  });

  test("tools as JSON in a string", () => {
    const messages = [{ role: "assistant", content: "a" }];
    expect(parseRow({ messages, tools: '[{"name": "f"}]' })).toMatchObject({ tools: [{ name: "f" }] });
    for (const tools of ["", "null", null])
      expect(parseRow({ messages, tools })).toMatchObject({ tools: null });
  });

  test.each<[unknown, RegExp]>([
    [5, /is 5, expected an object/],
    [["text"], /is \["text"\], expected an object/],
    [null, /is null/],
    [{ text: null }, /"text" is null, and there is no other of "text", "prompt"/],
    [{ prompt: "a", completion: null }, /"completion" is null, expected a string/],
    [{ prompt: [{ role: "user" }], completion: "b" }, /"prompt" is .*or lists of messages in both/],
    [{ instruction: "a" }, /"output" is missing/],
    [{ instruction: "a", input: 5, output: "b" }, /"input" is 5, expected a string/],
    [{ chosen: "a", rejected: "b" }, /training on preferences is not supported/],
    [
      { conversations: [{ from: "narrator", value: "a" }] },
      /from is "narrator", expected one of human, user/,
    ],
    [{ conversations: [{ from: "gpt" }] }, /"conversations"\[0\]: value is undefined, expected a string/],
    [{ messages: [{ role: "assistant", content: "a", weight: 0.5 }] }, /weight is 0.5, expected 1 to learn/],
    [{ messages: [{ role: "assistant" }], tools: "{}" }, /"tools" is "\{\}", expected a list/],
    [{ text: 5, "\u001b[2J": 1 }, /"text" is 5/],
    [{ "\u001b[2J": 1 }, /holds "\\u001b\[2J"/],
    [{}, /holds nothing, expected "text"/],
    [{ txt: "a", n: 1 }, /holds "txt", "n", expected "text"/],
    [{ text: 5 }, /"text" is 5, expected a string/],
    [{ prompt: "a" }, /"completion" is missing/],
    [{ prompt: ["a"], completion: "b" }, /"prompt" is \["a"\]/],
    [{ messages: "hi" }, /"messages" is "hi", expected a list/],
    [{ messages: [] }, /"messages" is \[\]/],
    [{ messages: [{ content: "a" }] }, /"messages"\[0\] is \{"content": "a"\}/],
    [{ messages: [{ role: "user", content: "a" }] }, /no turn of the role "assistant"/],
    [{ messages: [{ role: "assistant" }], tools: "f" }, /"tools" is "f"/],
    [{ text: "x".repeat(10), messages: ["y".repeat(500)] }, /"y{70,80}…, expected/],
  ])("says what is wrong with %j", (value, problem) => {
    const row = parseRow(value);
    expect(row).toBeInstanceOf(RowProblem);
    expect((row as RowProblem).problem).toMatch(problem);
  });

  test("a whole number of 64 bits, as Parquet has them, is said like any other", () => {
    expect(parseRow({ text: 12n })).toMatchObject({ problem: '"text" is 12n, expected a string' });
  });
});
