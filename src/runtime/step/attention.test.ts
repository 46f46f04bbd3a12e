// Causal attention over a cache, fused and with its products stored, against a loop that knows neither cache nor chunk.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Device, findDevice } from "../../backend/ggml/device.ts";
import { Evaluation, type Given, type Inputs, randomNumbers } from "../../backend/ggml/gradients/testing.ts";
import { dot, Grid, softMax, sum } from "../../backend/ggml/testing.ts";
import type { KvDType, KvRows } from "../state/kv-cache.ts";
import { CachedAttention, needsMask } from "./attention.ts";
import { type Chunk, type SequenceInput, splitPasses } from "./chunks.ts";

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
function reference(chunk: Chunk, q: Grid, k: Grid, v: Grid, cacheK: Grid, cacheV: Grid): Grid {
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
    const rows = Array.from({ length: visible }, (_, row) => row);
    const query = q.row(head, token, 0);
    const shared = Math.floor(head / group);
    const scores = new Grid([visible], ([row]) => dot(query, at(part, k, cacheK, row, shared)));
    const weights = softMax(scores, undefined, SCALE);
    return sum(rows.map((row) => weights.at(row) * (at(part, v, cacheV, row, shared)[i % HEAD] as number)));
  });
}

/** f16 bits of a causal mask. */
function mask(past: number, count: number): Given {
  const width = past + count;
  const values = Uint16Array.from({ length: width * count }, (_, i) =>
    i % width > past + Math.floor(i / width) ? 0xfc00 : 0,
  );
  return { dims: [width, count], values };
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
): Promise<void> {
  const [pass] = splitPasses(sequences, 100);
  const chunk = pass?.chunks[0] as Chunk;
  const t = chunk.tokens;
  const [q, k, v] = [random(HEAD, HEADS, t), random(HEAD, KV_HEADS, t), random(HEAD, KV_HEADS, t)];
  const [cacheK, cacheV] = [random(WIDTH, CAPACITY), random(WIDTH, CAPACITY)];
  const inputs: Inputs = {
    q: given(q),
    k: given(k),
    v: given(v),
    cacheK: given(cacheK, dtype),
    cacheV: given(cacheV, dtype),
    positions: { dims: [t], values: new Int32Array(t) },
    ...Object.fromEntries(
      chunk.parts.flatMap((p, i) => (needsMask(p) ? [[`mask${i}`, mask(p.past, p.count)]] : [])),
    ),
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
    const ctx = new CachedAttention(chunk, { positions: tensors.positions!, masks }, kv, { flash });
    return { mixed: ctx.attend(g, 0, tensors.q!, tensors.k!, tensors.v!, { scale: SCALE }) };
  });
  try {
    const { mixed } = await evaluation.run(inputs);
    const expected = reference(chunk, q, k, v, cacheK, cacheV);
    expect(mixed).toHaveLength(expected.values.length);
    for (const [i, value] of expected.values.entries()) {
      expect(Math.abs((mixed?.[i] ?? Number.NaN) - value), `element ${i}`).toBeLessThanOrEqual(tolerance);
    }
  } finally {
    evaluation.dispose();
  }
}
