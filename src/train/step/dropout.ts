// Dropout masks that depend on a seed alone: forward and backward of a step, and a step that is made again after
// resuming, see the same ones.
import { hash32 } from "../data/order.ts";

/**
 * Values for inverted dropout (Srivastava et al. 2014): 0 with probability `p`, else 1 / (1 - p). The generator is
 * xorshift128 (Marsaglia 2003), seeded by all numbers of `seed`. Made in order, as many at a time as are asked for.
 */
export class DropoutMask {
  readonly #kept: number;
  readonly #limit: number;
  #state: [number, number, number, number];

  constructor(p: number, seed: readonly number[]) {
    this.#kept = 1 / (1 - p);
    this.#limit = Math.floor(p * 2 ** 32);
    this.#state = [1, 2, 3, 4].map((n) => hash32(...seed, n) | 1) as [number, number, number, number];
  }

  /** Writes the next values. */
  fill(into: Float32Array): void {
    let [x, y, z, w] = this.#state;
    for (let i = 0; i < into.length; i++) {
      const t = x ^ (x << 11);
      [x, y, z] = [y, z, w];
      w = w ^ (w >>> 19) ^ t ^ (t >>> 8);
      into[i] = w >>> 0 < this.#limit ? 0 : this.#kept;
    }
    this.#state = [x, y, z, w];
  }
}
