import { afterAll, describe, expect, test } from "vitest";
import {
  type Case,
  Evaluation,
  type Given,
  gradientGraph,
  gradientsOf,
  numeric,
  onCpu,
  projected,
  randomNumbers,
  relativeDifference,
  TestGpu,
} from "../../../backend/ggml/gradients/testing.ts";
import type { Graph } from "../../../backend/ggml/ops.ts";
import type { Tensor } from "../../../backend/ggml/tensor.ts";
import { GraphError } from "../../../base/errors.ts";
import { testUnless, whyNoGpu } from "../../../base/testing-unproven.ts";
import { TrainingAttention } from "./attention.ts";

// Two sequences of three tokens, four heads that share two heads of keys and values.
const [DIM, HEADS, KV_HEADS, LENGTH, SEQUENCES] = [4, 4, 2, 3, 2];
const TOKENS = LENGTH * SEQUENCES;
const SCALE = 0.5;

const next = randomNumbers(3);
const some = (...dims: number[]): Given => ({
  dims,
  values: Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => 2 * next() - 1),
});
const q = some(DIM, HEADS, TOKENS);
const k = some(DIM, KV_HEADS, TOKENS);
const v = some(DIM, KV_HEADS, TOKENS);
const positions: Given = { dims: [TOKENS], values: Int32Array.from([0, 1, 2, 0, 1, 2]) };

/** Which key each query sees: earlier ones of its document. The second sequence holds documents of 1 and 2 tokens. */
const DOCUMENTS = [
  [0, 0, 0],
  [1, 2, 2],
];
const sees = (s: number, query: number, key: number) =>
  key <= query && DOCUMENTS[s]?.[query] === DOCUMENTS[s]?.[key];
const packed = Array.from({ length: SEQUENCES * LENGTH * LENGTH }, (_, i) =>
  sees(Math.floor(i / LENGTH ** 2), Math.floor(i / LENGTH) % LENGTH, i % LENGTH),
);
const packedMask: Given = {
  dims: [LENGTH, LENGTH, 1, SEQUENCES],
  values: Float32Array.from(packed, (seen) => (seen ? 0 : Number.NEGATIVE_INFINITY)),
};
const packedHalfMask: Given = {
  ...packedMask,
  values: Uint16Array.from(packed, (seen) => (seen ? 0 : 0xfc00)),
};
const causalHalfMask: Given = {
  dims: [LENGTH, LENGTH],
  values: Uint16Array.from({ length: LENGTH ** 2 }, (_, i) =>
    i % LENGTH <= Math.floor(i / LENGTH) ? 0 : 0xfc00,
  ),
};

/** f16: the documents' mask, and no key that is `window` tokens back. */
function windowMask(window: number): Given {
  const visible = packed.map((seen, i) => seen && (Math.floor(i / LENGTH) % LENGTH) - (i % LENGTH) < window);
  return { ...packedMask, values: Uint16Array.from(visible, (seen) => (seen ? 0 : 0xfc00)) };
}

function attend(g: Graph, t: Record<string, Tensor>): Tensor {
  const sequences = { sequences: SEQUENCES, length: LENGTH, positions: t.positions!, mask: t.mask! };
  return new TrainingAttention(sequences).attend(g, 0, t.q!, t.k!, t.v!, { scale: SCALE });
}

/** The definition: per sequence, head and query, the mean of the values it sees, weighted by e^(score). */
function reference(visible: (s: number, query: number, key: number) => boolean): Float32Array {
  const result = new Float32Array(DIM * HEADS * TOKENS);
  for (let s = 0; s < SEQUENCES; s++) {
    for (let head = 0; head < HEADS; head++) {
      const shared = Math.floor((head * KV_HEADS) / HEADS);
      for (let query = 0; query < LENGTH; query++) {
        const row = (given: Given, heads: number, h: number, token: number) =>
          [...given.values].slice(((s * LENGTH + token) * heads + h) * DIM).slice(0, DIM);
        const keys = [0, 1, 2].filter((key) => visible(s, query, key));
        const scores = keys.map((key) => {
          const other = row(k, KV_HEADS, shared, key);
          return Math.exp(
            SCALE * row(q, HEADS, head, query).reduce((sum, x, i) => sum + x * (other[i] as number), 0),
          );
        });
        const total = scores.reduce((a, b) => a + b);
        for (let i = 0; i < DIM; i++) {
          const at = ((s * LENGTH + query) * HEADS + head) * DIM + i;
          for (const [j, key] of keys.entries()) {
            const value = row(v, KV_HEADS, shared, key)[i] as number;
            result[at] = (result[at] as number) + ((scores[j] as number) / total) * value;
          }
        }
      }
    }
  }
  return result;
}

const separate: Case = {
  inputs: { q, k, v, positions, mask: packedHalfMask },
  wanted: ["q", "k", "v"],
  build: attend,
};
/** One tensor holds queries, keys and values of each token, as in GPT-2. */
const fused: Case = {
  inputs: { qkv: some(DIM * (HEADS + 2 * KV_HEADS), TOKENS), positions, mask: causalHalfMask },
  wanted: ["qkv"],
  build: (g, { qkv, ...t }) => {
    const part = (heads: number, first: number) =>
      g.view(qkv!, [DIM, heads, TOKENS], [DIM * 4, qkv!.nb[1]], first * DIM * 4);
    const [q, k, v] = [part(HEADS, 0), part(KV_HEADS, HEADS), part(KV_HEADS, HEADS + KV_HEADS)];
    return attend(g, { ...t, q, k, v });
  },
};
/** A window of two tokens, capped scores and sinks together. */
const special: Case = {
  inputs: { q, k, v, positions, mask: packedHalfMask, sinks: some(HEADS), band: windowMask(2) },
  wanted: ["q", "k", "v", "sinks"],
  build: (g, t) => {
    const sequences = { sequences: SEQUENCES, length: LENGTH, positions: t.positions!, mask: t.mask! };
    const attention = new TrainingAttention({ ...sequences, windowed: new Map([[2, t.band!]]) });
    return attention.attend(g, 0, t.q!, t.k!, t.v!, {
      scale: SCALE,
      window: 2,
      softcap: 0.8,
      sinks: t.sinks,
    });
  },
};
const CASES: [string, Case][] = [
  ["queries, keys and values apart", separate],
  ["as views of one tensor", fused],
  ["a window, capped scores and sinks", special],
];

describe("the result is that of the definition", () => {
  test.each([
    ["documents packed into sequences, f32", packedMask, sees],
    ["documents packed into sequences, f16", packedHalfMask, sees],
    ["one mask for all sequences", causalHalfMask, (_s: number, query: number, key: number) => key <= query],
  ] as const)("%s", (_name, mask, visible) =>
    onCpu(async (device) => {
      const inputs = { q, k, v, positions, mask };
      const evaluation = new Evaluation(device, inputs, (g, t) => ({ mixed: attend(g, t) }));
      const { mixed } = await evaluation.run(inputs);
      evaluation.dispose();
      expect(relativeDifference(mixed!, reference(visible))).toBeLessThan(1e-6);
    }),
  );
});

describe("gradients agree with central differences", () => {
  test.each(CASES)("%s", (_name, c) =>
    onCpu(async (device) => {
      const { flat, direction } = projected(device, c);
      const gradients = await gradientsOf(device, flat, direction);
      const expected = await numeric(device, flat, direction, 2 ** -7);
      // Truncation of the differences: h^2 / 6 times third derivatives of a few units; see gradients.test.ts.
      for (const name of c.wanted)
        expect(relativeDifference(gradients[name]!, expected[name]!), name).toBeLessThan(1e-3);
    }),
  );
});

describe("a GPU gives the CPU's gradients", () => {
  const gpu = TestGpu.find();
  afterAll(() => gpu?.dispose());
  testUnless(whyNoGpu(gpu)).each(CASES)("%s", (_name, c) =>
    onCpu(async (device) => {
      const { flat, direction } = projected(device, c);
      const expected = await gradientsOf(device, flat, direction);
      const gradients = await gpu!.evaluate({ ...flat.inputs, direction }, gradientGraph(flat));
      for (const name of c.wanted)
        expect(relativeDifference(gradients[name]!, expected[name]!), name).toBeLessThan(gpu!.tolerance);
    }),
  );
});

describe("tensors of another shape are refused with the numbers", () => {
  const three: Given = { dims: [LENGTH, LENGTH, 1, 3], values: new Float32Array(3 * LENGTH ** 2) };
  test.each<[string, Record<string, Given>, RegExp]>([
    ["a mask for three sequences", { mask: three }, /a mask for 1 or 2 sequences: mask f32\[3, 3, 1, 3\]/],
    ["a mask of whole numbers", { mask: { ...positions, dims: [2, 3] } }, /f16 or f32 \[3, 3, 1, 2 or 1\]/],
    [
      "positions of one sequence",
      { positions: { dims: [3], values: new Int32Array(3) } },
      /positions of 2 sequences of 3 tokens: positions i32\[3, 1, 1, 1\]/,
    ],
    [
      "keys of fewer tokens",
      { k: some(DIM, KV_HEADS, 5) },
      /k f32\[4, 2, 5, 1\] for 2 sequences of 3 tokens/,
    ],
  ])("%s", async (_name, other, message) => {
    const inputs = { ...separate.inputs, ...other };
    const building = onCpu((device) =>
      new Evaluation(device, inputs, (g, t) => ({ mixed: attend(g, t) })).dispose(),
    );
    await expect(building).rejects.toThrow(GraphError);
    await expect(building).rejects.toThrow(message);
  });
});
