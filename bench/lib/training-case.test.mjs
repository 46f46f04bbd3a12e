// The batches engines are compared on, and the arithmetic of the best possible step.
import { expect, test } from "vitest";
import { counts } from "./runner.mjs";
import { batchShape, bound, trainingBatches } from "./training-case.mjs";

const MIB = 2 ** 20;

test("tokens become sequences of one length", () => {
  expect(batchShape(64)).toEqual({ sequences: 1, length: 64 });
  expect(batchShape(1024)).toEqual({ sequences: 4, length: 256 });
  for (const tokens of [1, 257]) expect(() => batchShape(tokens)).toThrow(/no batch of equal sequences/);
});

test("batches are the same every time, and no two of their sequences are", () => {
  const batches = trainingBatches({ sequences: 2, length: 16 }, 512);
  expect(batches).toEqual(trainingBatches({ sequences: 2, length: 16 }, 512));
  const rows = batches.flat();
  expect(rows.every((row) => row.length === 16)).toBe(true);
  expect(new Set(rows.map((row) => row.join())).size).toBe(rows.length);
});

test("a step takes as long as computing or moving its bytes, whichever is longer", () => {
  const step = { compute_s: 2, read_bytes: 400 * MIB, written_bytes: 200 * MIB };
  expect(bound({ ...step, mib_per_s: 100 })).toEqual({
    disk_s: 6,
    bound_s: 6,
    each_way_s: 4,
    bound_by: "disk",
  });
  expect(bound({ ...step, mib_per_s: 300 })).toEqual({
    disk_s: 2,
    bound_s: 2,
    each_way_s: 2,
    bound_by: "both",
  });
  expect(bound({ ...step, mib_per_s: 600 })).toMatchObject({ disk_s: 1, bound_s: 2, bound_by: "compute" });
});

test("a list of counts is refused by the option's name", () => {
  expect(counts({ tokens: "64,256" }, "tokens")).toEqual([64, 256]);
  for (const tokens of ["", "64,", "64,-1", "many"])
    expect(() => counts({ tokens }, "tokens")).toThrow(/--tokens/);
});
