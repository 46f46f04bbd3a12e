// @ts-check
// Random choices that a seed repeats on every machine: 32-bit integer arithmetic only (mulberry32). Not for secrets.

/** @typedef {ReturnType<typeof choices>} Choices */

/**
 * The same seed gives the same choices in the same order.
 * @param {number} seed taken modulo 2^32
 */
export function choices(seed) {
  let state = seed >>> 0;
  /** Uniform on [0, 1), a multiple of 2^-32. */
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
  /** @param {number} n @returns {number} 0 .. n - 1 */
  const below = (n) => Math.floor(uniform() * n);
  return {
    uniform,
    /**
     * One of a list.
     * @template const T
     * @param {readonly T[]} list not empty
     * @returns {T}
     */
    pick: (list) => /** @type {any} */ (list[below(list.length)]),
    /**
     * Different ones of a list, in random order.
     * @template const T
     * @template {2 | 3} N
     * @param {readonly T[]} list at least `count` long
     * @param {N} count
     * @returns {N extends 2 ? [T, T] : [T, T, T]}
     */
    sample: (list, count) => {
      const rest = [...list];
      return /** @type {any} */ (Array.from({ length: count }, () => rest.splice(below(rest.length), 1)[0]));
    },
    /** @param {number} share @returns {boolean} true in `share` of the cases */
    chance: (share) => uniform() < share,
  };
}

/**
 * The seed of number `index` of a series: neighbours have nothing in common.
 * @param {number} seed of the series
 * @param {number} index
 */
export function seedOf(seed, index) {
  let h = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(index + 1, 0xc2b2ae35);
  h = Math.imul(h ^ (h >>> 16), 0x7feb352d);
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b);
  return (h ^ (h >>> 16)) >>> 0;
}
