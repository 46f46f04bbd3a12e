// Dropout masks that depend on a seed alone: forward and backward of a step, and a step that is made again after
// resuming, see the same ones.
import { hash32 } from "./data/order.ts";

/**
 * Values for inverted dropout (Srivastava et al. 2014): 0 with probability `p`, else 1 / (1 - p). The generator is
 * xorshift128 (Marsaglia 2003), seeded by all numbers of `seed`.
 */
export function dropoutMask(length: number, p: number, seed: readonly number[]): Float32Array {
  const kept = 1 / (1 - p);
  const limit = Math.floor(p * 2 ** 32);
  let [x, y, z, w] = [1, 2, 3, 4].map((n) => hash32(...seed, n) | 1) as [number, number, number, number];
  const mask = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    const t = x ^ (x << 11);
    [x, y, z] = [y, z, w];
    w = w ^ (w >>> 19) ^ t ^ (t >>> 8);
    mask[i] = w >>> 0 < limit ? 0 : kept;
  }
  return mask;
}
