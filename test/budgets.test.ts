// Hard budgets: what fits is never exceeded, what does not fit is refused before anything is taken, with a budget that
// works.

import { spawnSync } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { BudgetError, IoError } from "../src/base/errors.ts";
import { cannotProve } from "../src/base/testing-unproven.ts";
import type { SyntheticOptions } from "../src/formats/synthetic.ts";
import { rejection, temporaryFolder } from "../src/formats/testing.ts";
import { AutoModelForCausalLM, engineOf } from "../src/generate/causal-lm.ts";
import type { EngineOptions } from "../src/runtime/open/prepare.ts";
import { expectStillRight, FIXTURES, readGolden } from "./golden/golden.ts";
import { budgetRange, checkpoint } from "./support/checkpoints.ts";
import { leavesNothing } from "./support/leaks.ts";

const CPU: EngineOptions = { device: "cpu", threads: 1 };

async function refusal(dir: string, options: EngineOptions): Promise<BudgetError> {
  const error = await rejection(AutoModelForCausalLM.from_pretrained(dir, { ...CPU, ...options }));
  if (!(error instanceof BudgetError)) throw error;
  return error;
}

/** Opens under a budget, uses the model, and expects it never to have held more. */
async function expectWorksWithin(dir: string, options: EngineOptions, cpu: number): Promise<void> {
  await leavesNothing(async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(dir, {
      ...CPU,
      ...options,
      max_memory: { cpu },
    });
    const input_ids = [[1, 2, 3, 4, 5, 6, 7, 8, 9]];
    await model.forward({ input_ids });
    await model.generate({ input_ids, max_new_tokens: 3, ignore_eos: true });
    expect(model.plan.bytes.cpu).toBeLessThanOrEqual(cpu);
    expect(model.memory().peak.cpu).toBeLessThanOrEqual(cpu);
    expect(model.memory().budget.cpu).toBe(cpu);
  });
}

describe("a budget too small for one unit and what is needed beside it", () => {
  const offload_folder = () => temporaryFolder();
  const cases: [string, SyntheticOptions, () => EngineOptions][] = [
    ["llama, bf16", { family: "llama" }, () => ({})],
    [
      "llama, f32, a wide one",
      { family: "llama", dtype: "f32", shape: { hidden_size: 128, intermediate_size: 1000 } },
      () => ({}),
    ],
    ["gpt2, f16", { family: "gpt2", dtype: "f16" }, () => ({ context_length: 100 })],
    [
      "gpt2, f32, a wide one",
      { family: "gpt2", dtype: "f32", shape: { n_embd: 256 } },
      () => ({ kv_dtype: "float32" }),
    ],
    ["qwen2, tied", { family: "qwen2", tie_word_embeddings: true }, () => ({ context_length: 256 })],
    ["one layer", { family: "llama", layers: 1 }, () => ({})],
    ["a head that is most of it", { family: "llama", layers: 2, shape: { vocab_size: 12_000 } }, () => ({})],
    ["a long context", { family: "llama", shape: { max_position_embeddings: 100_000 } }, () => ({})],
    ["everything on disk", { family: "llama" }, () => ({ device_map: "disk" })],
    ["everything in RAM", { family: "llama" }, () => ({ device_map: "cpu" })],
    [
      "some modules in RAM",
      { family: "llama" },
      () => ({ device_map: { "": "disk", "model.layers.1": "cpu" } }),
    ],
    ["converted into RAM", { family: "llama" }, () => ({ dtype: "float32", device_map: "cpu" })],
    ["converted and turned round", { family: "gpt2" }, () => ({ dtype: "float32", device_map: "cpu" })],
    [
      "converted for disk",
      { family: "llama" },
      () => ({ dtype: "float16", offload_folder: offload_folder() }),
    ],
    [
      "converted for disk, turned round",
      { family: "gpt2", shape: { n_embd: 256 } },
      () => ({ dtype: "float32", offload_folder: offload_folder() }),
    ],
  ];
  test.each(cases)("%s: the refusal names a budget, and that budget works", async (_what, made, options) => {
    const dir = await checkpoint(made);
    const o = options();
    const error = await leavesNothing(() => refusal(dir, { ...o, max_memory: { cpu: 1000 } }));
    expect(error).toMatchObject({ code: "budget", tier: "cpu", budget: 1000 });
    expect(error.needed).toBeGreaterThan(1000);
    expect(error.smallest).toBeGreaterThanOrEqual(error.needed);
    expect(error.message).toContain(`${(error.smallest ?? 0) / 2 ** 20}MiB`);
    await expectWorksWithin(dir, o, error.smallest ?? 0);
    // `smallest` is in whole MiB, to be typed in; the exact number of bytes is `needed`, and it is not one too many.
    await expectWorksWithin(dir, o, error.needed);
    await refusal(dir, { ...o, max_memory: { cpu: error.needed - 1 } });
  });

  test("every refusal on the way up names a budget that works", async () => {
    const dir = await checkpoint({ family: "gpt2", dtype: "f32", shape: { n_embd: 256 } });
    const { least } = await budgetRange(dir, CPU);
    for (const part of [0.01, 0.3, 0.6, 0.9, 0.99, 0.9999]) {
      const error = await refusal(dir, { max_memory: { cpu: Math.floor(least * part) } });
      expect(error.needed).toBe(least);
    }
  });
});

test("whatever the budget, a model opens within it or is refused", async () => {
  const dir = await checkpoint({ family: "gpt2", dtype: "bf16", shape: { n_embd: 128 } });
  const { least, full } = await budgetRange(dir, {
    ...CPU,
    dtype: "float32",
    offload_folder: temporaryFolder(),
  });
  const options = { dtype: "float32" as const, offload_folder: temporaryFolder() };
  for (let i = 0; i < 12; i++) {
    await expectWorksWithin(dir, options, Math.floor(least + ((full * 1.1 - least) * i) / 11));
  }
});

describe("a KV cache that has to grow", () => {
  test("grows within the budget", async () => {
    const dir = join(FIXTURES, "llama");
    const { prompts } = await readGolden("llama");
    await using model = await AutoModelForCausalLM.from_pretrained(dir, {
      ...CPU,
      kv_dtype: "float32",
      context_length: 8,
    });
    const before = model.memory().used.cpu;
    await expectStillRight(model, prompts);
    const { peak, used } = model.memory();
    expect(peak.cpu).toBeGreaterThan(before);
    expect(used.cpu).toBe(before); // what it grew by is given back after the call
  });

  test("is refused past it, with what to do about it, and the model goes on", async () => {
    const dir = await checkpoint({ family: "llama", shape: { max_position_embeddings: 100_000 } });
    const options = { ...CPU, context_length: 64 };
    const { full } = await budgetRange(dir, options);
    const many = Array.from({ length: 3000 }, (_, i) => i % 500);
    const small = [[1, 2, 3]];
    await leavesNothing(async () => {
      await using model = await AutoModelForCausalLM.from_pretrained(dir, {
        ...options,
        max_memory: { cpu: full + 50_000 },
      });
      const expected = await model.generate({ input_ids: small, max_new_tokens: 4, ignore_eos: true });
      const error = await rejection(model.generate({ input_ids: [many], max_new_tokens: 4 }));
      expect(error).toBeInstanceOf(BudgetError);
      expect((error as BudgetError).message).toMatch(/3000 are needed.*context_length 3000/);
      expect(await model.generate({ input_ids: small, max_new_tokens: 4, ignore_eos: true })).toEqual(
        expected,
      );

      // Opened for as many tokens, the model has another plan, and a refusal of that names the budget it needs.
      const longer = { ...CPU, context_length: 3004 };
      const cpu = (await refusal(dir, { ...longer, max_memory: { cpu: 1000 } })).smallest ?? 0;
      await using roomier = await AutoModelForCausalLM.from_pretrained(dir, {
        ...longer,
        max_memory: { cpu },
      });
      const [ids] = await roomier.generate({ input_ids: [many], max_new_tokens: 4, ignore_eos: true });
      expect(ids).toHaveLength(3004);
      expect(roomier.memory().peak.cpu).toBeLessThanOrEqual(cpu);
    });
  });
});

describe("a batch whose graphs need more memory than was planned", () => {
  const shape = { max_position_embeddings: 8192, num_attention_heads: 16, num_key_value_heads: 4 };
  const batch = Array.from({ length: 100 }, (_, i) => [i, i + 1, i + 2, i + 3, i + 4]);
  const small = { input_ids: [[1, 2, 3]], max_new_tokens: 3, ignore_eos: true };
  const together = { input_ids: batch, max_new_tokens: 3, ignore_eos: true };

  /** Opens it, and takes what is left of the budget but `left` bytes. */
  async function opened(left: number) {
    const dir = await checkpoint({ family: "llama", shape });
    const options = { ...CPU, context_length: 2000 };
    const { full } = await budgetRange(dir, options);
    const max_memory = { cpu: full + 2 ** 21 };
    const model = await AutoModelForCausalLM.from_pretrained(dir, { ...options, max_memory });
    const { ledger } = engineOf(model).parts;
    const others = ledger.reserve("cpu", ledger.free("cpu") - left, "others");
    return { model, others, budget: max_memory.cpu };
  }

  test("is refused by forward; the model goes on", async () => {
    await leavesNothing(async () => {
      const { model, others, budget } = await opened(500 * 512 * 4); // the logits alone
      const expected = await model.generate(small);
      const error = await rejection(model.forward({ input_ids: batch }));
      expect(error).toBeInstanceOf(BudgetError);
      expect(await model.generate(small)).toEqual(expected);
      others.release();
      expect((await model.forward({ input_ids: batch })).logits.dims).toEqual([100, 5, 512]);
      expect(model.memory().peak.cpu).toBeLessThanOrEqual(budget);
      await model.dispose();
    });
  });

  test("is generated in groups that fit, each sequence as by itself", async () => {
    await leavesNothing(async () => {
      const { model, others, budget } = await opened(0);
      const alone: number[][] = [];
      for (const ids of batch) alone.push(...(await model.generate({ ...together, input_ids: [ids] })));
      expect(await model.generate(together)).toEqual(alone);
      others.release();
      expect(await model.generate(together)).toEqual(alone);
      expect(model.memory().peak.cpu).toBeLessThanOrEqual(budget);
      await model.dispose();
    });
  });

  test("drawn at random, groups change nothing either", async () => {
    await leavesNothing(async () => {
      const { model, others } = await opened(0);
      const drawn = { ...together, do_sample: true, temperature: 1.5, seed: 9 };
      const inGroups = await model.generate(drawn);
      others.release();
      expect(await model.generate(drawn)).toEqual(inGroups);
      await model.dispose();
    });
  });
});

test("a full disk under offload_folder: an IoError that says how much is needed, and no remains", async () => {
  const folder = join(temporaryFolder(), "small");
  mkdirSync(folder);
  const mount = spawnSync("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], { encoding: "utf8" });
  if (mount.status !== 0)
    cannotProve(`a small file system cannot be mounted: ${mount.error ?? mount.stderr}`);
  onTestFinished(() => {
    spawnSync("umount", [folder]);
    rmSync(folder, { recursive: true, force: true });
  });
  const options = { ...CPU, dtype: "float16", device_map: "disk", offload_folder: folder } as const;
  await leavesNothing(async () => {
    const error = await rejection(AutoModelForCausalLM.from_pretrained(join(FIXTURES, "llama"), options));
    expect(error).toBeInstanceOf(IoError);
    expect((error as IoError).message).toMatch(/\d+ bytes|KiB|MiB/);
  });
  expect(spawnSync("ls", ["-A", folder], { encoding: "utf8" }).stdout).toBe("");
});

test("max_sequences: a batch that is planned for is read at once, within the least budget that works", async () => {
  const dir = await checkpoint({ family: "llama", dtype: "bf16" });
  const options = { ...CPU, context_length: 64, max_sequences: 8 };
  const { least } = await budgetRange(dir, options);
  const model = await AutoModelForCausalLM.from_pretrained(dir, { ...options, max_memory: { cpu: least } });
  const input_ids = Array.from({ length: 8 }, (_, i) =>
    Array.from({ length: 40 }, (_, t) => (i * 40 + t) % 500),
  );
  const totals = new Set<number>();
  const batch = await model.generate({
    input_ids,
    max_new_tokens: 24,
    ignore_eos: true,
    prompt_callback: ({ total }) => void totals.add(total),
  });
  expect([...totals]).toEqual([8 * 40]);
  expect(batch.map((ids) => ids.length)).toEqual(input_ids.map(() => 64));
  expect(model.memory().peak.cpu).toBeLessThanOrEqual(least);
  await model.dispose();
  await using roomy = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, device_map: "cpu" });
  expect(batch).toEqual(await roomy.generate({ input_ids, max_new_tokens: 24, ignore_eos: true }));
});
