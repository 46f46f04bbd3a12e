// For the tests of this folder: matrices of bf16 to pack, and a slow, clear decoder to compare with.

/** A small generator of random numbers (xorshift32), so that every run has the same. Returns u32. */
export function randomBits(seed: number): () => number {
  let state = seed | 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

/** Bits of normally distributed values of standard deviation 0.02, as weights have. */
export function normalWeights(elements: number, seed = 1): Uint16Array {
  const random = randomBits(seed);
  const float = new Float32Array(1);
  const bits = new Uint32Array(float.buffer);
  return Uint16Array.from({ length: elements }, () => {
    const radius = Math.sqrt(-2 * Math.log((random() + 1) / 2 ** 32));
    float[0] = 0.02 * radius * Math.cos(2 * Math.PI * (random() / 2 ** 32));
    return bits[0]! >>> 16;
  });
}

/** The bytes of elements. */
export function bytesOf(elements: Uint16Array): Uint8Array {
  return new Uint8Array(elements.buffer, elements.byteOffset, elements.byteLength);
}

/** The elements of a packed matrix, one at a time, as format.ts describes it. */
export function decodeSlowly(packed: Uint8Array): Uint16Array {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  const exceptions = view.getUint32(12, true);
  const elements = Number(view.getBigUint64(16, true));
  const output = new Uint16Array(elements);
  for (let i = 0; i < elements; i++) {
    const group = 64 + 48 * Math.floor(i / 32);
    const lane = i % 32;
    const codes = view.getUint8(group + 32 + (lane % 16));
    const exponent = view.getUint8(24 + (lane < 16 ? codes % 16 : Math.floor(codes / 16)));
    const rest = view.getUint8(group + lane);
    const sign = rest % 2;
    const mantissa = Math.floor(rest / 2);
    output[i] = sign * 32_768 + exponent * 128 + mantissa;
  }
  const indices = 64 + 48 * Math.ceil(elements / 32);
  const values = indices + 4 * exceptions;
  for (let k = 0; k < exceptions; k++) {
    output[view.getUint32(indices + 4 * k, true)] = view.getUint16(values + 2 * k, true);
  }
  return output;
}
