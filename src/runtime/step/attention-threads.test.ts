// Attention of single tokens over long caches gives the same bits whatever the number of threads. The library's kernel does
// not: it divides 512 rows and more among them.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Device, findDevice } from "../../backend/ggml/device.ts";
import { Evaluation, type Given, type Inputs, randomNumbers } from "../../backend/ggml/gradients/testing.ts";
import type { Graph } from "../../backend/ggml/ops.ts";
import type { Tensor } from "../../backend/ggml/tensor.ts";
import type { KvDType, KvRows } from "../state/kv-cache.ts";
import { CachedAttention } from "./attention.ts";
import { type Chunk, splitPasses } from "./chunks.ts";

const [HEAD, ROWS] = [32, 1500];
const NUMBERS = [1, 2, 3, 5];
let devices: Device[];
beforeAll(() => {
  devices = NUMBERS.map((threads) => Device.open(findDevice("cpu"), { threads }));
});
afterAll(async () => {
  for (const device of devices) await device.dispose();
});

type Shape = {
  readonly heads: number;
  readonly shared: number;
  readonly dtype: KvDType;
  readonly flash: boolean;
};

/** Two sequences with one new token each, after `past` others: what each number of threads gives. */
async function results(past: number, { heads, shared, dtype, flash }: Shape): Promise<Float32Array[]> {
  const sequences = [past, 3].map((before, i) => ({ base: i * 1400, past: before, tokens: [1] }));
  const [pass] = splitPasses(sequences, 100);
  const chunk = pass?.chunks[0] as Chunk;
  const width = HEAD * shared;
  const next = randomNumbers(5);
  const random = (dims: number[], type?: Given["dtype"]): Given => ({
    dims,
    values: Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => next() * 2 - 1),
    ...(type && { dtype: type }),
  });
  const inputs: Inputs = {
    q: random([HEAD, heads, 2]),
    k: random([HEAD, shared, 2]),
    v: random([HEAD, shared, 2]),
    cacheK: random([width, ROWS], dtype),
    cacheV: random([width, ROWS], dtype),
    positions: { dims: [2], values: new Int32Array(2) },
  };
  const build = (g: Graph, t: Record<string, Tensor>) => {
    const kv: KvRows = {
      width,
      dtype,
      rows: (graph, _layer, which, first, count) => {
        const whole = (which === "k" ? t.cacheK : t.cacheV) as Tensor;
        return graph.view(whole, [width, count], [whole.nb[1]], first * whole.nb[1]);
      },
    };
    const given = { positions: t.positions as Tensor, masks: chunk.parts.map(() => undefined) };
    const ctx = new CachedAttention(chunk, given, kv, { flash });
    return { mixed: ctx.attend(g, 0, t.q as Tensor, t.k as Tensor, t.v as Tensor, { scale: 0.2 }) };
  };
  const found: Float32Array[] = [];
  for (const device of devices) {
    const evaluation = new Evaluation(device, inputs, build);
    found.push((await evaluation.run(inputs)).mixed as Float32Array);
    evaluation.dispose();
  }
  return found;
}

/** Largest difference of two results. */
function apart(a: Float32Array, b: Float32Array): number {
  return a.reduce((most, x, i) => Math.max(most, Math.abs(x - (b[i] ?? Number.NaN))), 0);
}

describe.each([
  ["queries that share keys in groups", 4, 2],
  ["keys of their own", 3, 3],
  ["queries that share all keys", 4, 1],
  ["one head", 1, 1],
])("%s", (_, heads, shared) => {
  test.each(["f32", "f16"] as const)("%s", async (dtype) => {
    for (const past of [10, 510, 511, 512, 700, 1300]) {
      const [one, ...others] = await results(past, { heads, shared, dtype, flash: true });
      for (const [i, other] of others.entries())
        expect(other, `${NUMBERS[i + 1]} threads, ${past} tokens before`).toEqual(one);
    }
  });
});

test.each([
  [4, 2],
  [3, 3],
  [4, 1],
  [1, 1],
])("%d heads, %d of keys: the fused kernel agrees with stored products", async (heads, shared) => {
  for (const past of [10, 700]) {
    const [fused] = await results(past, { heads, shared, dtype: "f32", flash: true });
    const [stored] = await results(past, { heads, shared, dtype: "f32", flash: false });
    expect(apart(fused as Float32Array, stored as Float32Array)).toBeLessThan(1e-6);
  }
});
