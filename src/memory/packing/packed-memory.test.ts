import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { CheckpointError, ConfigError } from "../../base/errors.ts";
import { GROUP, HEADER_BYTES, packedBytes } from "./format.ts";
import { PackedMemory } from "./packed-memory.ts";
import { Packer, packBf16 } from "./packer.ts";
import { bytesOf, decodeSlowly, normalWeights } from "./testing.ts";

/** Packs whether worthwhile or not. */
function pack(elements: Uint16Array): Uint8Array {
  const packer = new Packer(elements.length);
  packer.count(bytesOf(elements));
  return new Uint8Array(Buffer.concat([packer.begin(), packer.pack(bytesOf(elements)), packer.finish()]));
}

/** Unpacks with `packed` at `from`, in memory that is otherwise all 0xa5. */
function unpackAt(packed: Uint8Array, from: number, to: number, elements: number): PackedMemory {
  const memory = new PackedMemory(Math.max(from + packed.length, to + 2 * elements, 1));
  memory.bytes.fill(0xa5);
  memory.bytes.set(packed, from);
  memory.unpack(from, to, elements, packed.length);
  return memory;
}

/** Expects `elements` at `to`, and 0xa5 everywhere that is neither theirs nor in the packed bytes' range. */
function expectOnly(
  memory: PackedMemory,
  elements: Uint16Array,
  to: number,
  from: number,
  packed: number,
): void {
  const rest = memory.bytes.slice();
  expect(Buffer.compare(rest.subarray(to, to + elements.byteLength), bytesOf(elements))).toBe(0);
  rest.fill(0xa5, to, to + elements.byteLength);
  rest.fill(0xa5, from, from + packed);
  expect(Buffer.compare(rest, Buffer.alloc(rest.length, 0xa5))).toBe(0);
}

/** The tightest slot that unpacking in place takes: [output ... ][packed], overlapping as far as they may. */
function tightestStart(elements: number, packed: number): number {
  return Math.max(0, Math.ceil(elements / GROUP) * 64 - packed);
}

test("in turns of any size: the same, and other work gets its turn in between", () => {
  const weights = normalWeights(1000);
  const packed = pack(weights);
  for (const turn of [1, 32, 100, 999, 1000, 5000]) {
    const slot = 2 * 1000 + 4096;
    const memory = new PackedMemory(slot);
    memory.bytes.set(packed, slot - packed.length);
    const turns = [...memory.unpackInTurns(slot - packed.length, 0, 1000, packed.length, turn)].length;
    expect(Buffer.compare(memory.bytes.subarray(0, 2000), bytesOf(weights))).toBe(0);
    expect(turns).toBe(Math.ceil(1000 / (Math.ceil(turn / GROUP) * GROUP)) - 1);
  }
});

test("from bytes that lie elsewhere, in turns of any size: the same, and they are left as they are", () => {
  for (const count of [0, 1, 33, 4095, 65_536, 200_003]) {
    const weights = normalWeights(count);
    const packed = pack(weights);
    const before = packed.slice();
    for (const turn of [32, 50_000, 70_000, 2 ** 21]) {
      const memory = new PackedMemory(Math.max(1, 100 + 2 * count));
      memory.bytes.fill(0xa5);
      const turns = [...memory.unpackFromInTurns(packed, 100, count, turn)].length;
      expectOnly(memory, weights, 100, 0, 0);
      expect(turns).toBe(Math.max(0, Math.ceil(count / (Math.ceil(turn / GROUP) * GROUP)) - 1));
    }
    expect(Buffer.compare(packed, before)).toBe(0);
  }
});

test("from bytes elsewhere: what is damaged, or does not fit, is refused before anything is written", () => {
  const packed = pack(normalWeights(100));
  const memory = new PackedMemory(65_536);
  const damaged = packed.slice();
  damaged[0] = 0;
  const unpack = (bytes: Uint8Array, to: number, count: number) => [
    ...memory.unpackFromInTurns(bytes, to, count, count),
  ];
  expect(() => unpack(damaged, 0, 100)).toThrow(CheckpointError);
  expect(() => unpack(packed.subarray(0, packed.length - 1), 0, 100)).toThrow(CheckpointError);
  expect(() => unpack(packed, 0, 101)).toThrow(CheckpointError);
  expect(() => unpack(packed, 65_536 - 199, 100)).toThrow(ConfigError);
  expect(memory.bytes.every((byte) => byte === 0)).toBe(true);
});

describe("unpack", () => {
  for (const count of [0, 1, 31, 32, 33, 63, 64, 65, 4095, 4096, 4097, 1_000_003]) {
    test(`${count} weights, elsewhere and in place`, () => {
      const weights = normalWeights(count);
      const packed = pack(weights);

      const apart = unpackAt(packed, 2 * count + 3, 3, count);
      expectOnly(apart, weights, 3, 2 * count + 3, packed.length);
      expect(Buffer.compare(apart.bytes.subarray(2 * count + 3).subarray(0, packed.length), packed)).toBe(0);

      const behind = unpackAt(packed, 1, 1 + packed.length, count);
      expectOnly(behind, weights, 1 + packed.length, 1, packed.length);

      const slot = 2 * count + 4096;
      const inSlot = unpackAt(packed, slot - packed.length, 0, count);
      expectOnly(inSlot, weights, 0, slot - packed.length, packed.length);

      const from = tightestStart(count, packed.length);
      expectOnly(unpackAt(packed, from, 0, count), weights, 0, from, packed.length);
    });
  }

  test("in place with so many exceptions that the groups lie far before the end of the slot", () => {
    const weights = normalWeights(200_000);
    for (let i = 0; i < 3000; i++) weights[i * 66] = 0x7f80 | (i & 0x7f); // infinities and NaNs
    const packed = packBf16(bytesOf(weights))!;
    const from = tightestStart(weights.length, packed.length);
    expectOnly(unpackAt(packed, from, 0, weights.length), weights, 0, from, packed.length);
  });

  test("every bit pattern", () => {
    const all = Uint16Array.from({ length: 65_536 }, (_, bits) => bits);
    const packed = pack(all);
    const from = tightestStart(all.length, packed.length);
    expectOnly(unpackAt(packed, from, 0, all.length), all, 0, from, packed.length);
  });

  test("any elements, at any distance that is allowed, as the slow decoder has them", () => {
    const element = fc.oneof(
      { weight: 30, arbitrary: fc.integer({ min: 0x3c00, max: 0x3fff }) },
      { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffff }) },
    );
    fc.assert(
      fc.property(
        fc.array(element, { maxLength: 1000 }),
        fc.nat(200),
        fc.nat(3000),
        (values, to, distance) => {
          const elements = Uint16Array.from(values);
          const packed = pack(elements);
          expect(decodeSlowly(packed)).toEqual(elements);
          const from = to + tightestStart(elements.length, packed.length) + distance;
          expectOnly(unpackAt(packed, from, to, elements.length), elements, to, from, packed.length);
        },
      ),
      { seed: 11, numRuns: 200 },
    );
  });

  test("one byte tighter than the tightest is refused before anything is written", () => {
    const packed = pack(normalWeights(4096));
    const memory = new PackedMemory(3 * 4096);
    const from = tightestStart(4096, packed.length) - 1;
    memory.bytes.set(packed, from);
    const before = memory.bytes.slice();
    expect(() => memory.unpack(from, 0, 4096, packed.length)).toThrow(ConfigError);
    expect(Buffer.compare(memory.bytes, before)).toBe(0);
  });
});

describe("damaged bytes are refused before anything is written", () => {
  const weights = normalWeights(5000);
  for (let i = 0; i < 10; i++) weights[i * 300] = (200 + i) << 7; // ten exponents that occur once
  const good = pack(weights);
  const exceptions = new DataView(good.buffer).getUint32(12, true);
  const indices = packedBytes(weights.length, 0);

  function refuses(change: (view: DataView) => void, message: string): void {
    const packed = good.slice();
    change(new DataView(packed.buffer));
    const memory = new PackedMemory(65_536);
    memory.bytes.set(packed, 12_000);
    const before = memory.bytes.slice();
    const unpack = () => memory.unpack(12_000, 0, weights.length, packed.length);
    expect(unpack).toThrow(CheckpointError);
    expect(unpack).toThrow(message);
    expect(Buffer.compare(memory.bytes, before)).toBe(0);
  }

  test("not packed weights", () => refuses((view) => view.setUint8(4, 0x33), "do not begin with SWB12"));
  test("another version", () => refuses((view) => view.setUint32(8, 2, true), "version 2"));
  test("another number of elements", () =>
    refuses((view) => view.setBigUint64(16, 4999n, true), "have 4999 elements, 5000 are expected"));
  test("more elements than there can be", () =>
    refuses((view) => view.setBigUint64(16, 2n ** 32n, true), "header of packed weights is damaged"));
  test("more exceptions than elements", () =>
    refuses((view) => view.setUint32(12, 5001, true), "header of packed weights is damaged"));
  test("another number of exceptions", () =>
    refuses((view) => view.setUint32(12, exceptions + 1, true), "their header says"));
  test("something in the header's unused end", () =>
    refuses((view) => view.setUint8(HEADER_BYTES - 1, 1), "its end is not zero"));
  test("an exception beyond the last element", () =>
    refuses(
      (view) => view.setUint32(indices + 4 * (exceptions - 1), 5000, true),
      "exception at element 5000",
    ));
  test("exceptions out of order", () => {
    expect(exceptions).toBeGreaterThan(1);
    refuses(
      (view) => view.setUint32(indices + 4, view.getUint32(indices, true), true),
      "packed weights are damaged",
    );
  });

  test("cut short, in the exceptions, the groups or the header", () => {
    const memory = new PackedMemory(65_536);
    memory.bytes.set(good, 12_000);
    for (const bytes of [good.length - 1, 1000, 64, 63, 0]) {
      expect(() => memory.unpack(12_000, 0, weights.length, bytes)).toThrow(CheckpointError);
    }
  });

  test("ranges outside the memory", () => {
    const memory = new PackedMemory(65_536);
    memory.bytes.set(good, 65_536 - good.length);
    const from = 65_536 - good.length;
    for (const [at, to] of [
      [from + 1, 0],
      [-1, 0],
      [from, 65_536 - 2 * weights.length + 1],
      [from, -1],
      [from, 0.5],
      [Number.NaN, 0],
    ] as const) {
      expect(() => memory.unpack(at, to, weights.length, good.length)).toThrow(ConfigError);
    }
    memory.unpack(from, 0, weights.length, good.length);
    expect(Buffer.compare(memory.bytes.subarray(0, 10_000), bytesOf(weights))).toBe(0);
  });
});

describe("PackedMemory", () => {
  test("is whole pages of zeros", () => {
    const { bytes } = new PackedMemory(65_537);
    expect(bytes.length).toBe(131_072);
    expect(bytes.byteOffset).toBe(0);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
  });

  test("works up to its last byte, 4 GiB less 192 KiB", () => {
    const bytes = 2 ** 32 - 3 * 65_536;
    const memory = new PackedMemory(bytes);
    const weights = normalWeights(10_000);
    const packed = pack(weights);
    memory.bytes.set(packed, bytes - packed.length);
    memory.unpack(bytes - packed.length, bytes - 40_000, weights.length, packed.length);
    expect(Buffer.compare(memory.bytes.subarray(bytes - 40_000, bytes - 20_000), bytesOf(weights))).toBe(0);
    memory.bytes.set(packed, 0);
    memory.unpack(0, bytes - 20_000, weights.length, packed.length);
    expect(Buffer.compare(memory.bytes.subarray(bytes - 20_000), bytesOf(weights))).toBe(0);
  });

  test("more is refused, and so is nothing", () => {
    for (const bytes of [2 ** 32 - 3 * 65_536 + 1, 2 ** 40, 0, -1, Number.NaN]) {
      expect(() => new PackedMemory(bytes)).toThrow(ConfigError);
    }
  });
});
