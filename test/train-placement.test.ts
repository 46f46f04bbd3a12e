// Placement never changes the result: up to fifty steps with weights, states, gradients and activations in RAM or on disk end in
// the same losses, weights and moments, to the bit.
import { describe, expect, test } from "vitest";
import { temporaryFolder } from "../src/formats/testing.ts";
import { AutoModelForCausalLM } from "../src/generate/causal-lm.ts";
import { openStateFileCount } from "../src/memory/stores/state-file.ts";
import type { EngineOptions } from "../src/runtime/open/prepare.ts";
import type { OffloadOptions, TrainerOptions } from "../src/train/open/options.ts";
import type { TrainingBatch } from "../src/train/step/batch.ts";
import { Trainer } from "../src/train/trainer.ts";
import { checkpoint } from "./support/checkpoints.ts";
import { leavesNothing } from "./support/leaks.ts";
import { CPU, expectSameRun, halfOnDisk, labelled, type Trained, train } from "./support/training.ts";

const LAYERS = 2;
const TINY = { hidden_size: 32, intermediate_size: 48, vocab_size: 272, num_hidden_layers: LAYERS };
const LLAMA = { family: "llama", dtype: "f32", shape: TINY } as const;
/** Transposed weights, biases, a table of positions and a tied head. */
const GPT2 = {
  family: "gpt2",
  dtype: "f32",
  shape: { n_embd: 32, vocab_size: 272, n_layer: LAYERS, n_positions: 64 },
} as const;

/** Ids that differ from step to step. */
const ids = (count: number, seed: number) =>
  Array.from({ length: count }, (_, i) => (seed * 31 + i * 7) % 257);
const MANY = 50;
/** Enough for every slot, lane and moment to have been used again and again. */
const FEW = 8;
const ONE: TrainingBatch[] = Array.from({ length: MANY }, (_, step) => labelled([ids(12, step % 7)]));
const ACCUMULATED: TrainingBatch[][] = Array.from({ length: MANY }, (_, step) => [
  labelled([ids(12, step % 5)]),
  labelled([ids(5, (step % 3) + 9)]),
]);

const COMMON: TrainerOptions = { learning_rate: 1e-2, max_length: 12, weight_decay: 0.01 };

const inRam: OffloadOptions = { optimizer: "cpu", gradients: "cpu", activations: "cpu", weights: "cpu" };
const onDisk: OffloadOptions = {
  ...{ optimizer: "disk", gradients: "disk", activations: "disk", weights: "disk" },
};

interface Placement {
  readonly where: string;
  readonly offload: OffloadOptions;
}

/** Each part by itself, and mixtures; the first is what all are compared with. */
function placements(layers: string): Placement[] {
  const half = halfOnDisk(layers, LAYERS);
  return [
    { where: "all in RAM", offload: inRam },
    { where: "everything on disk", offload: onDisk },
    { where: "weights on disk", offload: { ...inRam, weights: "disk" } },
    {
      where: "half of the weights and states on disk",
      offload: { ...inRam, weights: half, optimizer: "disk" },
    },
    { where: "gradients on disk", offload: { ...inRam, gradients: "disk" } },
    {
      where: "activations on disk, half of the weights",
      offload: { ...onDisk, weights: half, gradients: "cpu", optimizer: "cpu" },
    },
    { where: "only weights in RAM", offload: { ...onDisk, weights: "cpu" } },
  ];
}

async function expectSameEverywhere(
  dir: string,
  steps: readonly (TrainingBatch | readonly TrainingBatch[])[],
  options: TrainerOptions,
  where: readonly Placement[],
): Promise<Trained> {
  const trainer = { ...COMMON, ...options };
  const [first, ...others] = where as [Placement, ...Placement[]];
  const reference = await train(dir, { trainer: { ...trainer, offload: first.offload }, steps });
  const losses = reference.losses;
  expect(losses.at(-1)).toBeLessThan(losses[0] as number); // it learns, so the comparison means something
  for (const { where, offload } of others) {
    const run = await train(dir, { trainer: { ...trainer, offload }, steps });
    expectSameRun(run, reference, where);
  }
  return reference;
}

const OPTIMIZERS: [string, TrainerOptions][] = [
  ["adamw", { optimizer: "adamw" }],
  ["adam8bit", { optimizer: "adam8bit" }],
  ["sgd with momentum", { optimizer: "sgd", momentum: 0.9, learning_rate: 0.05 }],
];

test(`${MANY} steps of AdamW with two micro-batches each`, async () => {
  const where = placements("model.layers").slice(0, 4);
  await expectSameEverywhere(await checkpoint(LLAMA), ACCUMULATED, {}, where);
});

describe.each(["float32", "bfloat16"] as const)("%s", (precision) => {
  test.each(OPTIMIZERS)("llama, %s", async (_name, options) => {
    const where = placements("model.layers");
    // What optimizers keep differs; how weights and activations move does not depend on them.
    const some = options.optimizer === "adamw" ? where : where.slice(0, 3);
    await expectSameEverywhere(await checkpoint(LLAMA), ONE.slice(0, FEW), { ...options, precision }, some);
  });

  test("gpt2, two micro-batches a step", async () => {
    const where = placements("transformer.h").slice(0, 5);
    await expectSameEverywhere(await checkpoint(GPT2), ACCUMULATED.slice(0, FEW), { precision }, where);
  });
});

test("inputs of stages that end in the middle of a block of the disk", async () => {
  // 67 * 32 floats: 8576 bytes
  const steps = [67, 66, 3, 67, 66, 67].map((tokens) => labelled([ids(tokens, 1)]));
  const where = placements("model.layers").slice(0, 2);
  await expectSameEverywhere(await checkpoint(LLAMA), steps, { max_length: 67 }, where);
});

test("stages updated while backward goes on", async () => {
  const options: TrainerOptions = { max_grad_norm: 0, non_finite: "error" };
  const where = placements("transformer.h").slice(0, 4);
  await expectSameEverywhere(await checkpoint(GPT2), ACCUMULATED.slice(0, FEW), options, where);
});

describe("an adapter with dropout", () => {
  const lora = { r: 4, lora_alpha: 16, lora_dropout: 0.2, target_modules: ["q_proj", "v_proj", "down_proj"] };

  test.each(["f32", "bf16"] as const)("over a model in %s", async (dtype) => {
    const dir = await checkpoint({ ...LLAMA, dtype });
    const steps = ACCUMULATED.slice(0, 2 * FEW);
    const where = placements("model.layers").slice(0, 5);
    const same = await expectSameEverywhere(dir, steps, { lora, seed: 3 }, where);
    // The masks come from the seed: another one makes another run.
    const trainer = { ...COMMON, lora, seed: 4 };
    const other = await train(dir, { trainer, steps: steps.slice(0, 2) });
    expect(other.losses[1]).not.toBe(same.losses[1]);
  });
});

describe("budgets", () => {
  /** Trains under a budget and reports what was on disk; nothing may have exceeded the budget. */
  async function under(
    dir: string,
    cpu: number | undefined,
    trainer: TrainerOptions,
    steps: TrainingBatch[],
  ) {
    const model: EngineOptions = { ...CPU, ...(cpu && { max_memory: { cpu } }) };
    const homes = await leavesNothing(async () => {
      await using open = await AutoModelForCausalLM.from_pretrained(dir, model);
      await using trained = await Trainer.create(open, { offload_folder: temporaryFolder(), ...trainer });
      await trained.step(steps[0] as TrainingBatch);
      await open.generate({ input_ids: [[1, 2, 3]], max_new_tokens: 2, ignore_eos: true });
      if (cpu) expect(open.memory().peak.cpu).toBeLessThanOrEqual(cpu);
      return trained.plan().homes;
    });
    return { homes, run: await train(dir, { model, trainer, steps }) };
  }

  test("from the least that works to plenty: the same, from all on disk to all in RAM", async () => {
    const dir = await checkpoint({ ...LLAMA, shape: { ...TINY, hidden_size: 64, vocab_size: 2000 } });
    const trainer = { learning_rate: 1e-2, max_length: 12 };
    const plenty = await under(dir, undefined, trainer, ONE.slice(0, FEW));
    expect(plenty.homes).toMatchObject({ optimizer: "cpu", gradients: "cpu", activations: "cpu" });
    expect(plenty.homes.weights.disk).toBe(0);
    const model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, max_memory: { cpu: "3MiB" } });
    const refusal = await Trainer.create(model, { offload_folder: temporaryFolder(), ...trainer }).catch(
      (error: unknown) => error,
    );
    await model.dispose();
    expect(refusal).toMatchObject({ code: "budget", tier: "cpu" });
    const { smallest } = refusal as { smallest: number };
    const offloaded: number[] = [];
    for (const factor of [1, 1.2, 1.5, 2]) {
      const { homes, run } = await under(dir, Math.floor(smallest * factor), trainer, ONE.slice(0, FEW));
      expectSameRun(run, plenty.run, `${factor} of the least budget`);
      offloaded.push(
        homes.weights.disk +
          [homes.optimizer, homes.gradients, homes.activations].filter((t) => t === "disk").length,
      );
    }
    expect(offloaded[0]).toBeGreaterThan(0);
    expect(offloaded).toEqual(offloaded.toSorted((a, b) => b - a));
  });

  test("in a budget below 1 GiB larger parameters are stepped in smaller slices: the same", async () => {
    const dir = await checkpoint({ ...LLAMA, layers: 1, shape: { ...TINY, vocab_size: 9000 } }); // 288,000 elements
    const trainer: TrainerOptions = { learning_rate: 1e-2, max_length: 12, offload: onDisk };
    for (const optimizer of ["adamw", "adam8bit"] as const) {
      const runs: Trained[] = [];
      for (const cpu of ["512MiB", "2GiB"]) {
        const model = { max_memory: { cpu } };
        runs.push(await train(dir, { model, trainer: { ...trainer, optimizer }, steps: ONE.slice(0, 4) }));
      }
      expectSameRun(runs[1] as Trained, runs[0] as Trained, optimizer);
    }
  });
});

test("bfloat16: what computes is the master rounded, both are exported, and it learns", async () => {
  const dir = await checkpoint(LLAMA);
  expect(openStateFileCount()).toBe(0);
  const steps = ONE.slice(0, 30).map(() => labelled([ids(12, 1)]));
  const trainer: TrainerOptions = { learning_rate: 1e-2, max_length: 12, precision: "bfloat16" };
  await leavesNothing(async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(dir, CPU);
    await using trained = await Trainer.create(model, trainer);
    const losses: number[] = [];
    for (const batch of steps) losses.push((await trained.step(batch)).loss);
    expect(losses.at(-1)).toBeLessThan((losses[0] as number) / 4);
    const input_ids = [ids(9, 2)];
    const said = (await model.forward({ input_ids })).logits.data;

    const [working, master] = [temporaryFolder(), temporaryFolder()];
    await trained.export(working);
    await trained.export(master, { dtype: "float32" });
    await trained.dispose();
    const logits = async (path: string, dtype: "auto" | "float32" | "bfloat16") => {
      await using opened = await AutoModelForCausalLM.from_pretrained(path, { ...CPU, dtype });
      return (await opened.forward({ input_ids })).logits.data;
    };
    // The working weights are the exported ones, and those are the masters rounded.
    expect(await logits(working, "auto")).toEqual(said);
    expect(await logits(master, "bfloat16")).toEqual(said);
    expect(await logits(master, "float32")).not.toEqual(said);
  });
});
