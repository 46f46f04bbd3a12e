import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { RangeSet } from "./range-set.ts";

describe("RangeSet", () => {
  test("joins ranges that touch and splits one that something is taken out of", () => {
    const set = new RangeSet();
    set.add(10, 20);
    set.add(30, 40);
    set.add(20, 30);
    expect(set.pieces).toEqual([{ from: 10, to: 40 }]);
    set.remove(15, 25);
    expect(set.pieces).toEqual([
      { from: 10, to: 15 },
      { from: 25, to: 40 },
    ]);
    expect(set.total).toBe(20);
  });

  test("finds the smallest piece that is large enough", () => {
    const set = new RangeSet();
    set.add(0, 100);
    set.add(200, 230);
    set.add(300, 340);
    expect(set.bestFit(25)).toBe(200);
    expect(set.bestFit(31)).toBe(300);
    expect(set.bestFit(100)).toBe(0);
    expect(set.bestFit(101)).toBeUndefined();
  });

  test("is the set of whole numbers that was put in and not taken out", () => {
    const change = fc.tuple(fc.boolean(), fc.nat(60), fc.nat(60));
    fc.assert(
      fc.property(fc.array(change, { maxLength: 20 }), fc.nat(60), fc.nat(60), (changes, from, to) => {
        const set = new RangeSet();
        const expected = new Set<number>();
        for (const [adds, a, b] of changes) {
          if (adds) set.add(a, b);
          else set.remove(a, b);
          for (let n = a; n < b; n++) adds ? expected.add(n) : expected.delete(n);
        }
        const pieces = set.pieces;
        const numbers = pieces.flatMap((p) => Array.from({ length: p.to - p.from }, (_, i) => p.from + i));
        expect(numbers).toEqual([...expected].sort((a, b) => a - b));
        expect(set.total).toBe(expected.size);
        expect(pieces.every((p, i) => i === 0 || p.from > (pieces[i - 1]?.to ?? 0))).toBe(true);
        const within = [...expected].some((n) => n >= from && n < to);
        expect(set.overlaps(from, to)).toBe(within);
      }),
    );
  });
});
