// The number of threads changes no bit of a result: what lets it change while a program runs. Where the library's kernels
// differ, models avoid them: see runtime/step/attention.ts and its tests.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Device, findDevice } from "../device.ts";
import { CASES } from "../gradients/cases.ts";
import {
  Evaluation,
  type Given,
  gradientGraph,
  type Inputs,
  projected,
  randomNumbers,
} from "../gradients/testing.ts";
import type { Graph } from "../ops.ts";
import type { Tensor } from "../tensor.ts";

const NUMBERS = [1, 2, 3, 7];
let devices: Device[];
beforeAll(() => {
  devices = NUMBERS.map((threads) => Device.open(findDevice("cpu"), { threads }));
});
afterAll(async () => {
  for (const device of devices) await device.dispose();
});

const next = randomNumbers(3);
function random(dims: number[], dtype?: Given["dtype"]): Given {
  const values = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => next() * 2 - 1);
  return { dims, values, ...(dtype && { dtype }) };
}

/** The numbers of threads whose results are not those of one thread, bit for bit. */
async function differing(
  inputs: Inputs,
  build: (g: Graph, t: Record<string, Tensor>) => Record<string, Tensor>,
): Promise<number[]> {
  let first: Buffer | undefined;
  const found: number[] = [];
  for (const [i, device] of devices.entries()) {
    const evaluation = new Evaluation(device, inputs, build);
    const results = Object.values(await evaluation.run(inputs));
    evaluation.dispose();
    const bytes = Buffer.concat(results.map((r) => new Uint8Array(r.buffer, r.byteOffset, r.byteLength)));
    first ??= bytes;
    if (!first.equals(bytes)) found.push(NUMBERS[i] as number);
  }
  return found;
}

describe.each(["f32", "f16", "bf16"] as const)("products with %s", (dtype) => {
  test.each([
    [64, 33],
    [96, 1],
    [100, 130],
    [257, 64],
    [2048, 16],
    [64, 2000],
  ])("%d x %d, of one and more columns", async (k, m) => {
    for (const n of [1, 2, 5, 16, 17, 64, 129]) {
      const inputs = { a: random([k, m], dtype), b: random([k, n]) };
      const found = await differing(inputs, (g, { a, b }) => ({ y: g.mulMat(a as Tensor, b as Tensor) }));
      expect(found, `${n} columns`).toEqual([]);
    }
  });
});

describe.each(["f32", "f16"] as const)("attention over %s", (dtype) => {
  test.each([
    [1, 1],
    [511, 1],
    [40, 5],
    [600, 2],
    [600, 64],
    [700, 65],
    [900, 200],
  ])("%d rows, %d queries", async (rows, count) => {
    for (const [heads, shared] of [
      [4, 2],
      [3, 1],
      [1, 1],
    ] as const) {
      const values = Uint16Array.from({ length: rows * count }, (_, i) =>
        i % rows > rows - count + Math.floor(i / rows) ? 0xfc00 : 0,
      );
      const inputs: Inputs = {
        q: random([64, count, heads]),
        k: random([64, rows, shared], dtype),
        v: random([64, rows, shared], dtype),
        mask: { dims: [rows, count], values },
      };
      const found = await differing(inputs, (g, { q, k, v, mask }) => ({
        y: g.flashAttention(q as Tensor, k as Tensor, v as Tensor, count > 1 ? mask : undefined, 0.125),
      }));
      expect(found, `${heads} heads`).toEqual([]);
    }
  });
});

test.each(CASES.map((c) => [c.name, c] as const))("%s and its gradients", async (_, c) => {
  const { flat, direction } = projected(devices[0] as Device, c);
  const inputs = { ...flat.inputs, direction };
  expect(await differing(inputs, gradientGraph(flat))).toEqual([]);
  expect(await differing(c.inputs, (g, t) => ({ y: c.build(g, t) }))).toEqual([]);
});
