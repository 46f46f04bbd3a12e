import { join } from "node:path";
import { afterEach, describe, expect, test, vi } from "vitest";
import { UnsupportedError } from "../../base/errors.ts";
import { TextStreamer } from "./text-streamer.ts";
import { AutoTokenizer } from "./tokenizer.ts";

const tokenizer = await AutoTokenizer.from_pretrained(
  join(import.meta.dirname, "../../../test/fixtures/checkpoints/llama"),
);
const prompt = tokenizer.encode("Hi");
const answer = [...tokenizer.encode(" 🙂 world"), ...tokenizer.eos_token_ids];

function stream(options: ConstructorParameters<typeof TextStreamer>[1]): {
  texts: string[];
  ids: number[][];
} {
  const texts: string[] = [];
  const ids: number[][] = [];
  const streamer = new TextStreamer(tokenizer, {
    callback_function: (text) => texts.push(text),
    token_callback_function: (tokens) => ids.push(tokens),
    ...options,
  });
  streamer.put([prompt]);
  for (const id of answer) streamer.put([[id]]);
  streamer.end();
  return { texts, ids };
}

describe("TextStreamer", () => {
  afterEach(() => vi.restoreAllMocks());

  test("hands out pieces that join to the text, none of them empty or broken", () => {
    const { texts, ids } = stream({});
    expect(texts.join("")).toBe("Hi 🙂 world");
    expect(texts[0]).toBe("Hi");
    expect(texts.length).toBeGreaterThan(3);
    for (const text of texts) expect(text).not.toMatch(/^$|\uFFFD/);
    expect(ids).toEqual([prompt, ...answer.map((id) => [id])]);
  });

  test("can leave out the prompt and show special tokens", () => {
    const { texts, ids } = stream({ skip_prompt: true, skip_special_tokens: false });
    expect(texts.join("")).toBe(" 🙂 world<|endoftext|>");
    expect(ids).toHaveLength(answer.length);
  });

  test("end shows what never completed, and the next put is a prompt again", () => {
    const texts: string[] = [];
    const streamer = new TextStreamer(tokenizer, {
      skip_prompt: true,
      callback_function: (text) => texts.push(text),
    });
    const unfinished = tokenizer.encode("🙂").slice(0, 1);
    for (let round = 0; round < 2; round++) {
      streamer.put([prompt]);
      streamer.put([unfinished]);
      streamer.end();
    }
    expect(texts).toEqual(["\uFFFD", "\uFFFD"]);
  });

  test("prints to stdout by default, with a line end after the text", () => {
    const write = vi.spyOn(process.stdout, "write").mockReturnValue(true);
    stream({ callback_function: null });
    expect(write.mock.calls.map(([text]) => text).join("")).toBe("Hi 🙂 world\n");
  });

  test("takes one sequence at a time", () => {
    const streamer = new TextStreamer(tokenizer);
    expect(() => streamer.put([[1], [2]])).toThrow(UnsupportedError);
    expect(() => streamer.put([[1], [2]])).toThrow("prints one sequence, got 2");
  });
});
