// SentencePiece's compiled map of characters: a double-array trie over UTF-8 whose leaves are places in a list of texts.
// Format: https://github.com/google/sentencepiece/blob/master/src/normalizer.cc. The first, shortest match counts.
import { lazy } from "../../../base/lazy.ts";
import { type Fields, FormatError } from "../fields.ts";

/** Graphemes of this many bytes and more are mapped character by character only. */
const LONG_GRAPHEME = 6;

export class CharacterMap {
  readonly #trie: Uint32Array;
  /** Texts, each ended by a zero byte. */
  readonly #texts: Buffer;
  readonly #known = new Map<string, string | undefined>();

  constructor(fields: Fields) {
    const bytes = Buffer.from(fields.text("precompiled_charsmap", ""), "base64");
    const size = bytes.length >= 4 ? bytes.readUInt32LE(0) : -1;
    if (size < 0 || size % 4 !== 0 || size + 4 > bytes.length)
      throw new FormatError(fields.key("precompiled_charsmap"), "is not a compiled map of characters");
    this.#trie = new Uint32Array(size / 4);
    for (let i = 0; i < this.#trie.length; i++) this.#trie[i] = bytes.readUInt32LE(4 + i * 4);
    this.#texts = bytes.subarray(4 + size);
  }

  normalize(text: string): string {
    let result = "";
    for (const grapheme of graphemes(text)) {
      const whole = Buffer.byteLength(grapheme) < LONG_GRAPHEME ? this.#lookUp(grapheme) : undefined;
      if (whole !== undefined) result += whole;
      else for (const character of grapheme) result += this.#lookUp(character) ?? character;
    }
    return result;
  }

  #lookUp(part: string): string | undefined {
    if (this.#known.has(part)) return this.#known.get(part);
    const mapped = this.#search(Buffer.from(part, "utf8"));
    if (this.#known.size < 10_000) this.#known.set(part, mapped);
    return mapped;
  }

  #search(key: Buffer): string | undefined {
    const trie = this.#trie;
    let node = offset(trie[0] ?? 0);
    for (const byte of key) {
      if (byte === 0) return undefined;
      node = (node ^ byte) >>> 0;
      const unit = trie[node];
      if (unit === undefined || (unit & 0x8000_00ff) >>> 0 !== byte) return undefined;
      node = (node ^ offset(unit)) >>> 0;
      if ((unit & 0x100) === 0) continue;
      const start = (trie[node] ?? 0) & 0x7fff_ffff;
      const end = this.#texts.indexOf(0, start);
      return start > this.#texts.length
        ? undefined
        : this.#texts.toString("utf8", start, end < 0 ? undefined : end);
    }
    return undefined;
  }
}

function offset(unit: number): number {
  return ((unit >>> 10) << ((unit & 0x200) >>> 6)) >>> 0;
}

const segmenter = lazy(() => new Intl.Segmenter("en", { granularity: "grapheme" }));

/** The text's graphemes. In ASCII only a line feed after a carriage return joins anything. */
function* graphemes(text: string): Iterable<string> {
  if (/^\p{ASCII}*$/u.test(text)) {
    for (const [grapheme] of text.matchAll(/\r\n|[\s\S]/g)) yield grapheme;
    return;
  }
  for (const { segment } of segmenter().segment(text)) yield segment;
}
