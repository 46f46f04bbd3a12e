import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { BudgetError, ConfigError } from "../base/errors.ts";
import type { Tier } from "../memory/tiers.ts";
import { makePlan } from "./make-plan.ts";
import type { UnitSize } from "./placement.ts";
import {
  type FixedBytes,
  HOST,
  type HybridRequest,
  MAIN,
  type Plan,
  type PlanRequest,
  type Site,
} from "./plan.ts";
import type { Unit } from "./units.ts";

const MiB = 2 ** 20;
const NOTHING: FixedBytes = { kv: 0, activations: 0, scratch: 0, vectors: 0, rows: 0, staging: 0 };

/** A plan is made from names and sizes alone, so units need no more here. */
function unitsOf(sizes: readonly UnitSize[]): Unit[] {
  return sizes.map(
    ({ index, name, resident, rowsOnly }) =>
      ({ index, name, stageIndex: index, stage: { name }, bytes: resident, rowsOnly }) as unknown as Unit,
  );
}

function sizesOf(...bytes: number[]): UnitSize[] {
  return bytes.map((resident, index) => ({
    index,
    name: `layer.${index}`,
    resident,
    slot: resident,
    piece: resident,
    rowsOnly: false,
  }));
}

function request(
  compute: "cpu" | "gpu",
  sizes: UnitSize[],
  budgets: PlanRequest["budgets"],
  more: Partial<PlanRequest> = {},
): PlanRequest {
  const both = { cpu: sizes, gpu: compute === "gpu" ? sizes : [] };
  const wanted = sizes.map(() => undefined);
  return { units: unitsOf(sizes), sizes: both, compute, budgets, wanted, fixed: NOTHING, ...more };
}

function refusal(r: PlanRequest): BudgetError {
  try {
    makePlan(r);
  } catch (error) {
    if (error instanceof BudgetError) return error;
    throw error;
  }
  throw new Error("there was a plan");
}

describe("on the CPU", () => {
  const five = sizesOf(10, 10, 10, 10, 20).map((u) => ({
    ...u,
    resident: u.resident * MiB,
    slot: u.slot * MiB,
    piece: u.piece * MiB,
  }));

  test("without a budget everything is in RAM", () => {
    const plan = makePlan(request("cpu", five, {}));
    expect(plan).toMatchObject({ compute: "cpu", ring: 0, staging: 0, streamed: { cpu: 0, disk: 0 } });
    expect(plan.bytes).toEqual({ gpu: 0, cpu: 60 * MiB, disk: 0 });
    expect(new Set(Object.values(plan.device_map))).toEqual(new Set(["cpu"]));
  });

  test("what does not fit is on disk, and streams", () => {
    const plan = makePlan(request("cpu", five, { cpu: 50 * MiB }));
    expect(plan.bytes.cpu).toBeLessThanOrEqual(50 * MiB);
    expect(plan.bytes.disk).toBe(plan.streamed.disk);
    expect(plan.ring).toBeGreaterThan(0);
    expect(Object.keys(plan.device_map)).toEqual(five.map((u) => u.name));
  });

  test("what is needed beside weights is taken off the budget first", () => {
    const fixed = {
      ...NOTHING,
      kv: 5 * MiB,
      activations: 6 * MiB,
      scratch: 7 * MiB,
      vectors: MiB,
      rows: MiB,
    };
    expect(makePlan(request("cpu", five, { cpu: 80 * MiB }, { fixed })).bytes.disk).toBe(0);
    expect(makePlan(request("cpu", five, { cpu: 80 * MiB - 1 }, { fixed })).bytes.disk).toBeGreaterThan(0);
  });

  test("the refusal is in the words of the command line", () => {
    const error = refusal(request("cpu", five, { cpu: MiB }));
    expect(error.message).toMatch(
      /^does not fit: cpu needs at least 20.0 MiB, the budget is 1.0 MiB; the smallest budget that works is --cpu 20MiB/,
    );
    expect(error).toMatchObject({ tier: "cpu", needed: 20 * MiB, budget: MiB, smallest: 20 * MiB });
  });

  test("nothing can be put on a GPU", () => {
    const wanted: Tier[] = ["cpu", "gpu", "cpu", "cpu", "cpu"];
    expect(() => makePlan(request("cpu", five, {}, { wanted }))).toThrow(ConfigError);
    expect(() => makePlan(request("cpu", five, {}, { wanted }))).toThrow(/layer.1 on gpu.*device: "auto"/);
  });

  test("homes that were named are kept", () => {
    const wanted: Tier[] = ["disk", "cpu", "disk", "cpu", "disk"];
    const plan = makePlan(request("cpu", five, {}, { wanted }));
    expect(plan.homes).toEqual(wanted);
    expect(plan.streamed.disk).toBe(40 * MiB);
    expect(refusal(request("cpu", five, { cpu: 39 * MiB }, { wanted })).smallest).toBe(40 * MiB);
    expect(makePlan(request("cpu", five, { cpu: 40 * MiB }, { wanted })).homes).toEqual(wanted);
  });
});

describe("on a GPU", () => {
  const six = sizesOf(10, 10, 10, 10, 10, 10);

  test("the GPU first, then RAM, then disk", () => {
    const plan = makePlan(request("gpu", six, { gpu: 45, cpu: 35 }));
    const count = (tier: Tier) => plan.homes.filter((home) => home === tier).length;
    expect(count("gpu")).toBeGreaterThan(0);
    expect(count("cpu")).toBeGreaterThan(0);
    expect(count("disk")).toBeGreaterThan(0);
    expect(plan.streamed).toEqual({ cpu: 10 * count("cpu"), disk: 10 * count("disk") });
    expect(plan.bytes.gpu).toBeLessThanOrEqual(45);
    expect(plan.bytes.cpu).toBeLessThanOrEqual(35);
  });

  test("with room for all of it nothing else is used", () => {
    const plan = makePlan(request("gpu", six, { gpu: 60, cpu: 0 }));
    expect(plan).toMatchObject({ ring: 0, staging: 0, bytes: { gpu: 60, cpu: 0, disk: 0 } });
  });

  test("the tier that is too small is the one that is named", () => {
    expect(refusal(request("gpu", six, { gpu: 9, cpu: 100 }))).toMatchObject({ tier: "gpu", needed: 10 });
    expect(refusal(request("gpu", six, { gpu: 30, cpu: 9 }))).toMatchObject({ tier: "cpu", needed: 10 });
  });
});

describe("whatever the units, the budgets and what else is needed", () => {
  const size = fc
    .record({ resident: fc.nat(800), pad: fc.nat(30), pieces: fc.integer({ min: 1, max: 5 }) })
    .map(({ resident, pad, pieces }) => {
      const slot = resident + pad;
      return { resident, slot, piece: Math.ceil(slot / pieces), rowsOnly: false };
    });
  const sizes = fc
    .array(size, { minLength: 1, maxLength: 20 })
    .map((list) => list.map((u, index): UnitSize => ({ ...u, index, name: `layer.${index}` })));
  const bytes = fc.nat(1500);
  const fixed = fc.record({
    kv: bytes,
    activations: bytes,
    scratch: bytes,
    vectors: bytes,
    rows: bytes,
    staging: fc.oneof(bytes, fc.nat(20_000)),
  });
  const budget = fc.nat(20_000);
  /** All open, or each on a tier. */
  const homes = (tiers: Tier[]) =>
    fc.option(fc.array(fc.constantFrom(...tiers), { minLength: 20, maxLength: 20 }));

  function check(r: PlanRequest): Plan | undefined {
    try {
      const plan = makePlan(r);
      for (const tier of ["gpu", "cpu"] as const) {
        expect(plan.bytes[tier]).toBeLessThanOrEqual(r.budgets[tier] ?? Number.POSITIVE_INFINITY);
        expect(plan.bytes[tier]).toBeGreaterThanOrEqual(0);
      }
      // Steady state and loading, as the engine will take them.
      const { kv, activations, scratch, vectors, rows, staging } = r.fixed;
      const device = r.compute;
      const on = (tier: Tier) =>
        r.sizes.cpu.reduce((sum, u) => sum + (plan.homes[u.index] === tier ? u.resident : 0), 0);
      const beside = kv + activations + scratch + vectors;
      const held = { gpu: on("gpu"), cpu: on("cpu") };
      expect(plan.bytes[device]).toBeGreaterThanOrEqual(beside + held[device] + plan.ring);
      expect(plan.bytes.cpu).toBeGreaterThanOrEqual(held.cpu + staging + (device === "cpu" ? vectors : 0));
      if (device === "gpu") expect(plan.bytes.cpu).toBeGreaterThanOrEqual(rows + held.cpu + plan.staging);
      return plan;
    } catch (error) {
      if (!(error instanceof BudgetError)) throw error;
      return undefined;
    }
  }

  test("CPU: a plan within the budget, or a refusal whose budget works", () => {
    fc.assert(
      fc.property(sizes, fixed, budget, homes(["cpu", "disk"]), (list, beside, cpu, named) => {
        const wanted = list.map((_, i) => named?.[i]);
        const r = (bytes: number) => request("cpu", list, { cpu: bytes }, { fixed: beside, wanted });
        if (check(r(cpu))) return;
        const { needed, smallest } = refusal(r(cpu));
        expect(check(r(needed))).toBeDefined();
        expect(check(r(smallest ?? 0))).toBeDefined();
        expect(check(r(needed - 1))).toBeUndefined();
      }),
      { numRuns: 400 },
    );
  });

  test("GPU: a plan within both budgets, or refusals whose budgets work, one tier after the other", () => {
    fc.assert(
      fc.property(
        sizes,
        fixed,
        budget,
        budget,
        homes(["gpu", "cpu", "disk"]),
        (list, beside, gpu, cpu, named) => {
          const wanted = list.map((_, i) => named?.[i]);
          const budgets = { gpu, cpu };
          const r = () => request("gpu", list, { ...budgets }, { fixed: beside, wanted });
          for (let refusals = 0; !check(r()); refusals++) {
            expect(refusals).toBeLessThan(2);
            const { tier, needed } = refusal(r());
            budgets[tier as "gpu" | "cpu"] = needed;
          }
        },
      ),
      { numRuns: 400 },
    );
  });

  test("a GPU and the CPU beside it: within both budgets, or a refusal whose budget works", () => {
    const stages = fc.array(fc.constantFrom<Site | undefined>(MAIN, HOST, undefined, undefined), {
      minLength: 20,
      maxLength: 20,
    });
    const lasting = fc.nat(50);
    fc.assert(
      fc.property(
        sizes,
        fixed,
        fc.tuple(budget, budget),
        homes(["cpu", "disk"]),
        stages,
        lasting,
        (list, beside, [gpu, cpu], named, computeOf, each) => {
          const budgets = { gpu, cpu };
          const wanted = list.map((_, i) => named?.[i]);
          const hybrid = {
            computeOf: list.map((_, i) => computeOf[i]),
            kvOf: (stage: number) => (stage % 2 ? 40 : 0),
            lastingOf: () => each,
            host: { activations: beside.activations, scratch: beside.scratch, products: 0 },
            sizes: list,
          };
          const r = () => request("gpu", list, { ...budgets }, { fixed: beside, wanted, hybrid });
          for (let refusals = 0; ; refusals++) {
            try {
              expectDivided(r(), makePlan(r()));
              return;
            } catch (error) {
              if (!(error instanceof BudgetError)) throw error;
              expect(refusals).toBeLessThan(2);
              budgets[error.tier as "gpu" | "cpu"] = error.needed;
            }
          }
        },
      ),
      { numRuns: 400 },
    );
  });

  /** What each side takes when the engine runs fits in what the plan says, which fits in the budgets. */
  function expectDivided(r: PlanRequest, plan: Plan): void {
    const { kvOf, lastingOf } = r.hybrid as HybridRequest;
    const at = (site: Site, of: (stage: number) => number) =>
      plan.computeOf.reduce<number>((sum, s, i) => sum + (s === site ? of(i) : 0), 0);
    const on = (tier: Tier) =>
      r.sizes.cpu.reduce((sum, u) => sum + (plan.homes[u.index] === tier ? u.resident : 0), 0);
    const own = (site: Site) =>
      plan.computeOf.includes(site)
        ? r.fixed.activations + r.fixed.scratch + at(site, kvOf) + at(site, lastingOf)
        : 0;
    for (const tier of ["gpu", "cpu"] as const)
      expect(plan.bytes[tier]).toBeLessThanOrEqual(r.budgets[tier] ?? Number.POSITIVE_INFINITY);
    expect(plan.bytes.gpu).toBeGreaterThanOrEqual(own(MAIN) + on("gpu") + plan.ring);
    const ring = plan.host?.ring ?? 0;
    expect(plan.bytes.cpu).toBeGreaterThanOrEqual(own(HOST) + on("cpu") + r.fixed.rows + plan.staging + ring);
    // A unit on the GPU is computed there; what streams fits through the ring of the side that computes it.
    for (const [i, home] of plan.homes.entries()) {
      const { slot, rowsOnly } = r.sizes.cpu[i] as UnitSize;
      if (home === "gpu") expect(plan.computeOf[i]).toBe(MAIN);
      else if (plan.computeOf[i] === MAIN && !rowsOnly) expect(plan.ring).toBeGreaterThanOrEqual(slot);
      else if (home === "disk" && !rowsOnly) expect(ring).toBeGreaterThanOrEqual(slot);
    }
  }
});
