// Trainers that cannot be made: the refusal names the numbers and what to do, and the model is as it was before.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { BudgetError, ConfigError, IoError } from "../src/base/errors.ts";
import { rejection, temporaryFolder } from "../src/formats/testing.ts";
import { AutoModelForCausalLM, type CausalLM } from "../src/generate/causal-lm.ts";
import { openStateFileCount } from "../src/memory/stores/state-file.ts";
import type { OffloadOptions, TrainerOptions } from "../src/train/open/options.ts";
import { Trainer } from "../src/train/trainer.ts";
import { FIXTURES } from "./golden/golden.ts";
import { checkpoint } from "./support/checkpoints.ts";
import { leavesNothing } from "./support/leaks.ts";
import { CPU, exported, labelled } from "./support/training.ts";

const LLAMA = join(FIXTURES, "llama");
const IDS = Array.from({ length: 16 }, (_, i) => (i * 37 + 11) % 499);
const BATCH = labelled([IDS]);
const BASE: TrainerOptions = { learning_rate: 1e-2, max_length: 16 };

const inRam: OffloadOptions = { optimizer: "cpu", gradients: "cpu", activations: "cpu", weights: "cpu" };
const onDisk: OffloadOptions = {
  ...{ optimizer: "disk", gradients: "disk", activations: "disk", weights: "disk" },
};

const logitsOf = async (model: CausalLM) => (await model.forward({ input_ids: [IDS] })).logits.data;

describe("a trainer that cannot be made leaves the model as it was", () => {
  async function expectRefused(
    options: TrainerOptions,
    expected: (error: unknown) => void,
    model: Parameters<typeof AutoModelForCausalLM.from_pretrained>[1] = {},
  ): Promise<void> {
    await leavesNothing(async () => {
      await using open = await AutoModelForCausalLM.from_pretrained(LLAMA, { ...CPU, ...model });
      const before = await logitsOf(open);
      const { device_map } = open;
      expected(await rejection(Trainer.create(open, { ...BASE, ...options })));
      expect(await logitsOf(open)).toEqual(before);
      expect(open.device_map).toEqual(device_map);
      expect(open.context_length).toBe(64);
    });
    expect(openStateFileCount()).toBe(0);
  }

  test("no folder for what is to live on disk", async () => {
    for (const part of ["optimizer", "gradients", "activations", "weights"] as const) {
      await expectRefused({ offload: { ...inRam, [part]: "disk" } }, (error) => {
        expect(error).toBeInstanceOf(ConfigError);
        expect((error as Error).message).toMatch(/offload_folder/);
      });
    }
  });

  test("a folder that cannot be written", async () => {
    const file = join(temporaryFolder(), "file");
    writeFileSync(file, "");
    for (const offload of [onDisk, { ...inRam, optimizer: "disk" as const }]) {
      await expectRefused({ offload, offload_folder: join(file, "state") }, (error) => {
        expect(error).toBeInstanceOf(IoError);
        expect((error as Error).message).toContain(file);
      });
    }
  });

  test("a GPU tier where the CPU computes", async () => {
    for (const part of ["optimizer", "activations", "weights"] as const) {
      await expectRefused({ offload: { ...inRam, [part]: "gpu" } }, (error) =>
        expect(error).toBeInstanceOf(ConfigError),
      );
    }
  });

  test("a disk budget too small", async () => {
    const options = { offload: onDisk, offload_folder: temporaryFolder() };
    await expectRefused(options, (error) => expect(error).toMatchObject({ code: "budget", tier: "disk" }), {
      max_memory: { disk: 100_000 },
    });
  });

  test("a signal that has fired, options that are none", async () => {
    await expectRefused({ signal: AbortSignal.abort() }, (error) =>
      expect(error).toMatchObject({ code: "aborted" }),
    );
    for (const options of [
      { learning_rate: -1 },
      { betas: [0.9, 1] },
      { max_grad_norm: Number.NaN },
      { optimizer: "adagrad" },
      { precision: "float16" },
      { micro_batch_size: 0 },
      { max_length: 1 },
      { lora: { r: 4, target_modules: ["nothing"] } },
      { lora: { r: 0, target_modules: ["q_proj"] } },
      { no_decay: "bias" },
      { lr: 1 },
      { learningRate: 1 },
      { momentum: 0.9 },
      { optimizer: "sgd", betas: [0.5, 0.5] },
      { optimizer: "sgd", eps: 1e-6 },
      { precision: "bfloat16", lora: { r: 4, target_modules: ["q_proj"] } },
      { adapter: "somewhere", lora: { r: 4, target_modules: ["q_proj"] } },
      { lora: { rank: 2, alpha: 99, target: ["v_proj"] } },
      { offload: { gradient: "cpu" } },
      { offload: { gradients: "gpu" } },
    ] as unknown as TrainerOptions[]) {
      await expectRefused(options, (error) =>
        expect(error, JSON.stringify(options)).toBeInstanceOf(ConfigError),
      );
    }
  });

  test.each<[string, OffloadOptions]>([
    ["parts where there is room", {}],
    ["all in RAM", inRam],
    ["all on disk", onDisk],
  ])("a budget too small, %s: the smallest it names works", async (_what, offload) => {
    const dir = await checkpoint({ family: "llama", dtype: "f32", shape: { vocab_size: 1500 } });
    const trainer: TrainerOptions = {
      ...BASE,
      offload,
      offload_folder: temporaryFolder(),
      micro_batch_size: 2,
    };
    // Least budgets: of the model alone, then of its training.
    const least = await rejection(
      AutoModelForCausalLM.from_pretrained(dir, { ...CPU, max_memory: { cpu: 1 } }),
    );
    const { needed } = least as BudgetError;
    const error = await leavesNothing(async () => {
      await using model = await AutoModelForCausalLM.from_pretrained(dir, {
        ...CPU,
        max_memory: { cpu: needed },
      });
      const before = await logitsOf(model);
      const refusal = await rejection(Trainer.create(model, trainer));
      expect(await logitsOf(model)).toEqual(before);
      return refusal as BudgetError;
    });
    expect(error).toBeInstanceOf(BudgetError);
    expect(error.smallest).toBeGreaterThan(needed);
    await leavesNothing(async () => {
      const cpu = error.smallest as number;
      await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, max_memory: { cpu } });
      await using made = await Trainer.create(model, trainer);
      for (let i = 0; i < 2; i++) await made.step([labelled([IDS, IDS]), BATCH]);
      await made.evaluate([BATCH]);
      await exported(made);
      expect(model.memory().peak.cpu).toBeLessThanOrEqual(cpu);
    });
  });
});

test("updates under way at a time: four where RAM has room for their slots, two in the smallest budget", async () => {
  const trainer: TrainerOptions = { ...BASE, offload: onDisk, offload_folder: temporaryFolder() };
  const slots = async (cpu: number) => {
    await using model = await AutoModelForCausalLM.from_pretrained(LLAMA, { ...CPU, max_memory: { cpu } });
    await using _made = await Trainer.create(model, trainer);
    return model.memory().entries.filter(({ what }) => what === "optimizer slots");
  };
  await using model = await AutoModelForCausalLM.from_pretrained(LLAMA, {
    ...CPU,
    max_memory: { cpu: 2 ** 20 },
  });
  const { smallest } = (await rejection(Trainer.create(model, trainer))) as BudgetError;
  const bytes = (entries: Awaited<ReturnType<typeof slots>>) => entries.reduce((sum, e) => sum + e.bytes, 0);
  const few = await slots(smallest as number);
  expect(bytes(few)).toBeGreaterThan(0);
  expect(bytes(await slots(2 ** 30))).toBe(2 * bytes(few));
});
