// 64-bit floats to 32-bit ones where they lie: no kernel reads the former, and files that hold them are rare and small.

/** Elements narrowed at a time. */
const BLOCK = 8192;

/** Turns `count` doubles at the start of `bytes` into floats, rounded to nearest, which take the first half of their place. */
export function narrowDoubles(bytes: Uint8Array, count: number): void {
  for (let at = 0; at < count; at += BLOCK) {
    const n = Math.min(BLOCK, count - at);
    // A copy, because the bytes may not lie at a multiple of 8.
    const doubles = new Float64Array(bytes.slice(at * 8, (at + n) * 8).buffer);
    bytes.set(new Uint8Array(Float32Array.from(doubles).buffer), at * 4);
  }
}
