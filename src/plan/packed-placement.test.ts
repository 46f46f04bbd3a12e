import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { choosePacked, type PackedChoice, streamedBytes } from "./packed-placement.ts";
import { chooseResident, type UnitSize, unitRing } from "./placement.ts";

/** Units of one matrix each, of these sizes; packed they take three quarters. */
function unitsOf(...sizes: number[]): UnitSize[] {
  return sizes.map((resident, index) => ({
    index,
    name: `unit ${index}`,
    resident,
    slot: resident,
    piece: resident,
    packed: 0.75 * resident,
    rowsOnly: false,
  }));
}

const unit = fc
  .record({
    resident: fc.integer({ min: 1, max: 1000 }),
    share: fc.option(fc.double({ min: 0.7, max: 1.1, noNaN: true })),
    pieces: fc.integer({ min: 1, max: 7 }),
    rowsOnly: fc.boolean(),
  })
  .map(({ resident, share, pieces, rowsOnly }) => ({
    resident,
    slot: resident,
    piece: Math.ceil(resident / pieces),
    rowsOnly,
    ...(share !== null && !rowsOnly && { packed: Math.ceil(resident * share) }),
  }));
const model = fc
  .array(unit, { minLength: 1, maxLength: 30 })
  .map((units) => units.map((u, index): UnitSize => ({ ...u, index, name: `unit ${index}` })));

const bytesOf = (units: readonly UnitSize[], { resident, packed }: PackedChoice) =>
  units
    .filter((u) => resident.has(u.index))
    .reduce((sum, u) => sum + (packed.has(u.index) ? (u.packed as number) : u.resident), 0);

describe("whatever the units and the space", () => {
  test("what stays and both rings fit; rings hold what passes through them; what is packed can be", () => {
    fc.assert(
      fc.property(model, fc.nat(15_000), fc.nat(3), (units, space, away) => {
        const gone = units.filter((u) => u.index % 4 < away);
        const open = units.filter((u) => u.index % 4 >= away);
        const choice = choosePacked(open, gone, space);
        if (!choice) return;
        const { resident, packed, ring, unpacking } = choice;
        expect(bytesOf(open, choice) + ring + unpacking).toBeLessThanOrEqual(space);
        const streaming = [...open.filter((u) => !resident.has(u.index)), ...gone];
        expect(ring).toBeGreaterThanOrEqual(unitRing.smallest(streaming));
        expect(unpacking).toBeGreaterThanOrEqual(unitRing.smallest(open.filter((u) => packed.has(u.index))));
        for (const index of packed) {
          expect(resident.has(index)).toBe(true);
          expect(units[index]?.packed).toBeLessThan(units[index]?.resident as number);
        }
        expect(choice.streamed).toBe(streamedBytes([...open, ...gone], resident));
      }),
    );
  });

  test("where nothing can be packed there is no choice", () => {
    fc.assert(
      fc.property(model, fc.nat(15_000), (units, space) => {
        const plain = units.map(({ packed, ...u }) => u);
        expect(choosePacked(plain, [], space)).toBeUndefined();
      }),
    );
  });
});

describe("ten layers of 100", () => {
  const layers = unitsOf(...Array<number>(10).fill(100));

  test("in 950 all stay, packed, and the rest of the room holds as many unpacked as it can", () => {
    const { resident, packed, ring, unpacking } = choosePacked(layers, [], 950) as PackedChoice;
    expect(resident.size).toBe(10);
    expect([ring, unpacking]).toEqual([0, unitRing.full(layers)]);
    // 950 less the ring is 750: ten packed. Each 25 more unpacks one.
    expect(packed.size).toBe(10);
    expect(choosePacked(layers, [], 1000)?.packed.size).toBe(8);
  });

  test("in less, some stream: fewer bytes than without packing, even where that streams packed ones", () => {
    for (const space of [450, 550, 700, 850]) {
      const choice = choosePacked(layers, [], space) as PackedChoice;
      const plain = chooseResident(layers, space);
      expect(choice.ring).toBe(unitRing.full(layers));
      expect(choice.unpacking).toBe(100);
      expect(choice.streamed).toBeLessThanOrEqual(streamedBytes(layers, plain?.resident ?? new Set()));
    }
    expect(choosePacked(layers, [], 700)?.resident.size).toBe(5); // 400 for five packed, less than a sixth is left
  });

  test("in too little for both rings there is none", () => {
    expect(choosePacked(layers, [], 199)).toBeUndefined();
  });

  test("a head too large for a ring stays as it is", () => {
    const withHead = [...unitsOf(...Array<number>(10).fill(100), 500)];
    const { resident, packed } = choosePacked(withHead, [], 1100) as PackedChoice;
    expect(resident.has(10)).toBe(true);
    expect(packed.has(10)).toBe(false);
  });
});
