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
    expect(parseRow({ messages })).toEqual({ kind: "chat", messages, tools: null });
    expect(parseRow({ messages, tools: [{ name: "f" }] })).toMatchObject({ tools: [{ name: "f" }] });
  });

  test("a null column is an absent one, and the richest kind counts", () => {
    expect(parseRow({ messages: null, prompt: null, completion: null, text: "a" })).toMatchObject({
      kind: "text",
    });
    expect(parseRow({ prompt: "a", completion: "b", text: "c" })).toMatchObject({ kind: "completion" });
  });

  test.each<[unknown, RegExp]>([
    [5, /is 5, expected an object/],
    [["text"], /is \["text"\], expected an object/],
    [null, /is null/],
    [{}, /holds nothing, expected "text"/],
    [{ txt: "a", n: 1 }, /holds "txt", "n", expected "text"/],
    [{ text: 5 }, /"text" is 5, expected a string/],
    [{ prompt: "a" }, /"completion" is missing/],
    [{ prompt: ["a"], completion: "b" }, /"prompt" is \["a"\]/],
    [{ messages: "hi" }, /"messages" is "hi", expected a list/],
    [{ messages: [] }, /"messages" is \[\]/],
    [{ messages: [{ content: "a" }] }, /"messages"\[0\] is \{"content":"a"\}/],
    [{ messages: [{ role: "user", content: "a" }] }, /no turn of the role "assistant"/],
    [{ messages: [{ role: "assistant" }], tools: "f" }, /"tools" is "f"/],
    [{ text: "x".repeat(10), messages: ["y".repeat(500)] }, /y{50,60}\.\.\.,/],
  ])("says what is wrong with %j", (value, problem) => {
    const row = parseRow(value);
    expect(row).toBeInstanceOf(RowProblem);
    expect((row as RowProblem).problem).toMatch(problem);
  });

  test("a whole number of 64 bits, as Parquet has them, is said like any other", () => {
    expect(parseRow({ text: 12n })).toMatchObject({ problem: '"text" is 12, expected a string' });
  });
});
