// Where states live and how large the slices are: same bytes. What goes wrong on the way: a defined state, and nothing
// left behind. The arithmetic itself is rules.test.ts.

import fc from "fast-check";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { Device } from "../../backend/ggml/device.ts";
import type { FloatDType } from "../../backend/ggml/dtypes.ts";
import { AbortError, BudgetError, ConfigError, DisposedError, IoError } from "../../base/errors.ts";
import { Ledger } from "../../memory/ledger.ts";
import type { BeforeTransfer } from "../../memory/stores/state-file.ts";
import { holdings, type OpenStore, openStore, testableTiers } from "../../memory/stores/testing.ts";
import { systemError } from "../../memory/testing.ts";
import type { Tier } from "../../memory/tiers.ts";
import { Adam8bit } from "./rules/adam8bit.ts";
import { AdamW } from "./rules/adamw.ts";
import { type StepParams, TILE, type UpdateRule } from "./rules/rule.ts";
import { SGD } from "./rules/sgd.ts";
import { updaterBytes } from "./slots.ts";
import { allocateState, freeState, type ParameterState, regionsOf } from "./state.ts";
import {
  allBytes,
  floats,
  gradientValues,
  hostGradient,
  makeState,
  openCpu,
  sameBytes,
  weightValues,
} from "./testing.ts";
import { type Gradient, StateUpdater } from "./updater.ts";

const RULES: Record<string, UpdateRule> = {
  AdamW: new AdamW({ betas: [0.9, 0.95] }),
  Adam8bit: new Adam8bit(),
  "SGD with momentum": new SGD({ momentum: 0.9 }),
  SGD: new SGD(),
};
const tiers = testableTiers();

let cpu: Device;
const stores: Partial<Record<Tier, OpenStore>> = {};
/** What the disk answers to a transfer; set by each test. */
let interfere: BeforeTransfer = () => {};
let before: ReturnType<typeof holdings>;

beforeAll(async () => {
  cpu = openCpu();
  for (const tier of tiers) {
    // Small chunks, so that slices are read and written in parts that overtake one another.
    const disk = {
      chunkBytes: 64 * 1024,
      depth: 3,
      beforeTransfer: (t: Parameters<BeforeTransfer>[0]) => interfere(t),
    };
    stores[tier] = await openStore(tier, { disk });
  }
});
afterAll(async () => {
  for (const tier of tiers) {
    await stores[tier]?.close();
    stores[tier]?.ledger.assertEmpty();
  }
  await cpu.dispose();
});
beforeEach(() => {
  interfere = () => {};
  before = holdings();
});
afterEach(() => expect(holdings()).toEqual(before));

function store(tier: Tier) {
  const found = stores[tier];
  if (!found) throw new Error(`${tier} is not tested here`);
  return found.store;
}

interface Placement {
  readonly master: Tier;
  readonly moments: Tier;
  readonly working?: { readonly tier: Tier; readonly dtype: FloatDType } | undefined;
  readonly sliceElements: number;
}

function place(rule: UpdateRule, n: number, p: Placement): Promise<ParameterState> {
  const working = p.working && { store: store(p.working.tier), dtype: p.working.dtype };
  return makeState(rule, weightValues(n), { master: store(p.master), moments: store(p.moments), working });
}

const params = (step: number): StepParams => ({
  lr: 1e-2,
  weight_decay: 0.1,
  step,
  gradScale: step % 2 ? 0.37 : 1,
});

/** Two steps from the same start; all bytes of the state after them. */
async function twoSteps(rule: UpdateRule, n: number, p: Placement): Promise<Uint8Array[]> {
  const ledger = new Ledger();
  const state = await place(rule, n, p);
  const updater = new StateUpdater({ cpu, ledger, rule, sliceElements: p.sliceElements });
  const gradients = [1, 2].map((seed) => hostGradient(gradientValues(n, seed)));
  try {
    for (const [i, gradient] of gradients.entries()) await updater.step(state, gradient, params(i + 1));
    return await allBytes(state);
  } finally {
    for (const { buffer } of gradients) buffer.dispose();
    await updater.dispose();
    await freeState(state);
    ledger.assertEmpty();
  }
}

const tier = fc.constantFrom(...tiers);
const placement: fc.Arbitrary<Placement> = fc.record({
  master: tier,
  moments: tier,
  working: fc.constant(undefined),
  sliceElements: fc.constantFrom(1, TILE, 2 * TILE, 5 * TILE, 64 * TILE),
});

describe.each(Object.entries(RULES))("%s", (_, rule) => {
  test("gives the same bits wherever its state lives and however it is sliced", async () => {
    const elements = fc.constantFrom(1, 100, 5000, TILE, TILE + 1, 5 * TILE - 7, 6 * TILE + 12_345);
    const inRam = { master: "cpu", moments: "cpu", sliceElements: 2 ** 30 } as const;
    const known = new Map<number, Uint8Array[]>();
    await fc.assert(
      fc.asyncProperty(elements, placement, async (n, p) => {
        const expected = known.get(n) ?? (await twoSteps(rule, n, inRam));
        known.set(n, expected);
        expect(sameBytes(await twoSteps(rule, n, p), expected)).toBe(true);
      }),
      { numRuns: 12 },
    );
  });

  test.each(["bf16", "f16", "f32"] as const)("writes the working copy in %s on any tier", async (dtype) => {
    const n = 2 * TILE + 777;
    const base = { master: "cpu", moments: "disk", sliceElements: TILE } as const;
    const [master, ...rest] = await twoSteps(rule, n, base);
    for (const at of tiers) {
      const found = await twoSteps(rule, n, { ...base, working: { tier: at, dtype } });
      const working = found.pop() as Uint8Array;
      expect(sameBytes(found, [master!, ...rest])).toBe(true);
      const values = floats(master, n);
      const widened = widen(working, dtype, n);
      // bf16 keeps 8 bits, f16 11 of those of a normal number
      const tolerance = { bf16: 2 ** -8, f16: 2 ** -11, f32: 0 }[dtype];
      const worst = values.reduce(
        (most, value, i) => Math.max(most, Math.abs(widened[i]! - value) - tolerance * Math.abs(value)),
        0,
      );
      expect(worst).toBeLessThanOrEqual(2 ** -25); // half of f16's smallest step
    }
  });
});

function widen(bytes: Uint8Array, dtype: FloatDType, n: number): Float32Array {
  if (dtype === "f32") return floats(bytes, n);
  const halves = new Uint16Array(bytes.slice().buffer, 0, n);
  if (dtype === "bf16") return new Float32Array(Uint32Array.from(halves, (h) => h << 16).buffer);
  return Float32Array.from(halves, (h) => {
    const [sign, exponent, fraction] = [h >> 15 ? -1 : 1, (h >> 10) & 31, h & 1023];
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : fraction * 2 ** -24);
  });
}

describe("memory", () => {
  const rule = new AdamW();
  const n = 9 * TILE;

  async function withState(p: Placement, run: (state: ParameterState, gradient: Gradient) => Promise<void>) {
    const state = await place(rule, n, p);
    const gradient = hostGradient(gradientValues(n, 1));
    try {
      await run(state, gradient);
    } finally {
      gradient.buffer.dispose();
      await freeState(state);
    }
  }

  test("a state in RAM is stepped in place: no slots, no traffic", async () => {
    await withState({ master: "cpu", moments: "cpu", sliceElements: TILE }, async (state, gradient) => {
      const ledger = new Ledger();
      await using updater = new StateUpdater({ cpu, ledger, rule, sliceElements: TILE });
      await updater.step(state, gradient, params(1));
      expect(ledger.entries()).toEqual([]);
      expect(ledger.peak("cpu")).toBe(updaterBytes(rule, n, {}, TILE));
    });
  });

  test.each([
    { master: "disk", moments: "disk" },
    { master: "cpu", moments: "disk" },
    { master: "disk", moments: "cpu" },
  ] as const)("three slots of what is not in RAM are held, as planned: %j", async ({ master, moments }) => {
    const working = { tier: "disk", dtype: "bf16" } as const;
    await withState({ master, moments, working, sliceElements: 2 * TILE }, async (state, gradient) => {
      const ledger = new Ledger();
      await using updater = new StateUpdater({ cpu, ledger, rule, sliceElements: 2 * TILE });
      await updater.prepare(state);
      const held = ledger.used("cpu");
      await updater.step(state, gradient, params(1));
      expect(ledger.peak("cpu")).toBe(held);
      const staged = { master: master === "disk", moments: moments === "disk", working: working.dtype };
      expect(held).toBe(updaterBytes(rule, n, staged, 2 * TILE));
    });
  });

  test("what does not fit in the budget is refused before anything is changed", async () => {
    await withState({ master: "disk", moments: "disk", sliceElements: TILE }, async (state, gradient) => {
      const first = await allBytes(state);
      const ledger = new Ledger({ cpu: 2 * 2 ** 20 });
      await using updater = new StateUpdater({ cpu, ledger, rule, sliceElements: 4 * TILE });
      await expect(updater.step(state, gradient, params(1))).rejects.toThrow(BudgetError);
      await expect(updater.prepare(state)).rejects.toThrow(
        /optimizer slots needs 9.6 MiB on cpu, budget 2.0 MiB/,
      );
      expect(sameBytes(await allBytes(state), first)).toBe(true);
      // Smaller slices do fit.
      await using smaller = new StateUpdater({
        cpu,
        ledger: new Ledger({ cpu: 4 * 2 ** 20 }),
        rule,
        sliceElements: 1,
      });
      await smaller.step(state, gradient, params(1));
    });
  });

  test("a state that cannot be allocated in whole is not allocated at all", async () => {
    const small = await openStore("disk", { budgets: { disk: 10_000 } });
    try {
      const master = store("cpu");
      const used = stores.cpu?.ledger.used("cpu");
      await expect(allocateState("wte", 2000, rule, { master, moments: small.store })).rejects.toThrow(
        BudgetError,
      );
      expect(stores.cpu?.ledger.used("cpu")).toBe(used);
      expect(small.ledger.used("disk")).toBe(0);
      await expect(allocateState("wte", 0, rule, { master, moments: master })).rejects.toThrow(ConfigError);
    } finally {
      await small.close();
    }
  });
});

describe("traffic", () => {
  test("the next slice is read and the last one written while one is stepped", async () => {
    const rule = new AdamW();
    const n = 6 * TILE;
    const state = await place(rule, n, { master: "cpu", moments: "disk", sliceElements: TILE });
    const gradient = hostGradient(gradientValues(n, 1));
    const sliceBytes = TILE * 4;
    const seen: string[] = [];
    const [first] = state.moments;
    // The first moment's region begins at the start of a block of its own: positions tell which slice is meant.
    let base: number | undefined;
    interfere = (transfer) => {
      base ??= transfer.position;
      const slice = Math.floor((transfer.position - base) / sliceBytes);
      if (slice >= 0 && slice < 6) seen.push(`${transfer.direction} ${slice}`);
    };
    const updater = new StateUpdater({ cpu, ledger: new Ledger(), rule, sliceElements: TILE });
    await updater.step(state, gradient, params(1));
    expect(first?.torn).toBeUndefined();
    for (let slice = 0; slice < 6; slice++) {
      expect(seen).toContain(`read ${slice}`);
      expect(seen).toContain(`write ${slice}`);
    }
    // Slice 1 is asked for before slice 0 is written, 2 before 1 is ...
    for (let slice = 0; slice < 5; slice++) {
      expect(seen.indexOf(`read ${slice + 1}`)).toBeLessThan(seen.indexOf(`write ${slice}`));
    }
    // ... but slice 3 takes the slot of slice 0, which has to be written in whole first.
    expect(seen.indexOf("read 3")).toBeGreaterThan(seen.lastIndexOf("write 0"));
    await updater.dispose();
    gradient.buffer.dispose();
    await freeState(state);
  });

  test("steps asked for together run one after another", async () => {
    const rule = new AdamW();
    const n = 3 * TILE + 5;
    const p = { master: "disk", moments: "disk", sliceElements: TILE } as const;
    const expected = await twoSteps(rule, n, p);
    const state = await place(rule, n, p);
    const gradients = [1, 2].map((seed) => hostGradient(gradientValues(n, seed)));
    const updater = new StateUpdater({ cpu, ledger: new Ledger(), rule, sliceElements: TILE });
    await Promise.all(gradients.map((gradient, i) => updater.step(state, gradient, params(i + 1))));
    expect(sameBytes(await allBytes(state), expected)).toBe(true);
    const late = updater.step(state, gradients[0] as Gradient, params(3));
    await updater.dispose();
    await expect(late).rejects.toThrow(DisposedError);
    await updater.dispose();
    for (const { buffer } of gradients) buffer.dispose();
    await freeState(state);
  });
});

describe("failures", () => {
  const rule = new AdamW();
  const n = 6 * TILE;
  let state: ParameterState;
  let gradient: Gradient;
  let updater: StateUpdater;
  let ledger: Ledger;

  const begin = async (p: Omit<Placement, "sliceElements">) => {
    state = await place(rule, n, { ...p, sliceElements: TILE });
    gradient = hostGradient(gradientValues(n, 1));
    ledger = new Ledger();
    updater = new StateUpdater({ cpu, ledger, rule, sliceElements: TILE });
  };
  const end = async () => {
    gradient.buffer.dispose();
    await updater.dispose();
    await freeState(state);
    ledger.assertEmpty();
  };

  /** Fails the `nth` transfer of a direction from now on, and only that. */
  const failOnce = (direction: "read" | "write", nth: number, code: string) => {
    let left = nth;
    interfere = (transfer) => {
      if (transfer.direction === direction && left-- === 0) throw systemError(code);
    };
  };

  test("a read that fails before anything was changed leaves the state as it was", async () => {
    await begin({ master: "disk", moments: "disk" });
    const first = await allBytes(state);
    failOnce("read", 0, "EIO");
    await expect(updater.step(state, gradient, params(1))).rejects.toThrow(
      /the disk or its connection failed/,
    );
    expect(regionsOf(state).map((region) => region.torn)).toEqual([undefined, undefined, undefined]);
    expect(sameBytes(await allBytes(state), first)).toBe(true);
    await updater.step(state, gradient, params(1)); // and can be made
    await end();
  });

  test.each([
    { direction: "read", nth: 40, code: "EIO" },
    { direction: "write", nth: 0, code: "ENOSPC" },
    { direction: "write", nth: 30, code: "EIO" },
    { direction: "write", nth: 71, code: "EIO" }, // the very last
  ] as const)("one that fails in the middle tears the whole state: %j", async ({ direction, nth, code }) => {
    await begin({ master: "disk", moments: "disk", working: { tier: "cpu", dtype: "bf16" } });
    const saved = await allBytes(state);
    failOnce(direction, nth, code);
    await expect(updater.step(state, gradient, params(7))).rejects.toThrow(IoError);
    interfere = () => {};
    for (const region of regionsOf(state)) {
      expect(region.torn).toMatch(/step 7 of AdamW on model.norm.weight broke off half done .*injected/);
    }
    await expect(allBytes(state)).rejects.toThrow(IoError);
    expect(() => state.working?.region.buffer).toThrow(IoError);
    await expect(updater.step(state, gradient, params(8))).rejects.toThrow(
      /master weights cannot be used: step 7 of AdamW .* from a saved training state/,
    );
    // Writing back what was saved makes it whole, and the step comes out as if nothing had happened.
    for (const [i, region] of regionsOf(state).entries()) {
      const memory = hostGradient(floats(saved[i], region.bytes / 4));
      await region.write(memory.buffer, 0, 0, region.bytes);
      memory.buffer.dispose();
    }
    await updater.step(state, gradient, params(7));
    const repaired = await allBytes(state);
    await end();
    await begin({ master: "cpu", moments: "cpu", working: { tier: "cpu", dtype: "bf16" } });
    await updater.step(state, gradient, params(7));
    expect(sameBytes(repaired, await allBytes(state))).toBe(true);
    await end();
  });

  test("the part that is stepped in place is torn with the rest", async () => {
    await begin({ master: "cpu", moments: "disk" });
    failOnce("write", 0, "EIO");
    await expect(updater.step(state, gradient, params(1))).rejects.toThrow(IoError);
    expect(() => state.master.buffer).toThrow(IoError);
    await end();
  });

  test("an abort counts until the first change: then the step is finished", async () => {
    await begin({ master: "disk", moments: "disk" });
    const first = await allBytes(state);
    await expect(updater.step(state, gradient, params(1), { signal: AbortSignal.abort() })).rejects.toThrow(
      AbortError,
    );
    const early = new AbortController();
    interfere = () => early.abort(); // at the first read
    await expect(updater.step(state, gradient, params(1), { signal: early.signal })).rejects.toThrow(
      AbortError,
    );
    interfere = () => {};
    expect(sameBytes(await allBytes(state), first)).toBe(true);
    const late = new AbortController();
    interfere = (transfer) => {
      if (transfer.direction === "write") late.abort();
    };
    await updater.step(state, gradient, params(1), { signal: late.signal });
    expect(late.signal.aborted).toBe(true);
    expect(state.master.torn).toBeUndefined();
    await end();
  });

  test("values and sizes that make no sense are refused before anything is changed", async () => {
    await begin({ master: "cpu", moments: "cpu" });
    const first = await allBytes(state);
    for (const bad of [
      { lr: Number.NaN },
      { lr: -1 },
      { weight_decay: Number.POSITIVE_INFINITY },
      { step: 0 },
      { step: 1.5 },
      { gradScale: Number.NaN },
    ]) {
      await expect(updater.step(state, gradient, { ...params(1), ...bad })).rejects.toThrow(ConfigError);
    }
    for (const offset of [-4, 2, 4, 0.5]) {
      await expect(updater.step(state, { ...gradient, offset }, params(1))).rejects.toThrow(/a gradient of/);
    }
    const short = { ...state, elements: n + 1 };
    await expect(updater.step(short, gradient, params(1))).rejects.toThrow(/master weights needs/);
    const other = { ...state, moments: state.moments.slice(1) };
    await expect(updater.step(other, gradient, params(1))).rejects.toThrow(/keeps 2 moments, not 1/);
    expect(() => new StateUpdater({ cpu, ledger, rule, sliceElements: 0 })).toThrow(ConfigError);
    expect(sameBytes(await allBytes(state), first)).toBe(true);
    await end();
  });
});
