import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type DecodeFn, IncrementalDecoder } from "./incremental-decoder.ts";
import { AutoTokenizer } from "./tokenizer.ts";

const fixtures = join(import.meta.dirname, "../../test/fixtures");
const byteLevel = await AutoTokenizer.from_pretrained(join(fixtures, "checkpoints/llama"));
const sentencePiece = await AutoTokenizer.from_pretrained(join(fixtures, "tokenizers/sentencepiece-bpe"));
const metaspace = await AutoTokenizer.from_pretrained(join(fixtures, "tokenizers/metaspace-unigram"));

/** Pieces of decoding these ids one by one, the flush last. */
function pieces(decode: DecodeFn, ids: readonly number[]): string[] {
  const decoder = new IncrementalDecoder(decode);
  return [...ids.map((id) => decoder.push(id)), decoder.flush()];
}

/** A token whose text is one byte, in the vocabularies that have such. */
const sentencePieceByte = (byte: number) =>
  sentencePiece.token_to_id(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`)!;

describe("IncrementalDecoder", () => {
  test("emits a character when its last byte has come, and no sooner", () => {
    const [f0, ff, f8, f0b] = [0xf0, 0x9f, 0x99, 0x82].map(sentencePieceByte); // 🙂
    expect(pieces((ids) => sentencePiece.decode(ids), [f0!, ff!, f8!, f0b!])).toEqual(["", "", "", "🙂", ""]);
  });

  test("emits U+FFFD for a character that never completes: at once if another byte shows it, else in flush", () => {
    const hello = sentencePiece.token_to_id("▁Hello")!;
    const decode: DecodeFn = (ids) => sentencePiece.decode(ids);
    expect(pieces(decode, [sentencePieceByte(0xe4), sentencePieceByte(0xbd), hello])).toEqual([
      "",
      "",
      "\uFFFD Hello",
      "",
    ]);
    expect(pieces(decode, [hello, sentencePieceByte(0xe4), sentencePieceByte(0xbd)])).toEqual([
      "Hello",
      "",
      "",
      "\uFFFD",
    ]);
    expect(pieces(decode, [0x80, 0x80, 0x80].map(sentencePieceByte))).toEqual([
      "",
      "\uFFFD",
      "\uFFFD",
      "\uFFFD",
    ]);
  });

  test("keeps the spaces between words and strips the one in front, as decoding the whole does", () => {
    const ids = sentencePiece.encode("Hello world", { add_special_tokens: false });
    expect(pieces((some) => sentencePiece.decode(some), ids)).toEqual(["Hello", " world", ""]);
    const words = metaspace.encode("the quick fox.", { add_special_tokens: false });
    expect(pieces((some) => metaspace.decode(some), words).join("")).toBe("the quick fox.");
  });

  test("skipped special tokens do not change what is around them", () => {
    const [bos, hello, world] = ["<s>", "▁Hello", "▁world"].map((token) => sentencePiece.token_to_id(token)!);
    const decode: DecodeFn = (ids) => sentencePiece.decode(ids, { skip_special_tokens: true });
    const [e4, bd, a0] = [0xe4, 0xbd, 0xa0].map(sentencePieceByte);
    expect(pieces(decode, [bos!, hello!, bos!, world!])).toEqual(["", "Hello", "", " world", ""]);
    expect(pieces(decode, [bos!, e4!, bos!, bd!, bos!, a0!]).join("")).toBe("你");
  });

  test("tokens that the tokenizer does not know have no text", () => {
    const [hello, world] = ["▁Hello", "▁world"].map((token) => sentencePiece.token_to_id(token)!);
    expect(pieces((ids) => sentencePiece.decode(ids), [9999, hello!, 9999, world!]).join("")).toBe(
      "Hello world",
    );
  });

  test("follows decoders that write differently at the end of a text", () => {
    const words = ["he", "llo</w>", "wor", "ld</w>"];
    const suffixDecoder: DecodeFn = (ids) =>
      ids.map((id, i) => words[id]!.replaceAll("</w>", i === ids.length - 1 ? "" : " ")).join("");
    expect(pieces(suffixDecoder, [0, 1, 2, 3])).toEqual(["he", "llo", " wor", "ld", ""]);

    const parts = ["un", "##believ", "##able", "story"];
    const wordPieceDecoder: DecodeFn = (ids) =>
      ids
        .map((id, i) =>
          i === 0 ? parts[id]! : parts[id]!.startsWith("##") ? parts[id]!.slice(2) : ` ${parts[id]}`,
        )
        .join("");
    expect(pieces(wordPieceDecoder, [0, 1, 2, 3])).toEqual(["un", "believ", "able", " story", ""]);
  });

  test("follows decoders that trim the whole text", () => {
    const words = ["foo", " ", "\n", "bar"];
    const trimming: DecodeFn = (ids) =>
      ids
        .map((id) => words[id])
        .join("")
        .trim();
    expect(pieces(trimming, [2, 1, 0, 1, 2, 3, 1])).toEqual(["", "", "foo", "", "", " \nbar", "", ""]);
  });

  test("is ready for another text after flush", () => {
    const decoder = new IncrementalDecoder((ids) => sentencePiece.decode(ids));
    const hello = sentencePiece.token_to_id("▁Hello")!;
    decoder.push(hello);
    decoder.push(sentencePieceByte(0xe4));
    expect(decoder.flush()).toBe("\uFFFD");
    expect(decoder.push(hello)).toBe("Hello");
    expect(decoder.flush()).toBe("");
    expect(new IncrementalDecoder(() => "").flush()).toBe("");
  });
});

describe.each([
  ["byte-level BPE", byteLevel],
  ["SentencePiece with byte fallback", sentencePiece],
  ["Metaspace", metaspace],
])("with a %s tokenizer", (_, tokenizer) => {
  const anyIds = fc.array(fc.nat({ max: tokenizer.vocab_size + 3 }), { maxLength: 40 });
  const text = fc.string({
    unit: fc.constantFrom(
      ..."the wor ld. Hello",
      "\n",
      "é",
      "e\u0301",
      "🙂",
      "👩‍👩‍👧",
      "你好",
      "नि",
      "\uFEFF",
      "\uFFFD",
      "</s>",
      "  ",
    ),
    maxLength: 30,
  });
  const textIds = text.map((string) => tokenizer.encode(string));
  // Byte tokens and those that begin or end inside a character come first in these vocabularies.
  const brokenIds = fc.array(fc.nat({ max: Math.min(260, tokenizer.vocab_size) }), { maxLength: 60 });
  const ids = fc.oneof(
    anyIds,
    textIds,
    brokenIds,
    fc.tuple(brokenIds, textIds, brokenIds).map((parts) => parts.flat()),
  );

  test.each([false, true])(
    "the pieces are the whole text, with skip_special_tokens %s",
    (skip_special_tokens) => {
      const decode: DecodeFn = (some) => tokenizer.decode(some, { skip_special_tokens });
      fc.assert(
        fc.property(ids, (tokens) => {
          expect(pieces(decode, tokens).join("")).toBe(decode(tokens));
        }),
        { numRuns: 400 },
      );
    },
  );

  test("what is emitted is never taken back, and at most one character is held back", () => {
    fc.assert(
      fc.property(ids, (tokens) => {
        const decoder = new IncrementalDecoder((some) => tokenizer.decode(some));
        let emitted = "";
        tokens.forEach((id, i) => {
          emitted += decoder.push(id);
          const whole = tokenizer.decode(tokens.slice(0, i + 1));
          expect([whole, whole.slice(0, -1)]).toContain(emitted);
          if (whole !== emitted) expect(whole.at(-1)).toBe("\uFFFD");
        });
      }),
      { numRuns: 200 },
    );
  });

  test.each([false, true])("the window stays short, with skip_special_tokens %s", (skip_special_tokens) => {
    let longest = 0;
    const decode: DecodeFn = (some) => {
      longest = Math.max(longest, some.length);
      return tokenizer.decode(some, { skip_special_tokens });
    };
    // Runs of one token are the worst case: they never reach a settled place, or never have text
    for (const id of [0, 1, 2, 3, 130, 131, 195, 200, 231, 243, 259, tokenizer.vocab_size]) {
      pieces(decode, new Array<number>(200).fill(id));
      pieces(decode, [...tokenizer.encode("the"), ...new Array<number>(200).fill(id)]);
    }
    fc.assert(
      fc.property(ids, (tokens) => void pieces(decode, tokens)),
      { numRuns: 200 },
    );
    expect(longest).toBeLessThan(32);
  });
});
