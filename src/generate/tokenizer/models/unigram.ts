// The Unigram model: of all ways to cut a word into tokens, the one of the highest summed score (Viterbi).
// https://arxiv.org/abs/1804.10959, as the Rust library's encode_optimized has it.
import { type Fields, FormatError, TokenizingError } from "../fields.ts";
import { fallbackToken } from "./bpe.ts";
import type { Model } from "./model.ts";
import { PairTable } from "./pair-table.ts";
import { WordCache } from "./word-cache.ts";

/** What an unknown character costs below the lowest score. */
const UNKNOWN_PENALTY = 10;

export class Unigram implements Model {
  readonly vocabulary: ReadonlyMap<string, number>;
  readonly size: number;
  readonly tokens: readonly string[];
  readonly longest = undefined;
  readonly #scores: Float64Array;
  readonly #unknown: number | undefined;
  readonly #unknownScore: number;
  readonly #byteIds: Int32Array | undefined;
  /** A trie over UTF-16 units: (node, unit) to child and to the id that ends there, -1 for none. The root is node 0. */
  readonly #trie: PairTable;
  readonly #cache = new WordCache();

  constructor(fields: Fields) {
    const list = fields.list("vocab");
    const vocabulary = new Map<string, number>();
    const tokens: string[] = [];
    this.#scores = new Float64Array(list.length);
    let lowest = Number.POSITIVE_INFINITY;
    for (const [id, entry] of list.entries()) {
      const [token, score] = Array.isArray(entry) ? entry : [];
      if (typeof token !== "string" || typeof score !== "number")
        throw new FormatError(`${fields.key("vocab")}[${id}]`, "must be a token and its score");
      vocabulary.set(token, id);
      tokens.push(token);
      this.#scores[id] = score;
      if (score < lowest) lowest = score;
    }
    this.vocabulary = vocabulary;
    this.tokens = tokens;
    this.size = list.length;
    this.#unknownScore = lowest - UNKNOWN_PENALTY;
    this.#unknown = fields.raw("unk_id") === undefined ? undefined : fields.whole("unk_id");
    if (this.#unknown !== undefined && this.#unknown >= list.length)
      fields.fail("unk_id", `below ${list.length}, the size of the vocabulary`);
    this.#byteIds = fields.flag("byte_fallback", false)
      ? Int32Array.from({ length: 256 }, (_, byte) => vocabulary.get(fallbackToken(byte)) ?? -1)
      : undefined;
    this.#trie = trieOf(vocabulary);
  }

  encode(word: string, ids: number[]): void {
    const known = this.#cache.get(word);
    if (known !== undefined) {
      if (typeof known === "number") ids.push(known);
      else for (let i = 0; i < known.length; i++) ids.push(known[i]!);
      return;
    }
    const begin = ids.length;
    this.#search(word, ids);
    this.#cache.set(word, Int32Array.from(ids.slice(begin)));
  }

  #search(word: string, ids: number[]): void {
    const size = word.length;
    const best = new Float64Array(size + 1);
    const from = new Int32Array(size + 1).fill(-1);
    const through = new Int32Array(size + 1);
    const trie = this.#trie;
    for (let start = 0; start < size; ) {
      const here = best[start]!;
      const step = word.codePointAt(start)! > 0xffff ? 2 : 1;
      let hasSingle = false;
      let node = 0;
      for (let end = start; end < size; ) {
        const at = trie.find(node, word.charCodeAt(end));
        if (at < 0) break;
        node = trie.first(at);
        end++;
        const id = trie.second(at);
        if (id < 0) continue;
        const score = here + this.#scores[id]!;
        if (from[end]! < 0 || score > best[end]!) {
          best[end] = score;
          from[end] = start;
          through[end] = id;
        }
        if (end === start + step) hasSingle = true;
      }
      if (!hasSingle) {
        const end = start + step;
        const score = here + this.#unknownScore;
        if (from[end]! < 0 || score > best[end]!) {
          if (this.#unknown === undefined) throw missingUnknown();
          best[end] = score;
          from[end] = start;
          through[end] = this.#unknown;
        }
      }
      start += step;
    }
    this.#trace(word, from, through, ids);
  }

  /** Reads the path backwards; unknown tokens side by side are one. */
  #trace(word: string, from: Int32Array, through: Int32Array, ids: number[]): void {
    const pieces: [start: number, end: number, id: number][] = [];
    for (let end = word.length; end > 0; end = from[end]!) {
      const start = from[end]!;
      const last = pieces.at(-1);
      if (last !== undefined && last[2] === this.#unknown && through[end] === last[2]) last[0] = start;
      else pieces.push([start, end, through[end]!]);
    }
    for (const [start, end, id] of pieces.reverse()) {
      if (id !== this.#unknown) ids.push(id);
      else this.#unknownPiece(word.slice(start, end), ids);
    }
  }

  #unknownPiece(text: string, ids: number[]): void {
    const id = this.vocabulary.get(text);
    if (id !== undefined) ids.push(id);
    else if (this.#byteIds !== undefined) {
      const bytes = Buffer.from(text, "utf8");
      if (bytes.every((byte) => this.#byteIds![byte]! >= 0))
        for (const byte of bytes) ids.push(this.#byteIds[byte]!);
      else ids.push(this.#unknown!);
    } else ids.push(this.#unknown!);
  }
}

function missingUnknown(): TokenizingError {
  return new TokenizingError("it meets an unknown character and names no unk_id");
}

function trieOf(vocabulary: ReadonlyMap<string, number>): PairTable {
  const trie = new PairTable(vocabulary.size * 2);
  let nodes = 1;
  for (const [token, id] of vocabulary) {
    let node = 0;
    for (let i = 0; i < token.length; i++) {
      const unit = token.charCodeAt(i);
      const at = trie.find(node, unit);
      const child = at < 0 ? nodes++ : trie.first(at);
      const isLast = i + 1 === token.length;
      if (at < 0 || isLast) trie.set(node, unit, child, isLast ? id : at < 0 ? -1 : trie.second(at));
      node = child;
    }
  }
  return trie;
}
