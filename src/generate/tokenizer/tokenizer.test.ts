import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { FormatError } from "./fields.ts";
import { onigurumaPattern } from "./parts/oniguruma.ts";
import { TokenTable } from "./token-table.ts";
import { Tokenizer, TooManyTokens } from "./tokenizer.ts";

/** What Python's tokenizers 0.23.2 makes of a text: ids with and without special tokens, the text of the former with and without special tokens. */
type Row = [ids: number[], plain: number[], text: string | null, skipped: string | null] | null;

const folder = join(import.meta.dirname, "../../../test/fixtures/tokenizers/reference");
const { texts, cases } = JSON.parse(
  gunzipSync(readFileSync(join(folder, "cases.json.gz"))).toString("utf8"),
) as {
  texts: string[];
  cases: [name: string, json: unknown, rows: Row[]][];
};

/** Decodes as whoever holds the tokens' texts does. */
function decoderOf(tokenizer: Tokenizer): (ids: readonly number[], skipsSpecial: boolean) => string {
  const table = new TokenTable(tokenizer.tokens());
  const special = new Set(tokenizer.specialTokens());
  return (ids, skipsSpecial) => {
    const tokens = ids
      .map((id) => table.textOf(id)!)
      .filter((token) => !(skipsSpecial && special.has(token)));
    return tokens.length === 0 ? "" : tokenizer.decode(tokens);
  };
}

describe("the same ids and texts as the reference", () => {
  test("of every part that a tokenizer can have, and of eight published tokenizers, cut down", () => {
    expect(cases.length).toBeGreaterThan(100);
    expect(cases.filter(([name]) => name.startsWith("published-"))).toHaveLength(8);
  });

  test.each(cases)("%s", (_, json, rows) => {
    const tokenizer = new Tokenizer(json, {}, onigurumaPattern);
    const decode = decoderOf(tokenizer);
    for (const [i, row] of rows.entries()) {
      // The reference itself fails on a few texts.
      if (row === null) continue;
      const [ids, plain, text, skipped] = row;
      const about = JSON.stringify(texts[i]);
      expect(tokenizer.encode(texts[i]!, { addSpecialTokens: true }), about).toEqual(ids);
      expect(tokenizer.encode(texts[i]!, { addSpecialTokens: false }), about).toEqual(plain);
      if (text !== null) expect(decode(ids, false), about).toBe(text);
      if (skipped !== null) expect(decode(ids, true), about).toBe(skipped);
    }
  });
});

describe("texts that are hard", () => {
  const jsonOf = (name: string) =>
    structuredClone(cases.find(([known]) => known === name)![1]) as Record<string, unknown>;
  const encode = (tokenizer: Tokenizer, text: string) => tokenizer.encode(text, { addSpecialTokens: false });

  test.each(["byte-level", "spm", "gemma", "unigram-False"])(
    "%s: words of 300,000 characters are merged, not overflowed",
    (name) => {
      const tokenizer = new Tokenizer(jsonOf(name), {}, onigurumaPattern);
      for (const unit of ["a", "ab", "日", "😀", " "]) {
        const ids = encode(tokenizer, unit.repeat(300_000 / unit.length));
        expect(ids.length).toBeGreaterThan(0);
      }
    },
  );

  test("a long word has the tokens of the short ones it is made of, where nothing can reach across", () => {
    const tokenizer = new Tokenizer(jsonOf("gemma"), {}, onigurumaPattern);
    const once = encode(tokenizer, "then river ");
    expect(encode(tokenizer, "then river ".repeat(5000)).slice(0, once.length * 4999)).toEqual(
      Array.from({ length: 4999 }, () => once).flat(),
    );
  });

  test("a lone surrogate is U+FFFD", () => {
    const tokenizer = new Tokenizer(jsonOf("byte-level"), {}, onigurumaPattern);
    expect(encode(tokenizer, "a\ud800b")).toEqual(encode(tokenizer, "a\ufffdb"));
  });

  test("more tokens than asked for are not made", () => {
    const tokenizer = new Tokenizer(jsonOf("byte-level"), {}, onigurumaPattern);
    const { length } = encode(tokenizer, "a b c d e");
    const limited = (maxTokens: number) =>
      tokenizer.encode("a b c d e", { addSpecialTokens: true, maxTokens });
    expect(limited(length)).toHaveLength(length);
    expect(() => limited(length - 1)).toThrow(TooManyTokens);
  });

  test("how many bytes a token can stand for is known where there is a bound", () => {
    expect(new Tokenizer(jsonOf("byte-level"), {}, onigurumaPattern).longestToken).toBeLessThan(200);
    expect(new Tokenizer(jsonOf("spm"), {}, onigurumaPattern).longestToken).toBeLessThan(200);
    // Spaces go, unknown words are one token, added tokens take spaces with them.
    for (const name of ["whitespace", "wordpiece", "norm-strip", "added-lr"])
      expect(new Tokenizer(jsonOf(name), {}, onigurumaPattern).longestToken).toBeUndefined();
  });
});

describe("values that cannot be used are named", () => {
  const model = { type: "BPE", vocab: { a: 0, b: 1, ab: 2 }, merges: ["a b"] };
  test.each<[unknown, string]>([
    [{ model: { ...model, vocab: { a: -1 } } }, 'model.vocab["a"]'],
    [{ model: { ...model, merges: ["a c"] } }, "model.merges[0]"],
    [{ model: { ...model, merges: [["a"]] } }, "model.merges[0]"],
    [{ model: { ...model, fuse_unk: "yes" } }, "model.fuse_unk"],
    [{ model, pre_tokenizer: { type: "FixedLength", length: 0 } }, "pre_tokenizer.length"],
    [
      { model, pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "New" }] } },
      "pre_tokenizer.pretokenizers[0].type",
    ],
    [
      { model, pre_tokenizer: { type: "Split", pattern: { Regex: "(" }, behavior: "Isolated" } },
      "pre_tokenizer.pattern.Regex",
    ],
    [{ model, pre_tokenizer: { type: "__proto__" } }, "pre_tokenizer.type"],
    [
      { model, normalizer: { type: "Precompiled", precompiled_charsmap: "AAAA" } },
      "normalizer.precompiled_charsmap",
    ],
    [{ model, added_tokens: [{ content: 5 }] }, "added_tokens[0].content"],
    [{ model, decoder: { type: "Strip", content: "ab" } }, "decoder.content"],
    [{ model: { type: "Unigram", vocab: [["a"]] } }, "model.vocab[0]"],
    [{ model: { type: "Unigram", vocab: [["a", 0]], unk_id: 1 } }, "model.unk_id"],
  ])("%j: %s", (json, key) => {
    expect(() => new Tokenizer(json, {}, onigurumaPattern)).toThrow(FormatError);
    expect(() => new Tokenizer(json, {}, onigurumaPattern)).toThrow(key);
  });
});
