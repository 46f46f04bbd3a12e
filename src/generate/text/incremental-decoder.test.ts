import { isUtf8 } from "node:buffer";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type ByteOf, type DecodeFn, IncrementalDecoder } from "./incremental-decoder.ts";
import { AutoTokenizer, byteOf } from "./tokenizer.ts";

const fixtures = join(import.meta.dirname, "../../../test/fixtures");
const byteLevel = await AutoTokenizer.from_pretrained(join(fixtures, "checkpoints/llama"));
const sentencePiece = await AutoTokenizer.from_pretrained(join(fixtures, "tokenizers/sentencepiece-bpe"));
const metaspace = await AutoTokenizer.from_pretrained(join(fixtures, "tokenizers/metaspace-unigram"));

/** Pieces of decoding these ids one by one, the flush last. */
function pieces(decode: DecodeFn, ids: readonly number[], bytes?: ByteOf): string[] {
  const decoder = new IncrementalDecoder(decode, bytes);
  return [...ids.map((id) => decoder.push(id)), decoder.flush()];
}

/** A token whose text is one byte, in the vocabularies that have such. */
const sentencePieceByte = (byte: number) =>
  sentencePiece.token_to_id(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`)!;

/**
 * What the pieces come to: decode of all tokens, but where a run of bytes breaks, the characters of it that were complete
 * before are themselves, for they were out.
 */
function whole(decode: DecodeFn, ids: readonly number[], bytes: ByteOf | undefined): string {
  let text = "";
  let start = 0;
  for (let i = 0; i < ids.length; ) {
    let end = i;
    while (end < ids.length && bytes?.(ids[end]!) !== undefined) end++;
    const run = Buffer.from(ids.slice(i, end).map((id) => bytes!(id)!));
    if (!isUtf8(run)) {
      // The characters before the break.
      let head = run.length;
      while (!isUtf8(run.subarray(0, head))) head--;
      // A space in front of the text has no text.
      if (decode(ids.slice(start, i + head)) === decode(ids.slice(start, i))) head = 0;
      text += decode(ids.slice(start, i + head));
      start = i + head;
    }
    i = Math.max(end, i + 1);
  }
  return text + decode(ids.slice(start));
}

/** Pieces of a SentencePiece text given as its tokens: a number is a byte. */
function sentencePieces(tokens: readonly (string | number)[], knowsBytes = true): string[] {
  const ids = tokens.map((token) =>
    typeof token === "number" ? sentencePieceByte(token) : sentencePiece.token_to_id(token)!,
  );
  return pieces((some) => sentencePiece.decode(some), ids, knowsBytes ? byteOf(sentencePiece) : undefined);
}

const YOU = [0xe4, 0xbd, 0xa0]; // 你
const SMILE = [0xf0, 0x9f, 0x99, 0x82]; // 🙂

describe("IncrementalDecoder", () => {
  // Of a tokenizer of this library it is known which tokens are bytes, of others it is not.
  test.each([true, false])("emits a character when its last byte has come (bytes known: %s)", (known) => {
    expect(sentencePieces(SMILE, known)).toEqual(["", "", "", "🙂", ""]);
    // While a character is unfinished, all of the run is U+FFFD in the whole text: what is out stays out.
    expect(sentencePieces([...SMILE, ...YOU, 0x0a, ...SMILE, "▁Hello"], known)).toEqual(
      ["", "", "", "🙂", "", "", "你", "\n", "", "", "", "🙂", " Hello", ""], // prettier-ignore
    );
    expect(sentencePieces(["▁Hello", ...YOU, "▁Hello", ...YOU], known).join("")).toBe("Hello你 Hello你");
  });

  test("emits U+FFFD for a character that never completes: at once if another byte shows it, else in flush", () => {
    // The reference writes one for each byte.
    expect(sentencePieces([0xe4, 0xbd, "▁Hello"])).toEqual(["", "", "\uFFFD\uFFFD Hello", ""]);
    expect(sentencePieces(["▁Hello", 0xe4, 0xbd])).toEqual(["Hello", "", "", "\uFFFD\uFFFD"]);
    expect(sentencePieces([0x80, 0x80, 0x80])).toEqual(["\uFFFD", "\uFFFD", "\uFFFD", ""]);
    expect(sentencePieces([0xe4, 0x41, 0x42])).toEqual(["", "\uFFFD\uFFFD", "\uFFFD", ""]);
    expect(sentencePieces([0x80, ...YOU, "▁Hello", ...YOU]).join("")).toBe(
      "\uFFFD\uFFFD\uFFFD\uFFFD Hello你",
    );
  });

  test("a character that is out stays when its run of bytes breaks later", () => {
    // The whole text has U+FFFD for each of the bytes.
    expect(sentencePieces([...YOU, 0x80, 0x41, "▁Hello"])).toEqual(
      ["", "", "你", "\uFFFD", "\uFFFD", " Hello", ""], // prettier-ignore
    );
    expect(sentencePieces(["▁Hello", ...YOU, 0xe4, "▁Hello"]).join("")).toBe("Hello你\uFFFD Hello");
    expect(sentencePieces([...YOU, 0xe4, "▁Hello"], false).join("")).toBe("你\uFFFD Hello");
    expect(sentencePieces([...YOU, 0xe4], false).join("")).toBe("你\uFFFD");
  });

  test.each([
    ["80", [0x80]],
    ["ASCII after a broken byte", [0x80, ...new Array(200).fill(0x41)]],
    ["ASCII after a character and a broken byte", [...YOU, 0x80, ...new Array(200).fill(0x41)]],
    ["characters after a broken byte", [0xff, ...new Array(100).fill(YOU).flat()]],
  ])("bytes without end, %s: the window stays short, nothing is lost", (_, bytes) => {
    for (const knowsBytes of [true, false]) {
      let longest = 0;
      const decode: DecodeFn = (some) => {
        longest = Math.max(longest, some.length);
        return sentencePiece.decode(some);
      };
      const ids = bytes.map(sentencePieceByte);
      const text = pieces(decode, ids, knowsBytes ? byteOf(sentencePiece) : undefined).join("");
      expect(longest).toBeLessThan(32);
      expect(text.replace("你", "\uFFFD\uFFFD\uFFFD")).toBe("\uFFFD".repeat(bytes.length));
    }
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
    for (const bytes of [byteOf(sentencePiece), undefined]) {
      expect(pieces(decode, [bos!, hello!, bos!, world!], bytes)).toEqual(["", "Hello", "", " world", ""]);
      expect(pieces(decode, [bos!, e4!, bos!, bd!, bos!, a0!], bytes).join("")).toBe("你");
    }
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
  const bytes = byteOf(tokenizer);

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
      // Special and unknown tokens stand between bytes only where they have text.
      const isVisible = (id: number) => decode([id, id]) !== "" || bytes?.(id) !== undefined;
      fc.assert(
        fc.property(ids, (tokens) => {
          expect(pieces(decode, tokens, bytes).join("")).toBe(whole(decode, tokens.filter(isVisible), bytes));
        }),
        { numRuns: 400 },
      );
    },
  );

  test("what is emitted is never taken back, and at most one character is held back", () => {
    fc.assert(
      fc.property(ids, (tokens) => {
        const decode: DecodeFn = (some) => tokenizer.decode(some);
        const known = tokens.filter((id) => tokenizer.id_to_token(id) !== undefined);
        const decoder = new IncrementalDecoder(decode, bytes);
        let emitted = "";
        known.forEach((id, i) => {
          emitted += decoder.push(id);
          const text = whole(decode, known.slice(0, i + 1), bytes);
          const held = text.slice(emitted.length);
          expect(text.startsWith(emitted)).toBe(true);
          // An unfinished character is one U+FFFD, or one for each of its byte tokens.
          expect(held.replaceAll("\uFFFD", "")).toBe("");
          expect(held.length).toBeLessThanOrEqual(bytes?.(id) === undefined ? 1 : 3);
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
      for (const known of [bytes, undefined]) {
        pieces(decode, new Array<number>(200).fill(id), known);
        pieces(decode, [...tokenizer.encode("the"), ...new Array<number>(200).fill(id)], known);
      }
    }
    fc.assert(
      fc.property(
        ids,
        fc.boolean(),
        (tokens, known) => void pieces(decode, tokens, known ? bytes : undefined),
      ),
      { numRuns: 200 },
    );
    expect(longest).toBeLessThan(32);
  });
});
