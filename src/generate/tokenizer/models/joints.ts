// Where a word can be cut so that its tokens stay the same: between two characters that stand side by side in no token.
// May miss such a place, never names another. Cutting keeps texts without words, as SentencePiece has them, from being one.

/** Bits of the set of neighbours; hashes that collide only miss a cut. */
const BITS = 1 << 22;

export class Joints {
  /** Characters of the Basic Multilingual Plane that are tokens. */
  readonly #known = new Uint8Array(0x10000);
  readonly #neighbours = new Uint32Array(BITS / 32);

  constructor(tokens: Iterable<string>) {
    for (const token of tokens) {
      if (token.length === 1) this.#known[token.charCodeAt(0)] = 1;
      for (let i = 1; i < token.length; i++) {
        const bit = hash(token.charCodeAt(i - 1), token.charCodeAt(i));
        this.#neighbours[bit >>> 5]! |= 1 << (bit & 31);
      }
    }
  }

  /** The first place after `from` to cut at; the word's end if there is none. */
  next(word: string, from: number): number {
    const known = this.#known;
    let left = word.charCodeAt(from);
    for (let i = from + 1; i < word.length; i++) {
      const right = word.charCodeAt(i);
      // Next to a character without a token the tokens depend on each other: unknown ones are fused.
      if (known[left] === 1 && known[right] === 1) {
        const bit = hash(left, right);
        if ((this.#neighbours[bit >>> 5]! & (1 << (bit & 31))) === 0) return i;
      }
      left = right;
    }
    return word.length;
  }
}

function hash(left: number, right: number): number {
  let h = Math.imul((left << 16) | right, 0x9e3779b1);
  h ^= h >>> 15;
  return h & (BITS - 1);
}
