// Remembers the token ids of words, for words come again. Bounded: of the words seen, the newer half is kept.

/** Words longer than this are not remembered. */
const LONGEST = 256;
/** Words of one generation. */
const GENERATION = 1 << 15;

/** The ids of a word: one id is kept as it is. */
export type WordIds = number | Int32Array;

export class WordCache {
  #young = new Map<string, WordIds>();
  #old = new Map<string, WordIds>();

  get(word: string): WordIds | undefined {
    const ids = this.#young.get(word);
    if (ids !== undefined) return ids;
    const older = this.#old.get(word);
    if (older !== undefined) this.#insert(word, older);
    return older;
  }

  set(word: string, ids: WordIds): void {
    if (word.length <= LONGEST) this.#insert(word, ids);
  }

  #insert(word: string, ids: WordIds): void {
    if (this.#young.size >= GENERATION) {
      this.#old = this.#young;
      this.#young = new Map();
    }
    this.#young.set(word, ids);
  }
}
