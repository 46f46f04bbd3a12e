// Adapters that go on being trained: from everything they keep (modules, biases, tables of the vocabulary), with ties
// decided as PEFT decides them, so that what is exported is the model that was trained.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ADAPTER_CONFIG, ADAPTER_WEIGHTS } from "../src/adapters/files.ts";
import { mergeAdapter } from "../src/adapters/merge.ts";
import { ConfigError } from "../src/base/errors.ts";
import { openCheckpoint, readTensor, type TensorSource, writeSafetensors } from "../src/formats/index.ts";
import { encodeFloats } from "../src/formats/synthetic/floats.ts";
import { rejection, temporaryFolder } from "../src/formats/testing.ts";
import { AutoModelForCausalLM } from "../src/generate/causal-lm.ts";
import type { OffloadOptions, TrainerOptions } from "../src/train/open/options.ts";
import { FIXTURES } from "./golden/golden.ts";
import { randomAdapter } from "./support/adapters.ts";
import {
  CPU,
  expectSameRun,
  exported,
  floats,
  furthest,
  labelled,
  train,
  withTrainer,
} from "./support/training.ts";

const IDS = Array.from({ length: 16 }, (_, i) => (i * 37 + 11) % 499);
const BATCH = labelled([IDS]);
const inRam: OffloadOptions = { optimizer: "cpu", gradients: "cpu", activations: "cpu", weights: "cpu" };
const onDisk: OffloadOptions = {
  ...{ optimizer: "disk", gradients: "disk", activations: "disk", weights: "disk" },
};
const OPTIONS: TrainerOptions = { learning_rate: 1e-2, max_grad_norm: 0, max_length: 16, offload: inRam };
const LORA = { r: 4, lora_alpha: 8 };

/** The mean loss of a model in a folder, computed from its logits. */
async function lossOf(dir: string, adapter?: string): Promise<number> {
  await using model = await AutoModelForCausalLM.from_pretrained(dir, {
    ...CPU,
    ...(adapter && { adapter }),
  });
  const { data, dims } = (await model.forward({ input_ids: [IDS] })).logits;
  let sum = 0;
  for (let t = 0; t + 1 < IDS.length; t++) {
    const row = data.subarray(t * dims[2], (t + 1) * dims[2]);
    const most = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
    const total = row.reduce((a, b) => a + Math.exp(b - most), 0);
    sum += most + Math.log(total) - (row[IDS[t + 1] as number] as number);
  }
  return sum / (IDS.length - 1);
}

// PEFT 0.21 with is_trainable=True and torch's AdamW (1e-2, no decay) over the same files: losses of five steps, then once more.
const PEFT: [string, Record<string, unknown>, number[]][] = [
  [
    "llama-tied-sharded",
    { target_modules: ["q_proj", "v_proj"], modules_to_save: ["embed_tokens"] },
    [6.68402, 5.486316, 4.80426, 4.259598, 3.864049, 3.516329],
  ],
  [
    "llama-tied-sharded",
    { target_modules: ["q_proj"], modules_to_save: ["lm_head"] },
    [6.742187, 5.338577, 4.399848, 3.499401, 2.655397, 1.94866],
  ],
  [
    "qwen2",
    {
      target_modules: ["q_proj", "down_proj"],
      bias: "lora_only",
      modules_to_save: ["model.norm", "layers.1.mlp"],
    },
    [6.258673, 5.938447, 5.732386, 5.573726, 5.436388, 5.307046],
  ],
  [
    "qwen2",
    { target_modules: ["q_proj", "down_proj"], bias: "all" },
    [6.753198, 5.845062, 5.24974, 4.789202, 4.389511, 4.059911],
  ],
  [
    "gpt2",
    {
      fan_in_fan_out: true,
      target_modules: ["c_attn"],
      modules_to_save: ["ln_f", "h.0.mlp", "wte"],
      bias: "lora_only",
    },
    [6.222984, 5.95981, 5.764194, 5.574811, 5.41207, 5.247848],
  ],
];

describe.each(PEFT)("%s with %j", (name, config, losses) => {
  const dir = join(FIXTURES, name);

  test("trains as PEFT does, the same wherever its state lives", async () => {
    const adapter = await randomAdapter(dir, { ...LORA, ...config });
    const steps = losses.map(() => BATCH);
    const ram = await train(dir, { trainer: { ...OPTIONS, adapter }, steps });
    for (const [i, loss] of losses.entries())
      expect(Math.abs((ram.losses[i] as number) - loss)).toBeLessThan(2e-4);
    const disk = await train(dir, { trainer: { ...OPTIONS, adapter, offload: onDisk }, steps });
    expectSameRun(disk, ram, "on disk");
  });

  test("with a rate of 0 it is what it was, by PEFT's names", async () => {
    const adapter = await randomAdapter(dir, { ...LORA, ...config });
    await withTrainer(dir, { trainer: { ...OPTIONS, learning_rate: 0, adapter } }, async (trainer) => {
      await trainer.step(BATCH);
      expect(furthest(await exported(trainer), await floats(join(adapter, ADAPTER_WEIGHTS)))).toBe(0);
    });
  });

  test("loses in training what it loses with the exported adapter, and merged", async () => {
    const { fan_in_fan_out = false } = config as { fan_in_fan_out?: boolean };
    const lora = { ...LORA, ...config, fan_in_fan_out } as TrainerOptions["lora"];
    const [adapter, merged] = [temporaryFolder(), join(temporaryFolder(), "merged")];
    const inTraining = await withTrainer(dir, { trainer: { ...OPTIONS, lora } }, async (trainer) => {
      for (let i = 0; i < 4; i++) await trainer.step(BATCH);
      await trainer.export(adapter);
      return (await trainer.evaluate([BATCH])).loss;
    });
    expect(await lossOf(dir, adapter)).toBeCloseTo(inTraining, 4);
    await mergeAdapter(dir, adapter, merged);
    expect(await lossOf(merged)).toBeCloseTo(inTraining, 4);
  });
});

/** The adapter with its tensors changed. */
async function rewritten(
  dir: string,
  change: (tensors: TensorSource[]) => TensorSource[] | Promise<TensorSource[]>,
): Promise<string> {
  const path = join(dir, ADAPTER_WEIGHTS);
  const checkpoint = await openCheckpoint(path);
  const tensors: TensorSource[] = [];
  for (const { name, dtype, shape } of checkpoint.tensors.values())
    tensors.push({ name, dtype, shape, data: await readTensor(checkpoint, name) });
  await writeSafetensors(path, await change(tensors));
  return dir;
}

const LLAMA = join(FIXTURES, "llama");
const TIED = join(FIXTURES, "llama-tied-sharded");

test("names of a whole state dict are those of PEFT's files", async () => {
  const config = { ...LORA, target_modules: ["q_proj"], modules_to_save: ["lm_head"], bias: "none" };
  const plain = await randomAdapter(LLAMA, config);
  const raw = await rewritten(await randomAdapter(LLAMA, config), (tensors) =>
    tensors.map(({ name, ...rest }) => ({
      name: name
        .replace(/\.(lora_[AB])\.weight$/, ".$1.default.weight")
        .replace("lm_head.weight", "lm_head.modules_to_save.default.weight"),
      ...rest,
    })),
  );
  expect(await lossOf(LLAMA, raw)).toBe(await lossOf(LLAMA, plain));
  const two = await rewritten(await randomAdapter(LLAMA, config), (tensors) => {
    const first = tensors.find(({ name }) => name.includes("lora_A.")) as TensorSource;
    return [...tensors, { ...first, name: first.name.replace("lora_A.", "lora_A.other.") }];
  });
  expect(String(await rejection(lossOf(LLAMA, two)))).toContain("save one adapter to a folder");
});

describe("tables of the vocabulary that come with an adapter (save_embedding_layers)", () => {
  const config = { ...LORA, target_modules: ["q_proj"] };
  const table = (name: string, rows: number, seed: number): TensorSource => {
    const values = Float32Array.from({ length: rows * 64 }, (_, i) => Math.sin(i * 0.7 + seed) / 8);
    return {
      ...{ name: `base_model.model.${name}.weight`, dtype: "f32", shape: [rows, 64] },
      data: encodeFloats(values, "f32"),
    };
  };

  test.each([
    ["of the model's size", 512],
    ["with rows for added tokens", 520],
  ])("%s: they take the base's place, are kept in training and merged", async (_what, rows) => {
    const dir = await rewritten(await randomAdapter(TIED, config), (tensors) => [
      ...tensors,
      table("model.embed_tokens", rows, 1),
      table("lm_head", rows, 1),
    ]);
    const plain = await lossOf(TIED, await randomAdapter(TIED, config));
    const said = await lossOf(TIED, dir);
    expect(Math.abs(said - plain)).toBeGreaterThan(1e-3);
    const [again, merged] = [temporaryFolder(), join(temporaryFolder(), "merged")];
    await withTrainer(TIED, { trainer: { ...OPTIONS, learning_rate: 0, adapter: dir } }, async (trainer) => {
      expect((await trainer.step(BATCH)).loss).toBeCloseTo(said, 5);
      await trainer.export(again);
    });
    expect(await lossOf(TIED, again)).toBe(said);
    await mergeAdapter(TIED, dir, merged);
    expect(await lossOf(merged)).toBeCloseTo(said, 4);
    expect(JSON.parse(readFileSync(join(merged, "config.json"), "utf8"))).toMatchObject({
      vocab_size: rows,
      tie_word_embeddings: true,
    });
  });

  test("one of two is not enough where the size differs", async () => {
    const dir = await rewritten(await randomAdapter(LLAMA, config), (tensors) => [
      ...tensors,
      table("model.embed_tokens", 520, 1),
    ]);
    expect(String(await rejection(lossOf(LLAMA, dir)))).toMatch(
      /a table of 520 tokens where the model has 512, but none for lm_head\.weight: .*save_embedding_layers=True/,
    );
  });
});

describe("a list of target modules", () => {
  const trained = (lora: TrainerOptions["lora"]) =>
    withTrainer(LLAMA, { trainer: { ...OPTIONS, lora } }, async (trainer) => {
      const dir = temporaryFolder();
      await trainer.export(dir);
      return JSON.parse(readFileSync(join(dir, ADAPTER_CONFIG), "utf8")).target_modules as string[];
    });

  test("may join all-linear and the head, by names that PEFT knows", async () => {
    const names = await trained({ r: 2, target_modules: ["all-linear", "lm_head"] });
    expect(names).toContain("lm_head");
    expect(names).toContain("model.layers.2.mlp.down_proj");
    expect(names).toHaveLength(3 * 7 + 1);
  });

  test.each([
    [{ target_modules: ["q_proj", "v_prj"] }, /target_modules names "v_prj", which no module/],
    [{ target_modules: ["q_proj"], exclude_modules: ["q_prj"] }, /exclude_modules names "q_prj"/],
    [{ target_modules: ["q_proj"], modules_to_save: ["nrm"] }, /no module's path ends with "nrm"/],
    [{ rank: 2 }, /rank is no option of lora/],
    [{ r: 2, init_lora_weights: "eva" }, /init_lora_weights "eva"/],
  ])("%j is refused", async (lora, message) => {
    const error = await rejection(trained(lora as TrainerOptions["lora"]));
    expect(error).toBeInstanceOf(ConfigError);
    expect(String(error)).toMatch(message);
  });
});

test("the first values are those of init_lora_weights", async () => {
  const values = (init_lora_weights: boolean | string) =>
    withTrainer(
      LLAMA,
      { trainer: { ...OPTIONS, lora: { r: 8, target_modules: ["q_proj"], init_lora_weights } } },
      exported,
    );
  const all = (found: ReadonlyMap<string, Float32Array>, part: string) =>
    [...found].filter(([name]) => name.includes(part)).flatMap(([, list]) => [...list]);
  const normal = all(await values("gaussian"), "lora_A");
  const deviation = Math.sqrt(normal.reduce((sum, x) => sum + x * x, 0) / normal.length);
  expect(deviation).toBeCloseTo(1 / 8, 2);
  expect(Math.max(...normal)).toBeGreaterThan(2.5 / 8);
  const drawn = all(await values(false), "lora_B");
  expect(Math.max(...drawn)).toBeGreaterThan(0.9 / Math.sqrt(8));
  expect(Math.max(...drawn)).toBeLessThanOrEqual(1 / Math.sqrt(8));
});
