// Results of forward that are kept for backward, in whole runs: the same losses, gradients, weights and moments as where
// backward computes them again, to the bit; within the budget; and as many stages as it carries.
import { describe, expect, test } from "vitest";
import { listDevices } from "../src/backend/ggml/device.ts";
import { BudgetError } from "../src/base/errors.ts";
import { testUnless, whyNoGpu } from "../src/base/testing-unproven.ts";
import { temporaryFolder } from "../src/formats/testing.ts";
import { engineOf } from "../src/generate/causal-lm.ts";
import type { EngineOptions } from "../src/runtime/open/prepare.ts";
import { trainingRefusal } from "../src/train/open/least-budget.ts";
import type { OffloadOptions, TrainerOptions } from "../src/train/open/options.ts";
import type { TrainingBatch } from "../src/train/step/batch.ts";
import type { TrainingPlanSummary } from "../src/train/trainer-face.ts";
import { checkpoint } from "./support/checkpoints.ts";
import { CPU, expectSameRun, labelled, train, withTrainer } from "./support/training.ts";

const TINY = { hidden_size: 32, intermediate_size: 48, vocab_size: 272, num_hidden_layers: 2 };
const LLAMA = { family: "llama", dtype: "f32", shape: TINY } as const;
const GPT2 = {
  family: "gpt2",
  dtype: "f32",
  shape: { n_embd: 32, vocab_size: 272, n_layer: 2, n_positions: 64 },
} as const;

const ids = (count: number, seed: number) =>
  Array.from({ length: count }, (_, i) => (seed * 31 + i * 7) % 257);
/** Micro-batches of several shapes, the last of them of packed documents. */
const STEPS: (TrainingBatch | TrainingBatch[])[] = [
  labelled([ids(24, 1)]),
  [labelled([ids(12, 2), ids(12, 3)]), labelled([ids(5, 4)])],
  labelled([ids(24, 5)]),
  { ...labelled([ids(16, 6)]), document_ids: [ids(16, 6).map((_, i) => (i < 7 ? 0 : 1))] },
];
const COMMON: TrainerOptions = { learning_rate: 1e-2, max_length: 24 };
const inRam: OffloadOptions = { optimizer: "cpu", gradients: "cpu", activations: "cpu", weights: "cpu" };
const onDisk: OffloadOptions = {
  ...{ optimizer: "disk", gradients: "disk", activations: "disk", weights: "disk" },
};

const LORA = { r: 4, lora_alpha: 8, target_modules: "all-linear" } as const;
const SETTINGS: [string, typeof LLAMA | typeof GPT2, TrainerOptions][] = [
  ["llama", LLAMA, {}],
  ["llama whose weights compute in bfloat16", LLAMA, { precision: "bfloat16" }],
  ["an adapter with dropout", LLAMA, { lora: { ...LORA, lora_dropout: 0.1 } }],
  [
    "an adapter of the upper layer alone",
    LLAMA,
    { lora: { ...LORA, target_modules: ["q_proj", "down_proj"], layers_to_transform: [1] } },
  ],
  ["gpt2", GPT2, {}],
];

describe.each([
  ["in RAM", inRam],
  ["on disk", onDisk],
] as const)("%s", (_where, offload) => {
  test.each(SETTINGS)(
    "%s: the same bits whether stages are kept or computed again",
    async (_name, made, options) => {
      const dir = await checkpoint(made);
      const run = (keep_activations: TrainerOptions["keep_activations"]) =>
        train(dir, { trainer: { ...COMMON, ...options, offload, keep_activations }, steps: STEPS });
      const none = await run("none");
      expect(none.losses.at(-1)).not.toBe(none.losses[0]);
      for (const keep of ["all", "auto"] as const) expectSameRun(await run(keep), none, keep);
    },
  );
});

const gpu = listDevices().find((device) => device.kind === "gpu");

testUnless(whyNoGpu(gpu))("on a GPU too, whose kernels join operations", { timeout: 240_000 }, async () => {
  const dir = await checkpoint(LLAMA);
  const lora = { ...LORA, lora_dropout: 0.1 };
  for (const options of [{}, { precision: "bfloat16" as const }, { lora }]) {
    const run = (keep_activations: TrainerOptions["keep_activations"]) => {
      const model: EngineOptions = { device: gpu?.name ?? "gpu" };
      return train(dir, { model, trainer: { ...COMMON, ...options, keep_activations }, steps: STEPS });
    };
    expectSameRun(await run("all"), await run("none"), JSON.stringify(options));
  }
});

/** The plan of a training under a budget, and the most RAM that a step then held. */
async function planned(
  dir: string,
  budget: number | undefined,
  options: TrainerOptions,
): Promise<{ plan: TrainingPlanSummary; peak: number; run: Awaited<ReturnType<typeof train>> }> {
  const model: EngineOptions = budget === undefined ? {} : { max_memory: { cpu: budget } };
  const trainer = { ...COMMON, ...options };
  const seen = await withTrainer(dir, { model, trainer }, async (one, opened) => {
    for (const batch of STEPS.slice(0, 2)) await one.step(batch);
    return { plan: one.plan(), peak: engineOf(opened).parts.ledger.peak("cpu") };
  });
  return { ...seen, run: await train(dir, { model, trainer, steps: STEPS }) };
}

describe("budgets", () => {
  /** Stages whose results take megabytes, since budgets are told in these. */
  const WIDE: TrainerOptions = { max_length: 192, micro_batch_size: 4 };

  test("as many stages are kept as memory carries, from none to all: the same bits, within the budget", async () => {
    const dir = await checkpoint(LLAMA);
    const plenty = await planned(dir, undefined, WIDE);
    const { kept_activations: all } = plenty.plan;
    expect(all).toMatchObject({ stages: 4, of: 4, spared: 1 });
    expect(plenty.plan.parts).toContainEqual({ tier: "cpu", what: "kept activations", bytes: all.bytes });

    const none = await planned(dir, undefined, { ...WIDE, keep_activations: "none" });
    expect(none.plan.kept_activations).toEqual({ stages: 0, of: 4, bytes: 0, spared: 0 });
    expect(none.plan.flops_per_step).toBeGreaterThan(plenty.plan.flops_per_step);
    const least = await refusal(dir, 2 ** 20, { ...WIDE, offload: inRam, keep_activations: "none" });
    const stages: number[] = [];
    for (const share of [0, 0.25, 0.5, 0.75, 1.1]) {
      const budget = Math.ceil(least.smallest + share * all.bytes);
      const { plan, peak, run } = await planned(dir, budget, { ...WIDE, offload: inRam });
      expectSameRun(run, none.run, `${share} of the room that all stages take`);
      expect(peak).toBeLessThanOrEqual(budget);
      stages.push(plan.kept_activations.stages);
    }
    expect(stages).toEqual(stages.toSorted((a, b) => a - b));
    expect(stages.at(-1)).toBe(4);
    expect(new Set(stages).size).toBeGreaterThan(2);
  });

  test('"all" that does not fit is refused with the budget that works, and "auto" fits in what "none" needs', async () => {
    const dir = await checkpoint(LLAMA);
    const all = await refusal(dir, 2 ** 20, { ...WIDE, keep_activations: "all" });
    const none = await refusal(dir, 2 ** 20, { ...WIDE, keep_activations: "none" });
    const auto = await refusal(dir, 2 ** 20, { ...WIDE, keep_activations: "auto" });
    expect(all).toMatchObject({ code: "budget", tier: "cpu" });
    expect(all.smallest).toBeGreaterThan(none.smallest);
    expect(auto.smallest).toBe(none.smallest);
    const { plan } = await planned(dir, all.smallest, { ...WIDE, keep_activations: "all" });
    expect(plan.kept_activations.stages).toBe(4);
  });
});

/** How a training is refused that does not fit. */
async function refusal(
  dir: string,
  budget: number,
  options: TrainerOptions,
): Promise<BudgetError & { smallest: number }> {
  const model = { ...CPU, max_memory: { cpu: budget } };
  const opening = new BudgetError("", { tier: "cpu", needed: 0, budget, smallest: 0 });
  const trainer = { ...COMMON, offload_folder: temporaryFolder(), ...options };
  return (await trainingRefusal(dir, model, trainer, opening)) as BudgetError & { smallest: number };
}
