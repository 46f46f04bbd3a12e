// The two models of whole words: WordPiece, which takes the longest token at each place, and WordLevel, which looks up.
import { type Fields, TokenizingError } from "../fields.ts";
import type { Model } from "./model.ts";

export class WordPiece implements Model {
  readonly vocabulary: ReadonlyMap<string, number>;
  readonly size: number;
  readonly longest = undefined;
  readonly #unknown: number | undefined;
  readonly #prefix: string;
  readonly #longestWord: number;
  /** No token has more UTF-16 units, so that long words take a bounded number of looks at each place. */
  readonly #longestToken: number;

  constructor(fields: Fields) {
    this.vocabulary = fields.vocabulary("vocab");
    this.size = this.vocabulary.size;
    this.#unknown = this.vocabulary.get(fields.text("unk_token", "[UNK]"));
    this.#prefix = fields.text("continuing_subword_prefix", "##");
    this.#longestWord = fields.whole("max_input_chars_per_word", 100);
    let longest = 0;
    for (const token of this.vocabulary.keys()) longest = Math.max(longest, token.length);
    this.#longestToken = longest;
  }

  encode(word: string, ids: number[]): void {
    const before = ids.length;
    if (characters(word, this.#longestWord) <= this.#longestWord && this.#pieces(word, ids)) return;
    ids.length = before;
    ids.push(unknownId(this.#unknown));
  }

  #pieces(word: string, ids: number[]): boolean {
    for (let start = 0; start < word.length; ) {
      const prefix = start > 0 ? this.#prefix : "";
      let end = Math.min(word.length, start + this.#longestToken - prefix.length);
      let id: number | undefined;
      for (; end > start; end--) {
        id = this.vocabulary.get(prefix + word.slice(start, end));
        if (id !== undefined) break;
      }
      if (id === undefined) return false;
      ids.push(id);
      start = end;
    }
    return true;
  }
}

export class WordLevel implements Model {
  readonly vocabulary: ReadonlyMap<string, number>;
  readonly size: number;
  readonly longest = undefined;
  readonly #unknown: number | undefined;

  constructor(fields: Fields) {
    this.vocabulary = fields.vocabulary("vocab");
    this.size = this.vocabulary.size;
    this.#unknown = this.vocabulary.get(fields.text("unk_token", "<unk>"));
  }

  encode(word: string, ids: number[]): void {
    ids.push(this.vocabulary.get(word) ?? unknownId(this.#unknown));
  }
}

function unknownId(id: number | undefined): number {
  if (id === undefined)
    throw new TokenizingError("it meets an unknown word and its unk_token is not in its vocabulary");
  return id;
}

/** Code points of a word, counted up to one more than `limit`. */
function characters(word: string, limit: number): number {
  let count = 0;
  for (const _ of word) if (++count > limit) break;
  return count;
}
