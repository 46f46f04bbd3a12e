// The random numbers of sampling: xoshiro128** seeded by splitmix32. 32-bit integer arithmetic only, so a seed gives the
// same numbers on every platform. Not for secrets.

/** The golden ratio in 32 bits: splitmix32's step. */
const GOLDEN = 0x9e3779b9;

/**
 * xoshiro128** 1.1 (Blackman and Vigna, https://prng.di.unimi.it/xoshiro128starstar.c).
 * The state is the first four outputs of splitmix32 started at the seed; of a seed past 32 bits, started at the first
 * output for its low 32 bits, xored with its high bits. Four outputs in a row are never all zero, as xoshiro needs.
 */
export class Xoshiro128 {
  readonly #state = new Uint32Array(4);

  /** @param seed integer from 0 to 2^53 - 1 */
  constructor(seed: number) {
    const low = seed >>> 0;
    const high = Math.floor(seed / 2 ** 32);
    const next = splitmix32(high === 0 ? low : splitmix32(low)() ^ high);
    for (let i = 0; i < 4; i++) this.#state[i] = next();
  }

  /** The next integer from 0 to 2^32 - 1. */
  uint32(): number {
    const s = this.#state;
    const result = Math.imul(rotateLeft(Math.imul(s[1]!, 5), 7), 9) >>> 0;
    const t = s[1]! << 9;
    s[2]! ^= s[0]!;
    s[3]! ^= s[1]!;
    s[1]! ^= s[2]!;
    s[0]! ^= s[3]!;
    s[2]! ^= t;
    s[3] = rotateLeft(s[3]!, 11);
    return result;
  }

  /** The next number in [0, 1), 53 random bits. */
  uniform(): number {
    const high = this.uint32() >>> 5; // 27 bits
    const low = this.uint32() >>> 6; // 26 bits
    return (high * 2 ** 26 + low) / 2 ** 53;
  }
}

/** splitmix32: the 32-bit finalizer of MurmurHash3 over a Weyl sequence. */
function splitmix32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + GOLDEN) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    return (z ^ (z >>> 16)) >>> 0;
  };
}

function rotateLeft(x: number, bits: number): number {
  return (x << bits) | (x >>> (32 - bits));
}
