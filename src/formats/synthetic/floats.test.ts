import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { bf16Bits, encodeFloats, f16Bits } from "./floats.ts";

const word = new DataView(new ArrayBuffer(4));

function bitsOf(value: number): number {
  word.setFloat32(0, value);
  return word.getUint32(0);
}

function floatOf(bits: number): number {
  word.setUint32(0, bits);
  return word.getFloat32(0);
}

/** The value of IEEE binary16 bits, by its definition. */
function f16Value(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** The value of bfloat16 bits: the upper half of an f32. */
const bf16Value = (bits: number) => floatOf((bits << 16) >>> 0);

describe.each([
  { name: "f16", toBits: f16Bits, value: f16Value, infinity: 0x7c00 },
  { name: "bf16", toBits: bf16Bits, value: bf16Value, infinity: 0x7f80 },
])("$name", ({ toBits, value, infinity }) => {
  test("every value of the type keeps its bits", () => {
    for (let bits = 0; bits < 65536; bits++) {
      const exact = value(bits);
      if (Number.isNaN(exact)) expect(value(toBits(bitsOf(exact)))).toBeNaN();
      else if (toBits(bitsOf(exact)) !== bits) expect.fail(`${bits} came back as ${toBits(bitsOf(exact))}`);
    }
  });

  test("values between two of the type go to the nearer, and from the middle to the even one", () => {
    fc.assert(
      fc.property(fc.nat(infinity - 2), fc.double({ min: 0, max: 1, noNaN: true }), (bits, t) => {
        const low = value(bits);
        const high = value(bits + 1);
        const between = Math.fround(low + t * (high - low));
        const middle = low / 2 + high / 2;
        const expected = between < middle ? bits : between > middle ? bits + 1 : bits + (bits & 1);
        expect(toBits(bitsOf(between))).toBe(expected);
        expect(toBits(bitsOf(-between))).toBe(expected | 0x8000);
        expect(toBits(bitsOf(Math.fround(middle)))).toBe(bits + (bits & 1));
      }),
    );
  });

  test("infinities and what is too large are infinite", () => {
    expect(toBits(bitsOf(Number.POSITIVE_INFINITY))).toBe(infinity);
    expect(toBits(bitsOf(-3.4028234663852886e38))).toBe(infinity | 0x8000);
  });
});

test("bytes are little-endian", () => {
  const values = Float32Array.of(1, -2);
  expect([...encodeFloats(values, "f32")]).toEqual([0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
  expect([...encodeFloats(values, "f16")]).toEqual([0, 0x3c, 0, 0xc0]);
  expect([...encodeFloats(values, "bf16")]).toEqual([0x80, 0x3f, 0, 0xc0]);
});
