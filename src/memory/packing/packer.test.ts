import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { CheckpointError, ConfigError } from "../../base/errors.ts";
import { decodeHeader, packedBytes } from "./format.ts";
import { Packer, packBf16 } from "./packer.ts";
import { bytesOf, decodeSlowly, normalWeights, randomBits } from "./testing.ts";

/** Packs in two passes over blocks of these sizes, the last one again and again. */
function packInBlocks(source: Uint8Array, sizes: readonly number[]): Uint8Array {
  const blocks: Uint8Array[] = [];
  for (let at = 0, i = 0; at < source.length; i++) {
    const size = sizes[Math.min(i, sizes.length - 1)]!;
    blocks.push(source.subarray(at, at + size));
    at += size;
  }
  const packer = new Packer(source.length / 2);
  for (const block of blocks) packer.count(block);
  const parts = [packer.begin()];
  for (const block of blocks) parts.push(packer.pack(block));
  parts.push(packer.finish());
  const packed = new Uint8Array(Buffer.concat(parts));
  expect(packed.length).toBe(packer.packedBytes);
  return packed;
}

test("another packer can make the second pass, from the header, in the first one's memory", () => {
  const source = bytesOf(normalWeights(10_000));
  const first = new Packer(10_000);
  first.count(source);
  const header = first.begin();
  first.dispose();
  using between = new Packer(64); // leaves nothing behind that counts
  between.count(bytesOf(normalWeights(64)));
  between.dispose();
  using second = Packer.resume(header);
  const packed = Buffer.concat([header, second.pack(source), second.finish()]);
  expect(Buffer.compare(packed, packBf16(source)!)).toBe(0);
});

test("the committed module is the one its text compiles to", () => {
  const script = fileURLToPath(new URL("../../../scripts/build-wasm.mjs", import.meta.url));
  const { status, stderr } = spawnSync(process.execPath, [script, "--check"], { encoding: "utf8" });
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
});

describe("packBf16", () => {
  test("weights come to three quarters, with few exceptions", () => {
    const weights = normalWeights(100_000);
    const packed = packBf16(bytesOf(weights))!;
    expect(Buffer.compare(bytesOf(decodeSlowly(packed)), bytesOf(weights))).toBe(0);
    expect(packed.length / weights.byteLength).toBeLessThan(0.752);
    const { elements, exceptions } = decodeHeader(packed);
    expect(elements).toBe(100_000);
    expect(exceptions).toBeGreaterThan(0);
    expect(packed.length).toBe(packedBytes(elements, exceptions));
  });

  test("zeros need no exception", () => {
    const packed = packBf16(new Uint8Array(20_000))!;
    expect(packed.length).toBe(packedBytes(10_000, 0));
    expect(decodeSlowly(packed).every((bits) => bits === 0)).toBe(true);
  });

  test("a matrix with every bit pattern in it comes back", () => {
    const some = normalWeights(100_000);
    const weights = new Uint16Array(4_000_000);
    for (let at = 0; at < weights.length; at += some.length) weights.set(some, at);
    for (let bits = 0; bits < 65_536; bits++) weights[bits * 61] = bits;
    const packed = packBf16(bytesOf(weights))!;
    expect(Buffer.compare(bytesOf(decodeSlowly(packed)), bytesOf(weights))).toBe(0);
  });

  test("what would not become small enough is left alone", () => {
    const random = randomBits(7);
    expect(packBf16(bytesOf(Uint16Array.from({ length: 50_000 }, random)))).toBeUndefined();
    expect(packBf16(new Uint8Array(2))).toBeUndefined();
    expect(packBf16(new Uint8Array(0))).toBeUndefined();
  });

  test("the limit is 80 %", () => {
    // 32,000 elements: 48,064 bytes without exceptions, and 51,200 are allowed, so 522 exceptions.
    const weights = (exceptions: number) =>
      Uint16Array.from({ length: 32_000 }, (_, i) => (i < exceptions ? (i % 100) + 100 : 1 + (i % 16)) << 7);
    expect(decodeHeader(packBf16(bytesOf(weights(522)))!).exceptions).toBe(522);
    expect(packBf16(bytesOf(weights(523)))).toBeUndefined();
  });

  test("half an element is refused", () => {
    expect(() => packBf16(new Uint8Array(3))).toThrow(ConfigError);
  });
});

describe("Packer", () => {
  test("blocks of any size give the same bytes as one call", () => {
    const weights = bytesOf(normalWeights(300_001));
    const packed = packBf16(weights)!;
    for (const sizes of [[1, 63, 131_072], [65_537], [600_002], [0, 7, 200_000]]) {
      expect(Buffer.compare(packInBlocks(weights, sizes), packed)).toBe(0);
    }
  });

  test("any elements in any blocks come back, worthwhile or not", () => {
    fc.assert(
      fc.property(
        fc.uint16Array({ maxLength: 400 }),
        fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 5 }),
        (elements, sizes) => {
          expect(decodeSlowly(packInBlocks(bytesOf(elements), sizes))).toEqual(elements);
        },
      ),
      { seed: 5, numRuns: 200 },
    );
  });

  test("every one of the 65536 bit patterns is an element like any other", () => {
    const all = Uint16Array.from({ length: 65_536 }, (_, bits) => bits);
    expect(Buffer.compare(bytesOf(decodeSlowly(packInBlocks(bytesOf(all), [65_536]))), bytesOf(all))).toBe(0);
  });

  test("the last group is filled up with zeros", () => {
    const packed = packInBlocks(bytesOf(Uint16Array.of(0xffff, 0xffff, 0xffff)), [6]);
    const { table } = decodeHeader(packed);
    const code = table.indexOf(255);
    const group = new Uint8Array(48);
    group.fill(255, 0, 3);
    group.fill(code, 32, 35);
    expect(packed.subarray(64)).toEqual(group);
  });

  test("a matrix that is not as long as was said is refused", () => {
    const short = new Packer(100);
    short.count(new Uint8Array(198));
    expect(() => short.begin()).toThrow("has 200 bytes, only 198 came");
    expect(() => short.count(new Uint8Array(4))).toThrow(CheckpointError);
    short.count(new Uint8Array(2));
    short.begin();
    short.pack(new Uint8Array(100));
    expect(() => short.finish()).toThrow("has 200 bytes, only 100 came");
  });

  test("a matrix that changes between the passes is refused, not packed wrongly", () => {
    // 20 exponents, of which 4 do not fit in the table
    const before = bytesOf(Uint16Array.from({ length: 10_000 }, (_, i) => (100 + (i % 20)) << 7));
    const packer = () => {
      const packer = new Packer(10_000);
      packer.count(before);
      packer.begin();
      return packer;
    };
    const more = packer();
    expect(() => more.pack(new Uint8Array(20_000).fill(255))).toThrow("changed between its two readings");
    const fewer = packer();
    fewer.pack(bytesOf(new Uint16Array(10_000).fill(100 << 7)));
    expect(() => fewer.finish()).toThrow("changed between its two readings");
  });

  test("its calls have an order", () => {
    const packer = new Packer(0);
    expect(() => packer.pack(new Uint8Array(0))).toThrow("the packer is counting");
    packer.begin();
    expect(() => packer.count(new Uint8Array(0))).toThrow("the packer is packing");
    packer.finish();
    expect(() => packer.finish()).toThrow("the packer is finished");
  });

  test("more elements than the format has room for are refused", () => {
    for (const elements of [2 ** 32, -1, 1.5, Number.NaN]) {
      expect(() => new Packer(elements)).toThrow(ConfigError);
    }
  });
});
