// Five optimizer steps of the reference implementation, repeated by the trainer: losses, gradient norms and every weight,
// wherever the parts of training live; and what accumulation and clipping make of them.

import { afterEach, describe, expect, test } from "vitest";
import { listDevices } from "../src/backend/ggml/device.ts";
import { describeUnless, whyNoGpu } from "../src/base/testing-unproven.ts";
import { temporaryFolder } from "../src/formats/testing.ts";
import { AutoModelForCausalLM } from "../src/generate/causal-lm.ts";
import type { EngineOptions } from "../src/runtime/open/prepare.ts";
import type { OffloadOptions, TrainerOptions } from "../src/train/open/options.ts";
import { adamwReference } from "../src/train/optimizer/rules/reference.ts";
import type { TrainingBatch } from "../src/train/step/batch.ts";
import { largestDifference } from "./golden/golden.ts";
import { PEFT_ADAPTER } from "./support/adapters.ts";
import {
  CPU,
  expectClose,
  expectNear,
  floats,
  furthest,
  halfOnDisk,
  labelled,
  type ReferenceRun,
  referenceRun,
  type Trained,
  train,
  withTrainer,
} from "./support/training.ts";

// Read when the GPU backend is loaded: without it Vulkan rounds what it multiplies to halves.
process.env.GGML_VK_DISABLE_F16 ??= "1";

const FAMILIES = ["gpt2", "llama", "qwen2"];

const inRam: OffloadOptions = { optimizer: "cpu", gradients: "cpu", activations: "cpu", weights: "cpu" };
const onDisk: OffloadOptions = {
  ...{ optimizer: "disk", gradients: "disk", activations: "disk", weights: "disk" },
};
const PLACEMENTS: [string, OffloadOptions][] = [
  ["all in RAM", inRam],
  ["states on disk", { ...inRam, optimizer: "disk" }],
  ["weights, states, gradients and activations on disk", onDisk],
];

/** Relative, of losses and gradient norms; absolute, of weights; gradients that are noise, relative to their tensor's largest. */
const F32 = { loss: 1e-5, weights: 1e-5, noise: 2e-6 };

async function repeat(reference: ReferenceRun, options: TrainerOptions, model?: EngineOptions) {
  return train(reference.dir, {
    ...(model && { model }),
    trainer: { ...reference.options, ...options },
    steps: reference.losses.map(() => reference.batch),
  });
}

function expectReference(run: Trained, reference: ReferenceRun, within: typeof F32): void {
  expectNear(run.losses, reference.losses, within.loss);
  expectNear(run.gradNorms, reference.gradNorms, within.loss);
  expectWeights(run, reference, within);
}

/**
 * AdamW divides a gradient by its own size: one that is nothing but rounding errors, such as that of GPT-2's key biases,
 * which softmax cancels out, still makes a step. Where the reference's is as small as that, one step of difference is allowed.
 */
function expectWeights(run: Trained, reference: ReferenceRun, { weights, noise }: typeof F32): void {
  expect([...run.weights.keys()].sort()).toEqual([...reference.weights.keys()].sort());
  let elements = 0;
  let excused = 0;
  for (const [name, values] of run.weights) {
    const expected = reference.weights.get(name) as Float32Array;
    const gradient = reference.gradients.get(name) as Float32Array;
    const least = noise * gradient.reduce((most, g) => Math.max(most, Math.abs(g)), 0);
    const width = values.length / 3;
    const isKeyBias = (i: number) => name.endsWith("c_attn.bias") && i >= width && i < 2 * width;
    const isNoise = gradient.map((g, i) => ((g !== 0 && Math.abs(g) < least) || isKeyBias(i) ? 1 : 0));
    const strict = (v: Float32Array) => v.map((x, i) => (isNoise[i] ? 0 : x));
    expect(largestDifference(strict(values), strict(expected)), name).toBeLessThan(weights);
    expect(largestDifference(values, expected), name).toBeLessThan(reference.options.learning_rate as number);
    elements += values.length;
    excused += isNoise.reduce((a, b) => a + b, 0);
  }
  expect(excused / elements).toBeLessThan(0.01);
}

describe.each(PLACEMENTS)("on the CPU, %s: losses within 1e-5, weights within 1e-5", (_where, offload) => {
  test.each(FAMILIES)("%s", async (name) => {
    const reference = await referenceRun(name);
    const run = await repeat(reference, { offload });
    expectReference(run, reference, F32);
    const onDisk = offload.optimizer === "disk";
    // Updates go on after a step: what they write is counted in the next.
    expect(run.results.slice(1).every((r) => r.written_bytes > 0)).toBe(onDisk);
  });

  test("llama, an adapter that PEFT began", async () => {
    const reference = await referenceRun("llama", "lora");
    expectReference(await repeat(reference, { offload, adapter: PEFT_ADAPTER }), reference, F32);
  });
});

test("the weights are those of the reference only after as many steps", async () => {
  const reference = await referenceRun("llama");
  const { weights } = await train(reference.dir, {
    trainer: reference.options,
    steps: reference.losses.slice(1).map(() => reference.batch),
  });
  expect(furthest(weights, reference.weights)).toBeGreaterThan(100 * F32.weights);
});

describe("micro-batches", () => {
  const rows = ({ batch }: ReferenceRun) => batch.input_ids.map((row) => labelled([row]));

  test.each(FAMILIES)("%s: two of one sequence are the reference's batch of two", async (name) => {
    const reference = await referenceRun(name);
    const run = await train(reference.dir, {
      trainer: { ...reference.options, micro_batch_size: 1 },
      steps: reference.losses.map(() => rows(reference)),
    });
    expectReference(run, reference, F32);
    expect(run.results[0]).toMatchObject({ tokens: 64, target_tokens: 62 });
  });

  // 31, 8, 23 and 1 targets, in sequences of 32, 9, 30 and 12 tokens.
  const uneven = ({ batch }: ReferenceRun): TrainingBatch => {
    const [a, b] = batch.input_ids as [number[], number[]];
    const cut = (row: number[], ignored: number) => row.map((id, i) => (i <= ignored ? -100 : id));
    return {
      input_ids: [a, b.slice(0, 9), b.slice(2), a.slice(20)],
      labels: [a, b.slice(0, 9), cut(b.slice(2), 6), cut(a.slice(20), 10)],
    };
  };
  const split = ({ input_ids, labels }: TrainingBatch): TrainingBatch[] =>
    input_ids.map((row, i) => ({ input_ids: [row], labels: [labels[i] as number[]] }));

  test.each(FAMILIES)("%s: four with uneven numbers of targets are one of all", async (name) => {
    const reference = await referenceRun(name);
    const batch = uneven(reference);
    // SGD's weights are as near to each other as the gradients are.
    const { betas: _, eps: __, ...options } = reference.options;
    const once = { ...options, optimizer: "sgd", learning_rate: 0.1, micro_batch_size: 4 } as const;
    const whole = await train(reference.dir, { trainer: once, steps: [batch, batch, batch] });
    const micro = split(batch);
    const parts = await train(reference.dir, { trainer: once, steps: [micro, micro, micro] });
    expect(whole.results[0]?.target_tokens).toBe(31 + 8 + 23 + 1);
    expect(parts.results[0]?.target_tokens).toBe(31 + 8 + 23 + 1);
    expectNear(parts.losses, whole.losses, 1e-6);
    expectNear(parts.gradNorms, whole.gradNorms, 1e-5);
    expectClose(parts.weights, whole.weights, F32.weights);
  });

  test("one that has no targets counts for nothing", async () => {
    const reference = await referenceRun("llama");
    const silent = { input_ids: [[1, 2, 3]], labels: [[-100, -100, -100]] };
    const trainer = { ...reference.options, micro_batch_size: 2 };
    const run = await train(reference.dir, { trainer, steps: [[silent, reference.batch]] });
    expectNear(run.losses, reference.losses.slice(0, 1), F32.loss);
    expect(run.results[0]).toMatchObject({ tokens: 67, target_tokens: 62 });
  });
});

// With a large eps a step of AdamW is not the sign of the gradient alone, so that a scaled gradient shows.
describe("clipping: one step against AdamW in doubles on the reference's gradients", () => {
  const params = { betas: [0.9, 0.95] as [number, number], eps: 0.1 };
  const decay = { learning_rate: 0.01, weight_decay: 0.1 };

  async function stepped(reference: ReferenceRun, gradients: ReferenceRun["gradients"]) {
    const weights = await floats(reference.dir);
    return new Map(
      [...gradients].map(([name, gradient]) => {
        const w = Float64Array.from(weights.get(name) as Float32Array);
        const [m, v] = [new Float64Array(w.length), new Float64Array(w.length)];
        adamwReference(w, m, v, gradient, params, { lr: 0.01, weight_decay: 0.1, step: 1 });
        return [name, Float32Array.from(w)] as const;
      }),
    );
  }

  test.each(FAMILIES)("%s", async (name) => {
    const reference = await referenceRun(name);
    const scaled = await stepped(reference, reference.clipped);
    const asIs = await stepped(reference, reference.gradients);
    expect(furthest(scaled, asIs)).toBeGreaterThan(100 * F32.weights);
    for (const [max_grad_norm, expected] of [
      [1, scaled],
      [0, asIs],
      [(reference.gradNorms[0] as number) * 1.01, asIs],
    ] as const) {
      const trainer = { ...reference.options, ...params, ...decay, max_grad_norm };
      const run = await train(reference.dir, { trainer, steps: [reference.batch] });
      expectNear(run.gradNorms, reference.gradNorms.slice(0, 1), F32.loss);
      expectClose(run.weights, expected, F32.weights);
    }
  });

  test("without clipping a stage may be updated while others still compute: the same to the bit", async () => {
    const { dir, options, batch } = await referenceRun("gpt2");
    const steps = [batch, batch, [batch, batch]];
    for (const offload of [inRam, onDisk]) {
      const trainer = { ...options, offload, max_grad_norm: 0 };
      const late = await train(dir, { trainer, steps });
      const early = await train(dir, { trainer: { ...trainer, non_finite: "error" }, steps });
      expect(early.losses).toEqual(late.losses);
      expect(early.gradNorms).toEqual(late.gradNorms);
      expect(early.state).toBe(late.state);
    }
  });
});

const gpu = listDevices().find((device) => device.kind === "gpu");

/**
 * Kernels of GPUs add in another order and take exponentials from faster formulas; those of CUDA round operands of
 * products to 10 bits (TF32). AdamW's first steps are the signs of gradients nearly, so where a gradient is next to nothing
 * its weight may end up to 5 steps of 0.001 away.
 */
const onVulkan = gpu?.name.startsWith("vulkan") ?? false;
const GPU = onVulkan
  ? { loss: 1e-4, weights: 1e-4, noise: 1e-4 }
  : { loss: 1e-2, weights: 1e-3, noise: 1e-2 };

describeUnless(whyNoGpu(gpu))("on a GPU, states in RAM", () => {
  const model: EngineOptions = { ...CPU, device: gpu?.name ?? "gpu", context_length: 32 };
  const weightsHere: OffloadOptions = {
    optimizer: "cpu",
    gradients: "cpu",
    activations: "gpu",
    weights: "gpu",
  };
  const spread = { ...onDisk, optimizer: "cpu", gradients: "cpu" } as const;

  afterEach(({ task }) => {
    if (task.result?.state === "fail") console.log(`on ${gpu?.name}: ${gpu?.description}`);
  });

  test.each(FAMILIES)("%s", async (name) => {
    const reference = await referenceRun(name);
    const run = await repeat(reference, { offload: weightsHere }, model);
    expectReference(run, reference, GPU);
  });

  test("llama: weights in RAM, half on disk or all, activations on disk: the same to the bit", async () => {
    const reference = await referenceRun("llama");
    const steps = [reference.batch, reference.batch];
    const runs: Trained[] = [];
    for (const offload of [
      weightsHere,
      { ...weightsHere, weights: "cpu", activations: "cpu" },
      { ...spread, weights: halfOnDisk("model.layers", 3) },
      { ...spread, gradients: "disk", optimizer: "disk" },
    ] as const) {
      runs.push(await train(reference.dir, { model, trainer: { ...reference.options, offload }, steps }));
    }
    for (const run of runs) {
      expect(run.losses).toEqual(runs[0]?.losses);
      expect(run.gradNorms).toEqual(runs[0]?.gradNorms);
      expect(run.state).toBe(runs[0]?.state);
    }
  });

  test("llama, an adapter that PEFT began, weights on disk", async () => {
    const reference = await referenceRun("llama", "lora");
    const run = await repeat(reference, { offload: spread, adapter: PEFT_ADAPTER }, model);
    expectReference(run, reference, GPU);
  });

  test("what is said between steps is what the exported weights say", async () => {
    const { dir, options, batch } = await referenceRun("llama");
    await withTrainer(
      dir,
      { model, trainer: { ...options, offload: weightsHere } },
      async (trainer, open) => {
        const input_ids = [[1, 2, 3, 4, 5, 6]];
        const before = (await open.forward({ input_ids })).logits.data;
        await trainer.step(batch);
        const after = (await open.forward({ input_ids })).logits.data;
        expect(largestDifference(after, before)).toBeGreaterThan(0.01);
        const folder = temporaryFolder();
        await trainer.export(folder);
        await trainer.dispose();
        await using again = await AutoModelForCausalLM.from_pretrained(folder, model);
        expect((await again.forward({ input_ids })).logits.data).toEqual(after);
      },
    );
  });
});
