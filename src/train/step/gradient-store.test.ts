import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Device } from "../../backend/ggml/device.ts";
import { Ledger } from "../../memory/ledger.ts";
import type { BeforeTransfer } from "../../memory/stores/state-file.ts";
import { type OpenStore, openStore } from "../../memory/stores/testing.ts";
import { systemError } from "../../memory/testing.ts";
import type { Parameter, Parameters } from "../open/parameters.ts";
import { openCpu } from "../optimizer/testing.ts";
import { Gradients, gradientPoolBytes, type OpenGradients } from "./gradient-store.ts";

const PAGE = 4096;
const ELEMENTS = PAGE; // 16 KiB each

/** Parameters of one stage each. */
function parameters(count: number): Parameters {
  const all = Array.from({ length: count }, (_, index): Parameter => {
    const uses = [{ unit: index, key: "w" }] as unknown as Parameter["uses"];
    return {
      ...{ index, name: `p${index}`, shape: [ELEMENTS], elements: ELEMENTS, dtype: "f32" },
      ...{ decay: true, kind: "matrix", uses },
    };
  });
  return { all } as unknown as Parameters;
}

let cpu: Device;
let disk: OpenStore;
let transfers: string[];
let answer: BeforeTransfer;

beforeEach(async () => {
  cpu = openCpu();
  transfers = [];
  answer = () => {};
  const beforeTransfer: BeforeTransfer = (transfer) => {
    transfers.push(transfer.direction);
    return answer(transfer);
  };
  disk = await openStore("disk", { disk: { beforeTransfer } });
});
afterEach(async () => {
  await disk.close();
  await cpu.dispose();
});

async function withGradients(
  count: number,
  room: boolean,
  work: (gradients: Gradients, all: readonly Parameter[]) => Promise<void>,
): Promise<void> {
  const some = parameters(count);
  const ledger = new Ledger();
  const poolBytes = gradientPoolBytes(some, room);
  const gradients = await Gradients.open({ parameters: some, cpu, ledger, store: disk.store, poolBytes });
  transfers.length = 0;
  try {
    await work(gradients, some.all);
  } finally {
    await gradients.dispose();
    ledger.assertEmpty();
  }
}

const valuesOf = ({ buffers }: OpenGradients) => new Float32Array(buffers[0]?.view() as ArrayBuffer);

/** Adds `value` to every element of a parameter's sum. */
async function add(gradients: Gradients, p: Parameter, value: number): Promise<void> {
  const opened = await gradients.open([p]);
  const values = valuesOf(opened);
  for (let i = 0; i < values.length; i++) values[i] = (values[i] as number) + value;
  await gradients.close(opened);
}

async function sumOf(gradients: Gradients, p: Parameter): Promise<number> {
  const borrowed = await gradients.borrow([p]);
  const values = valuesOf(borrowed);
  const value = values[0] as number;
  expect(values.every((v) => v === value)).toBe(true);
  gradients.release(borrowed);
  return value;
}

describe("gradients whose home is disk", () => {
  test("one that was closed last is borrowed from RAM; while it is written already", () =>
    withGradients(3, false, async (gradients, [first]) => {
      let release = () => {};
      const held = new Promise<void>((resolve) => {
        release = resolve;
      });
      answer = () => held;
      const closing = add(gradients, first as Parameter, 2);
      while (!transfers.includes("write")) await new Promise(setImmediate);
      expect(await sumOf(gradients, first as Parameter)).toBe(2);
      expect(transfers).not.toContain("read");
      release();
      await closing;
    }));

  test("older ones make room, and are read again", () =>
    withGradients(8, false, async (gradients, all) => {
      for (const [i, p] of all.entries()) await add(gradients, p, i + 1);
      expect(transfers).not.toContain("read"); // sums of a new step begin at zero without one
      for (const [i, p] of all.entries()) expect(await sumOf(gradients, p)).toBe(i + 1);
      expect(transfers).toContain("read");
    }));

  test("with more room fewer are read", async () => {
    const reads: number[] = [];
    for (const room of [false, true]) {
      await withGradients(8, room, async (gradients, all) => {
        for (const p of all) await add(gradients, p, 1);
        for (const p of all.toReversed()) expect(await sumOf(gradients, p)).toBe(1);
        reads.push(transfers.filter((direction) => direction === "read").length);
      });
    }
    expect(reads[1]).toBeLessThan(reads[0] as number);
  });

  test("what is added to after that is what is borrowed then, and what a later step adds begins at zero", () =>
    withGradients(4, true, async (gradients, [first, second]) => {
      const [a, b] = [first as Parameter, second as Parameter];
      await add(gradients, a, 1);
      await add(gradients, b, 10);
      await add(gradients, a, 2);
      expect(await sumOf(gradients, a)).toBe(3);
      expect(await sumOf(gradients, b)).toBe(10);
      gradients.restart();
      expect(await sumOf(gradients, b)).toBe(10); // an update of the step before may still want it
      await add(gradients, a, 5);
      expect(await sumOf(gradients, a)).toBe(5);
    }));

  test("whoever waits for room gets what is given back, also by those who borrowed it", () =>
    withGradients(4, false, async (gradients, all) => {
      const [a, b, c] = all as [Parameter, Parameter, Parameter];
      await add(gradients, a, 1);
      await add(gradients, b, 2);
      const held = [await gradients.borrow([a]), await gradients.borrow([b])];
      const waiting = gradients.open([c]);
      let opened = false;
      void waiting.then(() => {
        opened = true;
      });
      await new Promise(setImmediate);
      expect(opened).toBe(false);
      for (const one of held) gradients.release(one);
      await gradients.close(await waiting);
      expect(await sumOf(gradients, a)).toBe(1);
    }));

  test("one that could not be written is not kept", () =>
    withGradients(3, true, async (gradients, [first]) => {
      const p = first as Parameter;
      answer = () => {
        throw systemError("EIO");
      };
      await expect(add(gradients, p, 1)).rejects.toThrow(/injected/);
      answer = () => {};
      await expect(gradients.borrow([p])).rejects.toThrow(/did not complete/);
      gradients.restart();
      await add(gradients, p, 4);
      expect(await sumOf(gradients, p)).toBe(4);
    }));
});
