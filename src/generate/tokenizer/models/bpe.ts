// The BPE model: words to symbols, merged by rank. https://arxiv.org/abs/1508.07909, with byte fallback as SentencePiece has it.

import { type Fields, FormatError, TokenizingError } from "../fields.ts";
import { BYTE_CHARACTERS } from "../parts/byte-level.ts";
import { Joints } from "./joints.ts";
import { mergeSymbols } from "./merging.ts";
import type { Model } from "./model.ts";
import { PairTable } from "./pair-table.ts";
import { WordCache } from "./word-cache.ts";

/** Ranks are kept beside positions in one double. */
const MOST_MERGES = 2 ** 22;

export class Bpe implements Model {
  readonly vocabulary: ReadonlyMap<string, number>;
  readonly size: number;
  readonly longest: number | undefined;
  readonly #merges: PairTable;
  readonly #unknown: number | undefined;
  readonly #prefix: string;
  readonly #suffix: string;
  readonly #fusesUnknown: boolean;
  readonly #ignoresMerges: boolean;
  /** Ids of "<0x00>" to "<0xFF>", -1 where there is none; undefined without byte fallback. */
  readonly #byteIds: Int32Array | undefined;
  /** The ids of the bytes' characters, -1 where there is none; undefined unless words are bytes. */
  readonly #byteLevel: Int32Array | undefined;
  readonly #joints: Joints | undefined;
  readonly #cache = new WordCache();
  #symbols = new Int32Array(256);

  /** @param isByteLevel words come as text and are to be taken as their UTF-8 bytes, each as its character */
  constructor(fields: Fields, isByteLevel: boolean) {
    this.vocabulary = fields.vocabulary("vocab");
    this.size = this.vocabulary.size;
    this.#prefix = fields.text("continuing_subword_prefix", "");
    this.#suffix = fields.text("end_of_word_suffix", "");
    this.#fusesUnknown = fields.flag("fuse_unk", false);
    this.#ignoresMerges = fields.flag("ignore_merges", false);
    const unknown = fields.raw("unk_token") === undefined ? undefined : fields.text("unk_token");
    this.#unknown = unknown === undefined ? undefined : (this.vocabulary.get(unknown) ?? -1);
    const idOf = (token: string) => this.vocabulary.get(token) ?? -1;
    this.#byteIds = fields.flag("byte_fallback", false)
      ? Int32Array.from({ length: 256 }, (_, byte) => idOf(fallbackToken(byte)))
      : undefined;
    const plain = this.#prefix === "" && this.#suffix === "";
    this.#byteLevel = isByteLevel && plain ? Int32Array.from(BYTE_CHARACTERS, idOf) : undefined;
    this.#merges = readMerges(fields, this.vocabulary, this.#prefix.length);
    this.#joints = plain && this.#byteLevel === undefined ? new Joints(this.vocabulary.keys()) : undefined;
    const everyByte = [this.#byteIds, this.#byteLevel].some((ids) => ids?.every((id) => id >= 0) === true);
    this.longest = everyByte ? longestToken(this.vocabulary.keys(), isByteLevel) : undefined;
  }

  /** Whether {@link encode} wants words as text although the vocabulary is in characters of bytes. */
  get takesBytes(): boolean {
    return this.#byteLevel !== undefined;
  }

  encode(word: string, ids: number[]): void {
    const known = this.#cache.get(word);
    if (known !== undefined) {
      if (typeof known === "number") ids.push(known);
      else for (let i = 0; i < known.length; i++) ids.push(known[i]!);
      return;
    }
    if (this.#ignoresMerges) {
      const whole = this.vocabulary.get(this.#byteLevel ? byteText(word) : word);
      if (whole !== undefined) {
        this.#cache.set(word, whole);
        ids.push(whole);
        return;
      }
    }
    if (this.#joints === undefined) {
      this.#part(word, ids);
      return;
    }
    // Parts between which no token can reach are merged one by one: the same tokens, and parts come again.
    let start = 0;
    for (let end = this.#joints.next(word, 0); start < word.length; end = this.#joints.next(word, end)) {
      const part = word.slice(start, end);
      const cached = this.#cache.get(part);
      // A whole word may be a token that no merges lead to; a part of one may not.
      if (cached === undefined || this.#ignoresMerges) this.#part(part, ids);
      else if (typeof cached === "number") ids.push(cached);
      else for (let i = 0; i < cached.length; i++) ids.push(cached[i]!);
      start = end;
    }
  }

  #part(word: string, ids: number[]): void {
    const given = this.#byteLevel ? this.#bytes(word) : this.#characters(word);
    const symbols = this.#symbols;
    const count = mergeSymbols(symbols, given, this.#merges);
    for (let i = 0; i < count; i++) ids.push(symbols[i]!);
    if (!(this.#ignoresMerges && this.#joints))
      this.#cache.set(word, count === 1 ? symbols[0]! : symbols.slice(0, count));
    if (symbols.length > 1 << 16) this.#symbols = new Int32Array(256);
  }

  /** Symbols of the word's bytes. As the reference does, bytes without a token are left out where there is no unknown token. */
  #bytes(word: string): number {
    const byteLevel = this.#byteLevel!;
    const isAscii = word.length <= this.#symbols.length && /^\p{ASCII}*$/u.test(word);
    const bytes = isAscii ? undefined : Buffer.from(word, "utf8");
    const length = bytes?.length ?? word.length;
    if (this.#symbols.length < length) this.#symbols = new Int32Array(length * 2);
    const symbols = this.#symbols;
    let count = 0;
    let unknown = 0;
    for (let i = 0; i < length; i++) {
      const id = byteLevel[bytes ? bytes[i]! : word.charCodeAt(i)]!;
      if (id < 0) {
        if (this.#unknown === undefined) continue;
        if (unknown > 0 && !this.#fusesUnknown) symbols[count++] = this.#unknownId();
        unknown = 1;
        continue;
      }
      if (unknown > 0) symbols[count++] = this.#unknownId();
      unknown = 0;
      symbols[count++] = id;
    }
    if (unknown > 0) symbols[count++] = this.#unknownId();
    return count;
  }

  /** Symbols of the word's characters. An unknown character is its bytes, else the unknown token, else left out. */
  #characters(word: string): number {
    // A character is at most 3 symbols for each of its UTF-16 units, and the suffix adds bytes to the last one.
    const most = (word.length + this.#suffix.length + this.#prefix.length * word.length) * 3 + 1;
    if (this.#symbols.length < most) this.#symbols = new Int32Array(most);
    const symbols = this.#symbols;
    let count = 0;
    let unknown = 0;
    for (let i = 0; i < word.length; ) {
      const end = i + (word.codePointAt(i)! > 0xffff ? 2 : 1);
      let character = word.slice(i, end);
      if (i > 0) character = this.#prefix + character;
      if (end === word.length) character += this.#suffix;
      i = end;
      const id = this.vocabulary.get(character);
      if (id !== undefined) {
        if (unknown > 0) symbols[count++] = this.#unknownId();
        unknown = 0;
        symbols[count++] = id;
        continue;
      }
      if (this.#byteIds !== undefined) {
        const bytes = Buffer.from(character, "utf8");
        if (bytes.every((byte) => this.#byteIds![byte]! >= 0)) {
          for (const byte of bytes) symbols[count++] = this.#byteIds[byte]!;
          continue;
        }
      }
      if (this.#unknown === undefined) continue;
      if (unknown > 0 && !this.#fusesUnknown) symbols[count++] = this.#unknownId();
      unknown = 1;
    }
    if (unknown > 0) symbols[count++] = this.#unknownId();
    return count;
  }

  #unknownId(): number {
    if (this.#unknown! < 0) throw new TokenizingError("its unk_token is not in its vocabulary");
    return this.#unknown!;
  }
}

/** The token that stands for a byte where byte fallback is on. */
export function fallbackToken(byte: number): string {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
}

function byteText(word: string): string {
  const bytes = Buffer.from(word, "utf8");
  let text = "";
  for (let i = 0; i < bytes.length; i++) text += BYTE_CHARACTERS[bytes[i]!];
  return text;
}

/** The longest token in bytes of text. A token of byte characters stands for as many bytes as it has characters. */
function longestToken(tokens: Iterable<string>, isByteLevel: boolean): number {
  let longest = 1;
  for (const token of tokens)
    longest = Math.max(longest, isByteLevel ? token.length : Buffer.byteLength(token));
  return longest;
}

/** Pairs of ids to rank and id of the merged token, from "a b" or ["a", "b"]. A pair given twice has its last rank. */
function readMerges(fields: Fields, vocabulary: ReadonlyMap<string, number>, prefix: number): PairTable {
  const list = fields.list("merges");
  if (list.length > MOST_MERGES)
    throw new FormatError(
      fields.key("merges"),
      `has ${list.length} entries, at most ${MOST_MERGES} can be used`,
    );
  const merges = new PairTable(list.length);
  const texts = textsById(vocabulary);
  let next = 0;
  for (let rank = 0; rank < list.length; rank++) {
    const merge = list[rank];
    let left: unknown;
    let right: unknown;
    if (typeof merge === "string") {
      const space = merge.indexOf(" ");
      // With a header line, ranks count from the line after it; the order is the same.
      if (merge.startsWith("#version")) continue;
      if (space >= 0 && merge.indexOf(" ", space + 1) < 0)
        [left, right] = [merge.slice(0, space), merge.slice(space + 1)];
    } else if (Array.isArray(merge) && merge.length === 2) [left, right] = merge;
    if (typeof left !== "string" || typeof right !== "string")
      throw new FormatError(
        `${fields.key("merges")}[${rank}]`,
        "must be two tokens, as a text with a space between them or a list",
      );
    const a = vocabulary.get(left);
    const b = vocabulary.get(right);
    // Merged tokens mostly come in the order of their merges: comparing with the next is faster than joining and looking up.
    const both =
      prefix === 0 && isJoined(texts[next], left, right)
        ? next
        : vocabulary.get(left + (prefix === 0 ? right : right.slice(prefix)));
    if (a === undefined || b === undefined || both === undefined)
      throw new FormatError(
        `${fields.key("merges")}[${rank}]`,
        "names a token that is not in the vocabulary",
      );
    next = both + 1;
    merges.set(a, b, rank, both);
  }
  return merges;
}

/** The tokens by id, without those of ids that are far beyond their number. */
function textsById(vocabulary: ReadonlyMap<string, number>): (string | undefined)[] {
  const texts = new Array<string | undefined>(vocabulary.size).fill(undefined);
  for (const [token, id] of vocabulary) if (id < texts.length) texts[id] = token;
  return texts;
}

function isJoined(text: string | undefined, left: string, right: string): boolean {
  return (
    text !== undefined &&
    text.length === left.length + right.length &&
    text.startsWith(left) &&
    text.endsWith(right)
  );
}
