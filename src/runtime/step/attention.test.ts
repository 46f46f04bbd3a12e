// Causal attention over a cache, fused and with its products stored, against a loop that knows neither cache nor chunk.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Device, findDevice } from "../../backend/ggml/device.ts";
import { Evaluation, type Given, type Inputs, randomNumbers } from "../../backend/ggml/gradients/testing.ts";
import { dot, Grid, softMax, sum } from "../../backend/ggml/testing.ts";
import type { KvDType, KvRows } from "../state/kv-cache.ts";
import { CachedAttention, needsMask } from "./attention.ts";
import { type Chunk, type SequenceInput, splitPasses, visibleRows } from "./chunks.ts";

const [HEAD, HEADS, KV_HEADS, CAPACITY] = [8, 4, 2, 40];
const WIDTH = HEAD * KV_HEADS;
const SCALE = 0.3;

let device: Device;
beforeAll(() => {
  device = Device.open(findDevice("cpu"), { threads: 1 });
});
afterAll(() => device.dispose());

const next = randomNumbers(5);
/** Multiples of 1/8, which halves hold exactly. */
const random = (...dims: number[]) => new Grid(dims, () => Math.floor(next() * 17 - 8) / 8);
const given = ({ dims, values }: Grid, dtype?: Given["dtype"]): Given => ({
  dims,
  values: Float32Array.from(values),
  ...(dtype && { dtype }),
});

/** New tokens of sequences whose earlier keys and values are in the cache: what each of them attends to. */
function reference(
  chunk: Chunk,
  [q, k, v, cacheK, cacheV]: readonly [Grid, Grid, Grid, Grid, Grid],
  { window = Number.POSITIVE_INFINITY, softcap, sinks }: Variant,
): Grid {
  /** Key or value `row` of a sequence: an old one from the cache, or one of this chunk's. */
  const at = (part: Chunk["parts"][number], fresh: Grid, cache: Grid, row: number, head: number) =>
    row < part.past
      ? Array.from({ length: HEAD }, (_, i) => cache.at(head * HEAD + i, part.base + row))
      : fresh.row(head, part.offset + row - part.past, 0);
  const group = HEADS / KV_HEADS;
  return new Grid([HEAD * HEADS, chunk.tokens], ([i, token]) => {
    const part = chunk.parts.find((p) => token >= p.offset && token < p.offset + p.count);
    if (!part) throw new Error(`token ${token} is in no part`);
    const head = Math.floor(i / HEAD);
    const visible = part.past + (token - part.offset) + 1;
    const from = Math.max(0, visible - window);
    const rows = Array.from({ length: visible - from }, (_, i) => from + i);
    const query = q.row(head, token, 0);
    const shared = Math.floor(head / group);
    const scores = rows.map((row) => SCALE * dot(query, at(part, k, cacheK, row, shared)));
    const capped = scores.map((s) => (softcap ? softcap * Math.tanh(s / softcap) : s));
    const sink = sinks?.at(head);
    const all = sink === undefined ? capped : [...capped, sink];
    const weights = softMax(new Grid([all.length], ([j]) => all[j] as number), undefined, 1);
    return sum(rows.map((row, j) => weights.at(j) * (at(part, v, cacheV, row, shared)[i % HEAD] as number)));
  });
}

interface Variant {
  readonly window?: number;
  readonly softcap?: number;
  /** [heads] */
  readonly sinks?: Grid;
}

/** f16 bits of a causal mask, of a window where there is one, over the rows that a part sees. */
function mask(part: Chunk["parts"][number], window?: number): Given {
  const { first, count: width } = visibleRows(part, window);
  const values = Uint16Array.from({ length: width * part.count }, (_, i) => {
    const key = first + (i % width);
    const query = part.past + Math.floor(i / width);
    return key > query || key <= query - (window ?? Number.POSITIVE_INFINITY) ? 0xfc00 : 0;
  });
  return { dims: [width, part.count], values };
}

describe.each([
  ["fused", true],
  ["with products stored", false],
] as const)("%s", (_what, flash) => {
  const cases: [string, SequenceInput[]][] = [
    ["a prompt", [{ base: 0, past: 0, tokens: [1, 2, 3, 4, 5] }]],
    ["one more token", [{ base: 0, past: 9, tokens: [1] }]],
    ["a few more tokens", [{ base: 3, past: 4, tokens: [1, 2, 3] }]],
    [
      "sequences at different points",
      [
        { base: 0, past: 6, tokens: [1] },
        { base: 12, past: 0, tokens: [1, 2, 3, 4] },
        { base: 20, past: 2, tokens: [1, 2] },
        { base: 30, past: 0, tokens: [1] },
        { base: 35, past: 3, tokens: [1] },
      ],
    ],
  ];
  test.each(cases)("%s", async (_case, sequences) => {
    await expectAttention(sequences, flash, "f32", 2e-6);
  });

  const variants: [string, Variant][] = [
    ["a window", { window: 3 }],
    ["a window of one token", { window: 1 }],
    ["a window that nothing is beyond", { window: 64 }],
    ["capped scores", { softcap: 1.5 }],
    ["sinks", { sinks: new Grid([HEADS], ([i]) => i / 2 - 1) }],
    ["all of them", { window: 4, softcap: 2, sinks: new Grid([HEADS], ([i]) => 1 - i / 2) }],
  ];
  test.each(variants)("%s", async (_variant, variant) => {
    for (const [, sequences] of cases) await expectAttention(sequences, flash, "f32", 2e-6, variant);
  });

  test.each(variants)("%s, many tokens at once", async (_variant, variant) => {
    const tokens = Array.from({ length: 70 }, () => 1);
    await expectAttention([{ base: 2, past: 6, tokens }], flash, "f32", 4e-6, variant, 90);
  });

  test("a window that the inputs were not made for is an error", async () => {
    const variant = { window: 3 };
    const [, , several] = cases;
    await expect(
      expectAttention(several?.[1] ?? [], flash, "f32", 2e-6, variant, CAPACITY, 5),
    ).rejects.toThrow(/no masks for a window of 3/);
  });

  test("a cache of halves", async () => {
    // The kernels round weights and sums to halves too, eight bits and a few additions of values below 1.
    await expectAttention(cases[3]?.[1] ?? [], flash, "f16", 4e-3);
  });
});

async function expectAttention(
  sequences: SequenceInput[],
  flash: boolean,
  dtype: KvDType,
  tolerance: number,
  variant: Variant = {},
  capacity = CAPACITY,
  masked = variant.window,
): Promise<void> {
  const [pass] = splitPasses(sequences, 100);
  const chunk = pass?.chunks[0] as Chunk;
  const t = chunk.tokens;
  const [q, k, v] = [random(HEAD, HEADS, t), random(HEAD, KV_HEADS, t), random(HEAD, KV_HEADS, t)];
  const [cacheK, cacheV] = [random(WIDTH, capacity), random(WIDTH, capacity)];
  const inputs: Inputs = {
    q: given(q),
    k: given(k),
    v: given(v),
    cacheK: given(cacheK, dtype),
    cacheV: given(cacheV, dtype),
    positions: { dims: [t], values: new Int32Array(t) },
    ...Object.fromEntries(
      chunk.parts.flatMap((p, i) => (needsMask(p) ? [[`mask${i}`, mask(p, masked)]] : [])),
    ),
    ...(variant.sinks && { sinks: given(variant.sinks) }),
  };
  const evaluation = new Evaluation(device, inputs, (g, tensors) => {
    const cache = { k: tensors.cacheK!, v: tensors.cacheV! };
    const kv: KvRows = {
      width: WIDTH,
      dtype,
      rows: (graph, _layer, which, first, count) => {
        const whole = cache[which];
        return graph.view(whole, [WIDTH, count], [whole.nb[1]], first * whole.nb[1]);
      },
    };
    const masks = chunk.parts.map((_, i) => tensors[`mask${i}`]);
    const of = masked ? { masks: [], windowed: new Map([[masked, masks]]) } : { masks };
    const ctx = new CachedAttention(chunk, { positions: tensors.positions!, ...of }, kv, { flash });
    return {
      mixed: ctx.attend(g, 0, tensors.q!, tensors.k!, tensors.v!, {
        scale: SCALE,
        window: variant.window,
        softcap: variant.softcap,
        sinks: tensors.sinks,
      }),
    };
  });
  try {
    const { mixed } = await evaluation.run(inputs);
    const expected = reference(chunk, [q, k, v, cacheK, cacheV], variant);
    expect(mixed).toHaveLength(expected.values.length);
    for (const [i, value] of expected.values.entries()) {
      expect(Math.abs((mixed?.[i] ?? Number.NaN) - value), `element ${i}`).toBeLessThanOrEqual(tolerance);
    }
  } finally {
    evaluation.dispose();
  }
}
