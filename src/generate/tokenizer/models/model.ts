// What every model of a tokenizer does: words to token ids, by its vocabulary. Models neither normalize nor split texts.

export interface Model {
  /** Ids by token. */
  readonly vocabulary: ReadonlyMap<string, number>;
  /** Tokens by id, where they are not simply those of the vocabulary: one token may have several ids. */
  readonly tokens?: readonly string[];
  /** Number of tokens, as ids of added tokens count on from it. */
  readonly size: number;
  /** Appends the ids of a word, which is not empty. Throws TokenizingError where the vocabulary has none for it. */
  encode(word: string, ids: number[]): void;
  /**
   * The longest token in UTF-8 bytes, if no text of more bytes can become a single token; undefined where one token may
   * stand for any length, as an unknown token does.
   */
  readonly longest: number | undefined;
}
