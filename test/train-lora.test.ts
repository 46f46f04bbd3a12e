// Adapters as they are trained: they begin as the model is, the model stays what it was, and what is exported is PEFT's
// adapter, with which the model says what it said in training.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ConfigError } from "../src/base/errors.ts";
import { openCheckpoint, readTensor } from "../src/formats/index.ts";
import { rejection, temporaryFolder } from "../src/formats/testing.ts";
import { AutoModelForCausalLM, type CausalLM } from "../src/generate/causal-lm.ts";
import type { EngineOptions } from "../src/runtime/open/prepare.ts";
import type { OffloadOptions, TrainerOptions } from "../src/train/open/options.ts";
import { Trainer } from "../src/train/trainer.ts";
import { FIXTURES, largestDifference } from "./golden/golden.ts";
import { PEFT_ADAPTER, randomAdapter } from "./support/adapters.ts";
import { leavesNothing } from "./support/leaks.ts";
import {
  CPU,
  expectSameRun,
  exported,
  floats,
  furthest,
  labelled,
  sameBits,
  train,
  withTrainer,
} from "./support/training.ts";

const IDS = Array.from({ length: 16 }, (_, i) => (i * 37 + 11) % 499);
const BATCH = labelled([IDS]);
const LORA = { r: 4, lora_alpha: 8, target_modules: ["q_proj", "v_proj"] };
const BASE: TrainerOptions = { learning_rate: 1e-2, max_length: 16, lora: LORA };

const inRam: OffloadOptions = { optimizer: "cpu", gradients: "cpu", activations: "cpu", weights: "cpu" };
const onDisk: OffloadOptions = {
  ...{ optimizer: "disk", gradients: "disk", activations: "disk", weights: "disk" },
};

const logitsOf = async (model: CausalLM) => (await model.forward({ input_ids: [IDS] })).logits.data;

async function logitsWith(dir: string, options: EngineOptions): Promise<Float32Array> {
  await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, ...options });
  return await logitsOf(model);
}

// Every linear layer of every family, with biases, transposed weights and a tied head beside them.
const FAMILIES: [string, TrainerOptions["lora"]][] = [
  ["llama", { r: 4, target_modules: ["q_proj", "o_proj", "gate_proj", "down_proj"], lora_alpha: 8 }],
  ["llama", { r: 2, target_modules: "all-linear", use_rslora: true }],
  ["qwen2", { r: 3, target_modules: ["k_proj", "up_proj"] }],
  ["gpt2", { r: 4, target_modules: ["c_attn", "c_proj", "c_fc"], fan_in_fan_out: true }],
];

describe.each([
  ["in RAM", inRam],
  ["on disk", onDisk],
] as const)("%s", (_where, offload) => {
  test.each(FAMILIES)(
    "%s: begins as the model, learns, and is exported as it speaks (%j)",
    async (name, lora) => {
      const dir = join(FIXTURES, name);
      const adapter = temporaryFolder();
      const base = await logitsWith(dir, {});
      await withTrainer(dir, { trainer: { ...BASE, lora, offload } }, async (trainer, model) => {
        expect(sameBits(await logitsOf(model), base)).toBe(true);
        const losses: number[] = [];
        for (let i = 0; i < 6; i++) losses.push((await trainer.step(BATCH)).loss);
        expect(losses.at(-1)).toBeLessThan((losses[0] as number) - 0.05);
        const trained = await logitsOf(model);
        expect(largestDifference(trained, base)).toBeGreaterThan(0.01);
        const text = await model.generate({ input_ids: [IDS], max_new_tokens: 5, ignore_eos: true });
        await trainer.export(adapter);
        // Training computes the adapter's part as generating does, so the same weights give the same bits.
        expect(sameBits(await logitsWith(dir, { adapter }), trained)).toBe(true);
        await using opened = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, adapter });
        expect(await opened.generate({ input_ids: [IDS], max_new_tokens: 5, ignore_eos: true })).toEqual(
          text,
        );
        await trainer.dispose();
        expect(sameBits(await logitsOf(model), base)).toBe(true); // without the adapter it is what it was
      });
      const config = JSON.parse(readFileSync(join(adapter, "adapter_config.json"), "utf8"));
      expect(config).toMatchObject({ peft_type: "LORA", task_type: "CAUSAL_LM", r: lora?.r });
    },
  );
});

test("training goes on from an exported adapter where it ended", async () => {
  const dir = join(FIXTURES, "llama");
  // Plain SGD has no moments, so nothing is lost between.
  const trainer: TrainerOptions = { ...BASE, optimizer: "sgd", learning_rate: 0.1 };
  const whole = await train(dir, { trainer, steps: [BATCH, BATCH, BATCH, BATCH] });
  const adapter = temporaryFolder();
  await withTrainer(dir, { trainer }, async (trained) => {
    await trained.step(BATCH);
    await trained.step(BATCH);
    await trained.export(adapter);
  });
  const { lora: _, ...others } = trainer;
  const rest = await train(dir, { trainer: { ...others, adapter }, steps: [BATCH, BATCH] });
  expect(rest.losses).toEqual(whole.losses.slice(2));
  expect(furthest(rest.weights, whole.weights)).toBe(0);
});

test("A is drawn from the seed within PEFT's bounds, B is zeros", async () => {
  const dir = join(FIXTURES, "llama");
  const first = (seed: number) => withTrainer(dir, { trainer: { ...BASE, seed } }, exported);
  const [one, again, other] = [await first(1), await first(1), await first(2)];
  expect(furthest(one, again)).toBe(0);
  let drawn = 0;
  for (const [name, values] of one) {
    const extent = values.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    if (name.includes("lora_B")) {
      expect(extent, name).toBe(0);
      continue;
    }
    drawn++;
    expect(extent, name).toBeLessThanOrEqual(1 / 8); // 1 / sqrt(64 inputs)
    expect(extent, name).toBeGreaterThan(0.9 / 8);
    const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
    expect(Math.abs(mean), name).toBeLessThan(0.02);
    expect(sameBits(values, other.get(name) as Float32Array), name).toBe(false);
  }
  expect(drawn).toBe(6);
});

test("dropout thins out training alone", async () => {
  const dir = join(FIXTURES, "llama");
  const lora = { ...LORA, lora_dropout: 0.5 };
  const plain = await train(dir, { trainer: { ...BASE }, steps: [BATCH, BATCH] });
  await withTrainer(dir, { trainer: { ...BASE, lora } }, async (trainer) => {
    // B is zeros at first: the loss is the model's, whatever goes through A.
    expect((await trainer.step(BATCH)).loss).toBe(plain.losses[0]);
    const [first, second] = [await trainer.evaluate([BATCH]), await trainer.evaluate([BATCH])];
    expect(second).toEqual(first);
    expect((await trainer.step(BATCH)).loss).not.toBe(first.loss);
  });
});

test("modules_to_save are trained whole, exported with the adapter and used with it", async () => {
  const dir = join(FIXTURES, "llama");
  const adapter = temporaryFolder();
  const lora = { ...LORA, modules_to_save: ["lm_head", "model.norm"] };
  const steps = [BATCH, BATCH];
  const ram = await train(dir, { trainer: { ...BASE, lora, offload: inRam }, steps });
  expectSameRun(await train(dir, { trainer: { ...BASE, lora, offload: onDisk }, steps }), ram, "on disk");
  const saved = [...ram.weights.keys()].filter((name) => !name.includes("lora_"));
  expect(saved).toHaveLength(2);
  const head = (await floats(dir)).get("lm_head.weight") as Float32Array;
  const trained = ram.weights.get(saved.find((name) => name.includes("lm_head")) as string) as Float32Array;
  expect(largestDifference(trained, head)).toBeGreaterThan(1e-3);
  const said = await withTrainer(dir, { trainer: { ...BASE, lora } }, async (trainer, model) => {
    for (const batch of steps) await trainer.step(batch);
    await trainer.export(adapter);
    return logitsOf(model);
  });
  expect(sameBits(await logitsWith(dir, { adapter }), said)).toBe(true);
});

test("what trains is small: states are those of the adapter alone", () =>
  withTrainer(join(FIXTURES, "llama"), { trainer: BASE }, async (trainer) => {
    await trainer.step(BATCH);
    const { trained, parameters, parts } = trainer.plan();
    expect(trained).toBe(3 * (2 * 4 * 64 + 4 * 64 + 4 * 32)); // A and B of q_proj and v_proj, three layers
    expect(parameters).toBeGreaterThan(30 * trained);
    const moments = parts
      .filter(({ what }) => what.startsWith("exp_avg"))
      .reduce((n, { bytes }) => n + bytes, 0);
    expect(moments).toBeGreaterThanOrEqual(8 * trained);
    expect(moments).toBeLessThan(9 * trained + 24 * 4096);
  }));

/** The value of the bits of a finite f16. */
function halfToFloat(bits: number): number {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const size = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
  return bits >> 15 ? -size : size;
}

test("an adapter in float16 goes on in float32, from the values that it has", async () => {
  const dir = join(FIXTURES, "llama");
  const half = await randomAdapter(dir, { r: 2, target_modules: ["q_proj"] }, { dtype: "f16" });
  const before = await openCheckpoint(join(half, "adapter_model.safetensors"));
  const trainer: TrainerOptions = { adapter: half, max_length: 16, learning_rate: 0 };
  const { weights } = await train(dir, { trainer, steps: [BATCH] });
  expect([...weights.keys()].sort()).toEqual([...before.tensors.keys()].sort());
  for (const [name, values] of weights) {
    const bytes = await readTensor(before, name);
    const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
    expect(values, name).toEqual(Float32Array.from(halves, halfToFloat));
  }
});

test("adapters that cannot be trained are refused, and the model is as before", async () => {
  const dir = join(FIXTURES, "llama");
  const base = await logitsWith(dir, {});
  const other = await randomAdapter(join(FIXTURES, "gpt2"), { r: 2, target_modules: ["c_attn"] });
  await leavesNothing(async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(dir, CPU);
    const cases: [TrainerOptions, new (...args: never[]) => Error][] = [
      [{ adapter: other }, Error],
      [{ adapter: join(dir, "missing") }, Error],
      [{ lora: { r: 2, target_modules: ["c_attn"] } }, ConfigError],
    ];
    for (const [options, kind] of cases) {
      const error = await rejection(Trainer.create(model, { ...options, max_length: 16 }));
      expect(error).toBeInstanceOf(kind);
      expect(error).toHaveProperty("code");
      expect(sameBits(await logitsOf(model), base)).toBe(true);
    }
    await using adapted = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, adapter: PEFT_ADAPTER });
    const error = await rejection(Trainer.create(adapted, BASE));
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as Error).message).toMatch(/adapter/);
  });
});
