import { afterAll, describe, expect, test } from "vitest";
import type { Device } from "../../../backend/ggml/device.ts";
import {
  Evaluation,
  type Given,
  type Inputs,
  onCpu,
  randomNumbers,
  relativeDifference,
  TestGpu,
} from "../../../backend/ggml/gradients/testing.ts";
import type { Graph } from "../../../backend/ggml/ops.ts";
import type { Tensor } from "../../../backend/ggml/tensor.ts";
import { testUnless, whyNoGpu } from "../../../base/testing-unproven.ts";
import type { Stage } from "../../../models/spec.ts";
import { crossEntropy, headLoss, lossBlockTokens } from "./loss.ts";

const next = randomNumbers(5);
const some = (scale: number, ...dims: number[]): Given => ({
  dims,
  values: Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => scale * (2 * next() - 1)),
});
const ids = (...values: number[]): Given => ({ dims: [values.length], values: Int32Array.from(values) });

async function evaluate(
  device: Device,
  inputs: Inputs,
  build: (g: Graph, t: Record<string, Tensor>) => Record<string, Tensor>,
) {
  const evaluation = new Evaluation(device, inputs, build);
  try {
    return await evaluation.run(inputs);
  } finally {
    evaluation.dispose();
  }
}

/** Sum of -log softmax(logits)[target] and its gradient, in double precision. */
function reference(logits: Given, targets: Given) {
  const vocab = logits.dims[0] as number;
  const gradient = new Float32Array(logits.values.length);
  let sum = 0;
  for (const [row, target] of targets.values.entries()) {
    const z = Float64Array.from(logits.values.subarray(row * vocab, (row + 1) * vocab));
    const largest = Math.max(...z);
    const total = z.reduce((all, value) => all + Math.exp(value - largest), 0);
    sum += largest + Math.log(total) - (z[target] as number);
    for (const [i, value] of z.entries())
      gradient[row * vocab + i] = Math.exp(value - largest) / total - (i === target ? 1 : 0);
  }
  return { sum, gradient };
}

describe("cross-entropy agrees with the definition", () => {
  const gpu = TestGpu.find();
  afterAll(() => gpu?.dispose());
  const cases: [string, Given, Given][] = [
    ["logits of a few units", some(3, 11, 5), ids(0, 10, 3, 3, 7)],
    ["logits of hundreds, of which e^x is no number", some(400, 7, 4), ids(1, 2, 3, 4)],
    [
      "a target whose probability is zero in f32",
      { dims: [3], values: Float32Array.from([0, 200, 50]) },
      ids(0),
    ],
    ["one token of all the probability", { dims: [3], values: Float32Array.from([0, 200, 50]) }, ids(1)],
    ["a vocabulary of one", some(1, 1, 2), ids(0, 0)],
  ];
  const scale = 0.25;
  const build = (g: Graph, t: Record<string, Tensor>) => ({
    ...crossEntropy(g, t.logits!, t.targets!, scale),
  });
  const compare = (results: Record<string, Float32Array>, logits: Given, targets: Given) => {
    const expected = reference(logits, targets);
    expect(results.sum![0]).toBeCloseTo(expected.sum, 3); // sums reach 1000, f32 has 7 digits
    for (const [i, value] of results.gradient!.entries())
      expect(value).toBeCloseTo(scale * (expected.gradient[i] as number), 6);
  };

  test.each(cases)("%s", (_name, logits, targets) =>
    onCpu(async (device) => compare(await evaluate(device, { logits, targets }, build), logits, targets)),
  );
  testUnless(whyNoGpu(gpu)).each(cases)("on a GPU: %s", async (_name, logits, targets) =>
    compare(await gpu!.evaluate({ logits, targets }, build), logits, targets),
  );

  test("targets of another number are refused", async () => {
    const building = onCpu((device) =>
      evaluate(device, { logits: some(1, 4, 3), targets: ids(0, 1) }, build),
    );
    await expect(building).rejects.toThrow(
      /one target for each row of logits f32\[4, 3, 1, 1\]: targets i32\[2/,
    );
  });
});

const [HIDDEN, VOCAB, TOKENS] = [6, 40, 16];
const head: Stage = {
  name: "lm_head",
  kind: "head",
  weights: { norm: { name: "norm", shape: [HIDDEN] }, head: { name: "head", shape: [VOCAB, HIDDEN] } },
  build: (g, x, w) => g.mulMat(w.head!, g.mul(g.rmsNorm(x!, 1e-5), w.norm!)),
};
const predicting = [0, 1, 2, 4, 5, 8, 9, 10, 12, 13, 14];
const inputs = {
  hidden: some(1, HIDDEN, TOKENS),
  norm: some(1, HIDDEN),
  head: some(1, HIDDEN, VOCAB),
  predicting: ids(...predicting),
  targets: ids(...predicting.map((i) => (i * 7) % VOCAB)),
};
const buildHead =
  (blockTokens: number, wanted = { parameters: ["norm", "head"], x: true }) =>
  (
    g: Graph,
    { hidden, predicting, targets, ...parameters }: Record<string, Tensor>,
  ): Record<string, Tensor> => {
    const input = { hidden: hidden!, predicting: predicting!, targets: targets!, parameters };
    const {
      sum,
      x,
      parameters: gradients,
    } = headLoss(g, head, input, { blockTokens, gradScale: 1 / 11, wanted });
    return { sum, ...gradients, ...(x && { x }) };
  };

describe("the head in blocks", () => {
  test.each([1, 3, 4, 10])("blocks of %i tokens give what one block gives", (blockTokens) =>
    onCpu(async (device) => {
      const whole = await evaluate(device, inputs, buildHead(TOKENS));
      const parts = await evaluate(device, inputs, buildHead(blockTokens));
      // Sums of 11 terms in another order.
      for (const name of ["sum", "norm", "head", "x"])
        expect(relativeDifference(parts[name]!, whole[name]!), name).toBeLessThan(1e-6);
    }),
  );

  test("tokens that predict nothing have no gradient, all others have one", () =>
    onCpu(async (device) => {
      const { x } = await evaluate(device, inputs, buildHead(4));
      for (let token = 0; token < TOKENS; token++) {
        const zero = x!.subarray(token * HIDDEN, (token + 1) * HIDDEN).every((value) => value === 0);
        expect(zero, `token ${token}`).toBe(!predicting.includes(token));
      }
    }));

  test("the loss alone, or only some gradients", () =>
    onCpu(async (device) => {
      const all = await evaluate(device, inputs, buildHead(4));
      const loss = await evaluate(device, inputs, buildHead(4, { parameters: [], x: false }));
      expect(loss).toEqual({ sum: all.sum });
      const some = await evaluate(device, inputs, buildHead(4, { parameters: ["norm"], x: false }));
      expect(some).toEqual({ sum: all.sum, norm: all.norm });
    }));

  test("logits of all tokens never exist", () =>
    onCpu((device) => {
      const tokens = 96;
      const vocab = 2000;
      const big = {
        hidden: some(1, HIDDEN, tokens),
        norm: some(1, HIDDEN),
        head: some(1, HIDDEN, vocab),
        predicting: ids(...Array.from({ length: tokens }, (_, i) => i)),
        targets: ids(...Array.from({ length: tokens }, (_, i) => i)),
      };
      const bytes = (blockTokens: number) => {
        const evaluation = new Evaluation(device, big, buildHead(blockTokens));
        evaluation.dispose();
        return evaluation.bytes;
      };
      const logits = 4 * vocab * tokens;
      expect(bytes(tokens)).toBeGreaterThan(logits);
      expect(bytes(4)).toBeLessThan(0.75 * logits);
    }));

  test("no token that predicts anything, or blocks of none", async () => {
    const none = onCpu((device) => evaluate(device, inputs, buildHead(0)));
    await expect(none).rejects.toThrow("blocks of 0 tokens");
  });
});

test("a block's logits are at most 16 MiB, and never less than one token's", () => {
  expect(lossBlockTokens(32_000)).toBe(131);
  expect(lossBlockTokens(100)).toBe(512);
  expect(lossBlockTokens(10_000_000)).toBe(1);
});
