// Stop strings see special tokens; what is shown has none of them.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ConfigError } from "../../base/errors.ts";
import { StoppingDecoder } from "./stop-text.ts";

/** A tokenizer of words: those in angle brackets are special. */
const WORDS = ["a", "b", "cd", "e f", "<|end|>", "</s>", "<x>"];
const decode = (ids: number[], { skip_special_tokens }: { skip_special_tokens: boolean }) =>
  ids
    .map((id) => WORDS[id] as string)
    .filter((word) => !skip_special_tokens || !word.startsWith("<"))
    .join("");

function shown(ids: number[], stops: string[]): { text: string; tokens: number; stopped: boolean } {
  const decoder = new StoppingDecoder(decode, stops);
  let text = "";
  for (const [i, id] of ids.entries()) {
    const { text: piece, stopped } = decoder.push(id);
    text += piece;
    if (stopped) return { text: text + decoder.flush(), tokens: i + 1, stopped };
  }
  return { text: text + decoder.flush(), tokens: ids.length, stopped: false };
}

describe("a stop string", () => {
  const ids = [0, 2, 4, 1, 3, 5, 0]; // a cd <|end|> b e f </s> a
  test.each([
    [["<|end|>"], "acd", 3],
    [["</s>"], "acdbe f", 6],
    [["d<|end|>b"], "ac", 4], // holds a special token
    [["|end|>b"], "acd", 4], // begins inside one: the token has no text that could be shown
    [["f</"], "acdbe ", 6], // ends inside one
    [["never", "b"], "acd", 4],
  ])("%j", (stops, text, tokens) => {
    expect(shown(ids, stops)).toEqual({ text, tokens, stopped: true });
  });

  test("that never comes holds nothing back in the end", () => {
    expect(shown(ids, ["a<|"])).toEqual({ text: "acdbe fa", tokens: 7, stopped: false });
    expect(shown(ids, [])).toEqual({ text: "acdbe fa", tokens: 7, stopped: false });
  });

  test("that is empty is refused", () => {
    expect(() => new StoppingDecoder(decode, [""])).toThrow(ConfigError);
  });
});

test("what is shown is what the definition says, for any tokens and any stop strings", () => {
  const word = fc.nat({ max: WORDS.length - 1 });
  const stop = fc
    .tuple(fc.array(word, { minLength: 1, maxLength: 3 }), fc.nat(3), fc.nat(3))
    .map(([ids, a, b]) =>
      decode(ids, { skip_special_tokens: false })
        .slice(a)
        .slice(0, 9 - b),
    )
    .filter((text) => text !== "");
  fc.assert(
    fc.property(fc.array(word, { maxLength: 12 }), fc.array(stop, { maxLength: 2 }), (ids, stops) => {
      const found = shown(ids, stops);
      const tokens = ids.slice(0, found.tokens);
      const seen = decode(tokens, { skip_special_tokens: false });
      if (!found.stopped) {
        expect(stops.some((s) => seen.includes(s))).toBe(false);
        expect(found.text).toBe(decode(ids, { skip_special_tokens: true }));
        return;
      }
      // The first to be complete ends the text; of several that end together the longest.
      const ends = stops.map((s) => ({
        s,
        end: seen.indexOf(s) < 0 ? Infinity : seen.indexOf(s) + s.length,
      }));
      const first = Math.min(...ends.map(({ end }) => end));
      const start = Math.min(...ends.filter(({ end }) => end === first).map(({ s, end }) => end - s.length));
      let at = 0;
      let text = "";
      for (const id of tokens) {
        const own = WORDS[id] as string;
        if (!own.startsWith("<")) text += own.slice(0, Math.max(0, start - at));
        at += own.length;
      }
      expect(found.text).toBe(text);
    }),
    { numRuns: 500 },
  );
});
