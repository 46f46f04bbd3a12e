import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { Device } from "../../backend/ggml/device.ts";
import { AbortError, BudgetError, IoError } from "../../base/errors.ts";
import { Ledger } from "../../memory/ledger.ts";
import { SidedRegion } from "../../memory/stores/sided.ts";
import type { BeforeTransfer } from "../../memory/stores/state-file.ts";
import { type OpenStore, openStore } from "../../memory/stores/testing.ts";
import { systemError } from "../../memory/testing.ts";
import { AdamwCrew } from "./adamw-crew.ts";
import { DRAFTS, Draft } from "./draft.ts";
import { AdamW } from "./rules/adamw.ts";
import type { StepParams } from "./rules/rule.ts";
import { freeState, type ParameterState } from "./state.ts";
import {
  allBytes,
  gradientValues,
  hostGradient,
  makeState,
  openCpu,
  sameBytes,
  weightValues,
} from "./testing.ts";
import { type Gradient, StateUpdater } from "./updater.ts";

const ELEMENTS = 200_000;
const RULE = new AdamW();
const PARAMS: StepParams = { lr: 1e-2, weight_decay: 0.1, step: 1 };

let cpu: Device;
let disk: OpenStore;
let ram: OpenStore;
let interfere: BeforeTransfer = () => {};
let updater: StateUpdater;
let gradient: Gradient;
let state: ParameterState;

beforeAll(async () => {
  cpu = openCpu();
  const beforeTransfer: BeforeTransfer = (transfer) => interfere(transfer);
  disk = await openStore("disk", { disk: { chunkBytes: 64 * 1024, beforeTransfer } });
  ram = await openStore("cpu");
});
afterAll(async () => {
  await disk.close();
  await ram.close();
  await cpu.dispose();
});
beforeEach(() => {
  interfere = () => {};
  gradient = hostGradient(gradientValues(ELEMENTS, 1));
  updater = new StateUpdater({ cpu, ledger: new Ledger(), rule: RULE, sliceElements: 65_536 });
});
afterEach(async () => {
  interfere = () => {};
  await updater.dispose();
  gradient.buffer.dispose();
  await freeState(state);
  expect(disk.ledger.used("disk")).toBe(0);
  expect(ram.ledger.used("cpu")).toBe(0);
});

/** What is on disk has two sides to be. */
function sided(plain: ParameterState): ParameterState {
  const wrap = (region: ParameterState["master"]) =>
    region.tier === "disk" ? new SidedRegion(region) : region;
  return { ...plain, master: wrap(plain.master), moments: plain.moments.map(wrap) };
}

const PLACES = [
  ["all on disk", () => ({ master: disk.store, moments: disk.store })],
  ["weights in RAM, moments on disk", () => ({ master: ram.store, moments: disk.store })],
] as const;

const open = async (stores: Parameters<typeof makeState>[2]) => {
  state = sided(await makeState(RULE, weightValues(ELEMENTS), stores));
  return Draft.take(state, { diskOf: () => disk.store, ram: ram.store });
};

describe.each(PLACES)("%s", (_where, stores) => {
  /** The state after a step made as always. */
  async function stepped(): Promise<Uint8Array[]> {
    const plain = await makeState(RULE, weightValues(ELEMENTS), { master: ram.store });
    await updater.step(plain, gradient, PARAMS);
    const bytes = await allBytes(plain);
    await freeState(plain);
    return bytes;
  }

  test("kept, it is the state after the step", async () => {
    const draft = await open(stores());
    draft.begin();
    await updater.step(draft.state, gradient, PARAMS);
    draft.keep();
    expect(sameBytes(await allBytes(state), await stepped())).toBe(true);
    await draft.free(); // of what was the state before
    expect(sameBytes(await allBytes(state), await stepped())).toBe(true);
  });

  test("dropped, it is the state before; and then a step can be made in place, or ahead again", async () => {
    const draft = await open(stores());
    const before = await allBytes(state);
    for (let i = 0; i < 2; i++) {
      draft.begin();
      await updater.step(draft.state, gradient, PARAMS);
      await draft.drop();
      expect(sameBytes(await allBytes(state), before)).toBe(true);
    }
    await updater.step(state, gradient, PARAMS);
    expect(sameBytes(await allBytes(state), await stepped())).toBe(true);
    await draft.free();
  });

  test("a step that is stopped in the middle leaves the state before", async () => {
    const draft = await open(stores());
    const before = await allBytes(state);
    const stop = new AbortController();
    interfere = ({ direction }) => {
      if (direction === "write") stop.abort();
    };
    draft.begin();
    const until = { signal: stop.signal, toTheEnd: true };
    await expect(updater.step(draft.state, gradient, PARAMS, until)).rejects.toThrow(AbortError);
    await draft.drop();
    interfere = () => {};
    expect(sameBytes(await allBytes(state), before)).toBe(true);
    draft.begin();
    await updater.step(draft.state, gradient, PARAMS);
    draft.keep();
    expect(sameBytes(await allBytes(state), await stepped())).toBe(true);
    await draft.free();
  });

  test.each(["read", "write"] as const)("so does one whose disk fails in a %s", async (direction) => {
    const draft = await open(stores());
    const before = await allBytes(state);
    let left = 3;
    interfere = (transfer) => {
      if (transfer.direction === direction && left-- === 0) throw systemError("EIO");
    };
    draft.begin();
    await expect(updater.step(draft.state, gradient, PARAMS)).rejects.toThrow(IoError);
    await draft.drop();
    expect(sameBytes(await allBytes(state), before)).toBe(true);
    await updater.step(state, gradient, PARAMS);
    expect(sameBytes(await allBytes(state), await stepped())).toBe(true);
    await draft.free();
  });
});

test("the copy that computes is written at once; it is whoever drops the draft that makes it again", async () => {
  const working = { store: ram.store, dtype: "bf16" } as const;
  const draft = await open({ master: disk.store, working });
  const [master, , , copy] = (await allBytes(state)) as [Uint8Array, Uint8Array, Uint8Array, Uint8Array];
  draft.begin();
  await updater.step(draft.state, gradient, PARAMS);
  await draft.drop();
  const [masterAfter, , , copyAfter] = await allBytes(state);
  expect(sameBytes([master], [masterAfter as Uint8Array])).toBe(true);
  expect(sameBytes([copy], [copyAfter as Uint8Array])).toBe(false);
  await draft.free();
});

test("values in RAM that nobody can be sure to have kept are said to be lost", async () => {
  const draft = await open({ master: ram.store, moments: disk.store });
  const dying = `const { parentPort } = require("node:worker_threads"); parentPort.postMessage("ready");
    parentPort.on("message", () => process.exit(3));`;
  const crew = new AdamwCrew(1, dying);
  const broken = new StateUpdater({ cpu, ledger: new Ledger(), rule: RULE, crew });
  draft.begin();
  await expect(broken.step(draft.state, gradient, PARAMS)).rejects.toThrow(/died at work/);
  await expect(draft.drop()).rejects.toThrow(/cannot be taken back .* died at work/);
  expect(state.master.torn).toMatch(/died at work/);
  await broken.dispose();
  await draft.free();
});

test("without room nothing is left behind", async () => {
  state = sided(await makeState(RULE, weightValues(ELEMENTS), { master: disk.store }));
  const before = disk.ledger.used("disk");
  const small = await openStore("disk", { budgets: { disk: 2 * 4 * ELEMENTS } }); // two of three regions
  await expect(Draft.take(state, { diskOf: () => small.store, ram: ram.store })).rejects.toThrow(BudgetError);
  expect(disk.ledger.used("disk")).toBe(before);
  expect(small.ledger.entries().filter(({ what, bytes }) => what === DRAFTS && bytes > 0)).toEqual([]);
  expect(() => (state.master as SidedRegion).swap()).toThrow(/one side/);
  await small.close();
});
