import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { BudgetError, ConfigError, DisposedError, SpillwayError } from "../base/errors.ts";
import { Ledger, type Reservation } from "./ledger.ts";
import { parseSize } from "./sizes.ts";

const GiB = 2 ** 30;

describe("Ledger", () => {
  test("counts what is reserved and gives it back", () => {
    const ledger = new Ledger({ cpu: 100 });
    const weights = ledger.reserve("cpu", 60, "weights");
    expect(ledger.used("cpu")).toBe(60);
    expect(ledger.free("cpu")).toBe(40);
    weights.release();
    weights.release();
    expect(ledger.used("cpu")).toBe(0);
    expect(ledger.peak("cpu")).toBe(60);
    expect(weights.bytes).toBe(0);
    ledger.assertEmpty();
  });

  test("a tier without a budget is counted, not limited", () => {
    const ledger = new Ledger({ gpu: 10 });
    ledger.reserve("cpu", 1e15, "weights");
    expect(ledger.used("cpu")).toBe(1e15);
    expect(ledger.budget("cpu")).toBe(Number.POSITIVE_INFINITY);
    expect(ledger.free("cpu")).toBe(Number.POSITIVE_INFINITY);
  });

  test("a budget of zero admits zero bytes and no more", () => {
    const ledger = new Ledger({ gpu: 0 });
    ledger.reserve("gpu", 0, "weights");
    expect(() => ledger.reserve("gpu", 1, "weights")).toThrow(BudgetError);
  });

  test("the last byte fits, the next does not", () => {
    const ledger = new Ledger({ cpu: 100 });
    ledger.reserve("cpu", 100, "weights");
    expect(() => ledger.reserve("cpu", 1, "kv cache")).toThrow(BudgetError);
    expect(ledger.used("cpu")).toBe(100);
  });

  test("what does not fit is explained with numbers and a budget that works", () => {
    const ledger = new Ledger({ gpu: 6 * GiB });
    ledger.reserve("gpu", 2 * GiB, "weights");
    ledger.reserve("gpu", 2.5 * GiB, "weights");
    ledger.reserve("gpu", GiB / 2, "graph scratch");
    const more = Math.floor(2.03 * GiB);
    const refused = caught(() => ledger.reserve("gpu", more, "kv cache"));
    expect(refused).toBeInstanceOf(BudgetError);
    if (!(refused instanceof BudgetError)) return;
    expect(refused.message).toBe(
      "kv cache needs 2.0 GiB on gpu, budget 6.0 GiB of which 5.0 GiB in use (weights 4.5 GiB, " +
        "graph scratch 512.0 MiB): short by 1.0 GiB; set max_memory.gpu to 7.1GiB or more, or leave more of the " +
        "model on cpu or disk, or choose a smaller dtype or a shorter context",
    );
    expect(refused).toMatchObject({ tier: "gpu", needed: more, budget: 6 * GiB });
    expect(refused.smallest).toBe(5 * GiB + more);

    const larger = new Ledger({ gpu: parseSize("7.1GiB") });
    larger.reserve("gpu", 5 * GiB, "weights");
    larger.reserve("gpu", more, "kv cache");
  });

  test("resize grows within the budget, and leaves everything as it was where it cannot", () => {
    const ledger = new Ledger({ cpu: 100 });
    const kv = ledger.reserve("cpu", 40, "kv cache");
    kv.resize(90);
    expect(ledger.used("cpu")).toBe(90);
    expect(() => kv.resize(101)).toThrow(/kv cache grows from 90 B to 101 B on cpu/);
    expect(kv.bytes).toBe(90);
    kv.resize(10);
    expect(ledger.used("cpu")).toBe(10);
    expect(ledger.peak("cpu")).toBe(90);
    kv.release();
    expect(() => kv.resize(5)).toThrow(DisposedError);
    ledger.assertEmpty();
  });

  test("entries are added up by tier and name, the largest first", () => {
    const ledger = new Ledger();
    ledger.reserve("cpu", 10, "weights");
    ledger.reserve("disk", 70, "weights");
    ledger.reserve("cpu", 30, "kv cache");
    ledger.reserve("cpu", 25, "weights");
    expect(ledger.entries()).toEqual([
      { tier: "disk", what: "weights", bytes: 70 },
      { tier: "cpu", what: "weights", bytes: 35 },
      { tier: "cpu", what: "kv cache", bytes: 30 },
    ]);
    expect(ledger.entries("cpu")).toHaveLength(2);
  });

  test("what was not released is named", () => {
    const ledger = new Ledger();
    ledger.reserve("cpu", 2048, "activations");
    expect(caught(() => ledger.assertEmpty())).toBeInstanceOf(SpillwayError);
    expect(() => ledger.assertEmpty()).toThrow("activations 2.0 KiB on cpu");
  });

  test("a reservation ends with its scope", () => {
    const ledger = new Ledger();
    {
      using scratch = ledger.reserve("cpu", 7, "graph scratch");
      expect(ledger.used("cpu")).toBe(scratch.bytes);
    }
    ledger.assertEmpty();
  });

  test.each([-1, 0.5, Number.NaN, 2 ** 60, Number.POSITIVE_INFINITY])(
    "%d bytes cannot be reserved",
    (bytes) => {
      expect(() => new Ledger().reserve("cpu", bytes, "weights")).toThrow(ConfigError);
    },
  );

  test.each([-1, 0.5, Number.NaN])("%d bytes cannot be a budget", (budget) => {
    expect(() => new Ledger({ disk: budget })).toThrow(/max_memory\.disk/);
  });

  test("whatever the order of reserve, resize and release: used is the sum and never above the budget", () => {
    const step = fc.tuple(fc.constantFrom("reserve", "resize", "release"), fc.nat(9), fc.nat(60));
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const ledger = new Ledger({ cpu: 100 });
        const held: Reservation[] = [];
        let most = 0;
        for (const [action, which, bytes] of steps) {
          const one = held[which % Math.max(held.length, 1)];
          try {
            if (action === "reserve") held.push(ledger.reserve("cpu", bytes, "a"));
            else if (action === "resize") one?.resize(bytes);
            else one?.release();
          } catch (error) {
            if (!(error instanceof BudgetError || error instanceof DisposedError)) throw error;
          }
          const sum = held.reduce((total, row) => total + row.bytes, 0);
          most = Math.max(most, sum);
          expect(ledger.used("cpu")).toBe(sum);
          expect(sum).toBeLessThanOrEqual(100);
        }
        expect(ledger.peak("cpu")).toBe(most);
        for (const row of held) row.release();
        ledger.assertEmpty();
      }),
    );
  });
});

function caught(action: () => unknown): unknown {
  try {
    action();
  } catch (error) {
    return error;
  }
  return undefined;
}
