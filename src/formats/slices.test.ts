import fc from "fast-check";
import { expect, test } from "vitest";
import { DTYPES } from "../backend/ggml/dtypes.ts";
import { CheckpointError } from "../base/errors.ts";
import { rowsOf, stackedOf } from "./slices.ts";
import type { TensorEntry } from "./types.ts";

/** A tensor of bytes somewhere in a file of bytes that count up. */
const tensor = fc
  .record({
    shape: fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 4 }),
    dtype: fc.constantFrom("f32" as const, "bf16" as const, "i8" as const),
    offset: fc.nat(100),
  })
  .map(({ shape, dtype, offset }): TensorEntry => {
    const bytes = shape.reduce((a, b) => a * b, 1) * DTYPES[dtype].bytes;
    return { name: "stack.weight", dtype, shape, file: 0, offset, bytes };
  });
const FILE = Uint8Array.from({ length: 100 + 6 ** 4 * 4 }, (_, i) => i * 31);
const bytesOf = ({ offset, bytes }: TensorEntry) => FILE.subarray(offset, offset + bytes);

test("rows of a tensor are its bytes from the first of them on", () => {
  fc.assert(
    fc.property(tensor, fc.nat(5), fc.nat(5), (entry, a, b) => {
      const rows = entry.shape[0] as number;
      const [first, count] = [a % rows, 1 + (b % (rows - (a % rows)))];
      const part = rowsOf(entry, first, count);
      const row = entry.bytes / rows;
      expect(part.shape).toEqual([count, ...entry.shape.slice(1)]);
      expect(bytesOf(part)).toEqual(bytesOf(entry).subarray(first * row, (first + count) * row));
      expect(rowsOf(entry, 0, rows)).toEqual(entry);
    }),
  );
});

test("the tensors of a stack are there one after another, and slices of slices are slices", () => {
  fc.assert(
    fc.property(tensor, (entry) => {
      const all = Array.from({ length: entry.shape[0] as number }, (_, i) => stackedOf(entry, i));
      for (const one of all) expect(one.shape).toEqual(entry.shape.slice(1));
      expect(Buffer.concat(all.map(bytesOf))).toEqual(Buffer.from(bytesOf(entry)));
      const [first] = all as [TensorEntry];
      if (first.shape.length > 0) expect(rowsOf(first, 0, 1).offset).toBe(entry.offset);
    }),
  );
});

test("what is not there is refused with the numbers", () => {
  const entry: TensorEntry = { name: "w", dtype: "f32", shape: [4, 2], file: 0, offset: 8, bytes: 32 };
  for (const [first, count] of [
    [4, 1],
    [0, 5],
    [-1, 2],
    [0.5, 1],
    [1, 0],
  ] as const)
    expect(() => rowsOf(entry, first, count)).toThrow(CheckpointError);
  expect(() => stackedOf(entry, 4)).toThrow(/tensor w: \[4, 2\] has 4 rows; 1 from row 4 on were asked for/);
});
