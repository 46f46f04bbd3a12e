// f32 to the bytes of f32, f16 and bf16, rounding to nearest even. For making test data; weights in use are converted
// by the tensor library.
import type { FloatDType } from "../../backend/ggml/dtypes.ts";

/** Little-endian bytes of `values` in `dtype`. */
export function encodeFloats(values: Float32Array, dtype: FloatDType): Uint8Array {
  switch (dtype) {
    case "f32": {
      const bytes = new Uint8Array(values.length * 4);
      const view = new DataView(bytes.buffer);
      for (let i = 0; i < values.length; i++) view.setFloat32(4 * i, values[i]!, true);
      return bytes;
    }
    case "bf16":
      return halves(values, bf16Bits);
    case "f16":
      return halves(values, f16Bits);
    default:
      return dtype satisfies never;
  }
}

function halves(values: Float32Array, bitsOf: (f32: number) => number): Uint8Array {
  const f32 = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const bytes = new Uint8Array(values.length * 2);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < values.length; i++) view.setUint16(2 * i, bitsOf(f32[i]!), true);
  return bytes;
}

/** The upper half of an f32's bits, rounded to nearest even. NaN stays NaN. */
export function bf16Bits(f32: number): number {
  if ((f32 & 0x7fffffff) > 0x7f800000) return ((f32 >>> 16) | 0x40) & 0xffff;
  return ((f32 + 0x7fff + ((f32 >>> 16) & 1)) >>> 16) & 0xffff;
}

/** IEEE binary16 bits of an f32's bits, rounded to nearest even. Too large becomes infinity, NaN stays NaN. */
export function f16Bits(f32: number): number {
  const sign = (f32 >>> 16) & 0x8000;
  const magnitude = f32 & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520 and up round to infinity
  const exponent = magnitude >>> 23;
  if (exponent < 102) return sign; // below 2^-25 rounds to zero
  const subnormal = exponent < 113; // below 2^-14
  const significand = subnormal ? (magnitude & 0x7fffff) | 0x800000 : magnitude - 0x38000000;
  const shift = subnormal ? 126 - exponent : 13;
  const half = 1 << (shift - 1);
  const kept = significand >>> shift;
  const rest = significand & ((1 << shift) - 1);
  const up = rest > half || (rest === half && (kept & 1) === 1) ? 1 : 0;
  return sign | (kept + up);
}
