import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type Choice,
  chooseResident,
  residentBytes,
  smallestSpace,
  type UnitSize,
  unitRing,
} from "./placement.ts";

/** Units of one matrix each, of these sizes; slots are one byte larger than what stays. */
function unitsOf(...sizes: number[]): UnitSize[] {
  return sizes.map((resident, index) => ({
    index,
    name: `unit ${index}`,
    resident,
    slot: resident + 1,
    piece: resident + 1,
    rowsOnly: false,
  }));
}

const unit = fc
  .record({
    resident: fc.nat(1000),
    pad: fc.nat(40),
    pieces: fc.integer({ min: 1, max: 7 }),
    rowsOnly: fc.boolean(),
  })
  .map(({ resident, pad, pieces, rowsOnly }) => {
    const slot = resident + pad;
    return { resident, slot, piece: Math.ceil(slot / pieces), rowsOnly };
  });
/** Any model whose head, the last unit, is used whole. */
const model = fc.array(unit, { minLength: 1, maxLength: 40 }).map((units) =>
  units.map(
    (u, index): UnitSize => ({
      ...u,
      index,
      name: `unit ${index}`,
      rowsOnly: u.rowsOnly && index !== units.length - 1,
    }),
  ),
);
const space = fc.nat(20_000);

function streamed(units: readonly UnitSize[], { resident }: Choice): UnitSize[] {
  return units.filter((u) => !resident.has(u.index));
}

describe("whatever the units and the space", () => {
  test("what stays and the ring fit, and the ring holds any unit that streams", () => {
    fc.assert(
      fc.property(model, space, (units, bytes) => {
        const choice = chooseResident(units, bytes);
        if (!choice) return;
        expect(residentBytes(units, choice.resident) + choice.ring).toBeLessThanOrEqual(bytes);
        expect(choice.ring).toBeGreaterThanOrEqual(unitRing.smallest(streamed(units, choice)));
        expect(choice.ring).toBeLessThanOrEqual(unitRing.full(streamed(units, choice)));
        for (const index of choice.resident) expect(units[index]).toBeDefined();
      }),
    );
  });

  test("everything stays where it fits, without a ring, and only there", () => {
    fc.assert(
      fc.property(model, fc.integer({ min: -5, max: 5 }), (units, off) => {
        const all = units.reduce((sum, u) => sum + u.resident, 0);
        const choice = chooseResident(units, all + off);
        const whole = choice?.resident.size === units.length;
        if (off >= 0) expect(choice).toEqual({ resident: new Set(units.keys()), ring: 0 });
        else expect(whole).toBe(false);
      }),
    );
  });

  test("there is a choice from the smallest space on, and none below it", () => {
    fc.assert(
      fc.property(model, fc.nat(3000), (units, more) => {
        const smallest = smallestSpace(units);
        expect(chooseResident(units, smallest)).toBeDefined();
        expect(chooseResident(units, smallest + more)).toBeDefined();
        expect(chooseResident(units, smallest - 1)).toBeUndefined();
      }),
    );
  });
});

describe("which units stay", () => {
  test("as many as fit, spread over the model so that no stretch streams alone", () => {
    const units = unitsOf(...new Array<number>(60).fill(100));
    for (const kept of [1, 7, 20, 30, 45, 56]) {
      const choice = chooseResident(units, kept * 100 + 202);
      expect(choice?.resident.size).toBe(kept);
      const longest = longestRuns(units, choice as Choice);
      // The end of the cycle meets its beginning, so one stretch may be half as long again.
      expect(longest.streamed).toBeLessThanOrEqual(1.5 * Math.ceil((60 - kept) / kept));
      expect(longest.resident).toBeLessThanOrEqual(1.5 * Math.ceil(kept / (60 - kept)) + 1);
    }
  });

  test("a head much larger than the layers stays: else the ring would take its place", () => {
    const units = unitsOf(10, 10, 10, 10, 500);
    const choice = chooseResident(units, 530);
    expect(choice?.resident.has(4)).toBe(true);
    expect(choice?.ring).toBe(22);
  });

  test("where there is no room for two, one unit at a time streams", () => {
    const units = unitsOf(100, 100, 100);
    expect(chooseResident(units, 101)).toEqual({ resident: new Set(), ring: 101 });
    expect(chooseResident(units, 100)).toBeUndefined();
  });

  test("tables used by the row need no slot, and stay only where room is left", () => {
    const [table, ...rest] = unitsOf(300, 100, 100, 100);
    const units = [{ ...(table as UnitSize), rowsOnly: true }, ...rest];
    expect(smallestSpace(units)).toBe(101);
    expect(chooseResident(units, 303)?.resident).toEqual(new Set([1, 2]));
    expect(chooseResident(units, 599)?.resident.has(0)).toBe(false);
    expect(chooseResident(units, 600)?.resident.has(0)).toBe(true);
  });
});

test("a ring in which reading goes on has room for a unit and a matrix of the next", () => {
  const units = unitsOf(100, 40, 60);
  expect(unitRing.smallest(units)).toBe(101);
  expect(unitRing.full(units)).toBe(202);
  expect(unitRing.full(units.map((u) => ({ ...u, piece: 30 })))).toBe(131);
  expect(unitRing.full(units.slice(0, 1))).toBe(101);
  expect(unitRing.full([])).toBe(0);
});

/** The longest stretches, round the cycle, of units that stream and of units that stay. */
function longestRuns(units: readonly UnitSize[], { resident }: Choice) {
  const longest = { streamed: 0, resident: 0 };
  for (const stays of [true, false]) {
    let run = 0;
    for (const u of [...units, ...units]) {
      run = resident.has(u.index) === stays ? run + 1 : 0;
      const key = stays ? "resident" : "streamed";
      longest[key] = Math.max(longest[key], Math.min(run, units.length));
    }
  }
  return longest;
}
