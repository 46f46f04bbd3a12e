// A model with an adapter: right by the reference, the same wherever its weights are, within its budget, and gone
// without a trace.
import { cpSync, rmSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { AbortError, BudgetError, CheckpointError, IoError } from "../src/base/errors.ts";
import { openCheckpoint, readTensor, writeSharded } from "../src/formats/index.ts";
import type { SyntheticOptions } from "../src/formats/synthetic.ts";
import { rejection, temporaryFolder } from "../src/formats/testing.ts";
import { AutoModelForCausalLM } from "../src/generate/causal-lm.ts";
import type { EngineOptions } from "../src/runtime/open/prepare.ts";
import { FIXTURES, largestDifference, readGolden } from "./golden/golden.ts";
import { PEFT_ADAPTER, randomAdapter } from "./support/adapters.ts";
import { budgetRange, budgetsBetween, checkpoint } from "./support/checkpoints.ts";
import { leavesNothing } from "./support/leaks.ts";

const CPU: EngineOptions = { device: "cpu", kv_dtype: "float32", context_length: 128, threads: 1 };
const LLAMA = join(FIXTURES, "llama");
const PROMPT = Array.from({ length: 19 }, (_, i) => (i * i * 7 + i * 31 + 5) % 512);

/** Logits of a prompt, what was planned and what was taken. */
async function ask(dir: string, options: EngineOptions, prompt: readonly number[] = PROMPT) {
  return leavesNothing(async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, ...options });
    const { data } = (await model.forward({ input_ids: [prompt] })).logits;
    return { logits: data, memory: model.memory(), plan: model.plan };
  });
}

const bits = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength);

/** The same bits with everything resident, under `count` budgets, and with everything on disk. */
async function expectSameEverywhere(dir: string, adapter: string, count = 3): Promise<Float32Array> {
  const resident = await ask(dir, { adapter, device_map: "cpu" });
  const range = await budgetRange(dir, { ...CPU, adapter });
  for (const budget of budgetsBetween(range, count)) {
    const { logits, plan, memory } = await ask(dir, { adapter, max_memory: { cpu: budget } });
    expect(plan.bytes.disk).toBeGreaterThan(0);
    expect(memory.peak.cpu).toBeLessThanOrEqual(budget);
    expect(bits(logits).equals(bits(resident.logits)), `budget ${budget}`).toBe(true);
  }
  const streamed = await ask(dir, { adapter, device_map: "disk" });
  expect(bits(streamed.logits).equals(bits(resident.logits)), "everything on disk").toBe(true);
  return resident.logits;
}

describe("PEFT's adapter for the llama fixture", async () => {
  const { prompts } = await readGolden("llama");
  const { ids } = prompts[0]!;
  const golden = await readTensor(
    await openCheckpoint(join(LLAMA, "golden.safetensors")),
    "logits.0.adapter",
  );
  const reference = new Float32Array(golden.buffer, golden.byteOffset, golden.byteLength / 4);
  const adapter = PEFT_ADAPTER;

  test("logits are the reference's: resident, half on disk, all on disk", async () => {
    const { least, full } = await budgetRange(LLAMA, { ...CPU, adapter });
    const half = { max_memory: { cpu: Math.floor((least + full) / 2) } };
    for (const place of [{ device_map: "cpu" }, half, { device_map: "disk" }] as EngineOptions[]) {
      const { logits } = await ask(LLAMA, { ...place, adapter }, ids);
      expect(largestDifference(logits, reference), JSON.stringify(place)).toBeLessThan(2e-4);
    }
    const { logits } = await ask(LLAMA, {}, ids);
    expect(largestDifference(logits, reference)).toBeGreaterThan(0.01);
  });

  test("it is planned for and entered as what it is", async () => {
    const { plan, memory } = await ask(LLAMA, { adapter });
    const bytes = 3 * (8 * 64 + 64 * 8 + 8 * 64 + 32 * 8) * 4; // q and v of three layers, rank 8
    expect(plan.fixed.adapter).toBe(bytes);
    expect(memory.entries).toContainEqual({ tier: "cpu", what: "adapter", bytes });
    expect((await ask(LLAMA, {})).plan.fixed.adapter).toBeUndefined();
  });

  test("generation goes on with it: each new token as in a pass over the whole text", async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(LLAMA, { ...CPU, adapter });
    const [text = []] = await model.generate({ input_ids: [ids], max_new_tokens: 8, ignore_eos: true });
    const { dims, data } = (await model.forward({ input_ids: [text] })).logits;
    for (let at = ids.length; at < text.length; at++) {
      const row = data.subarray((at - 1) * dims[2], at * dims[2]);
      expect(row.indexOf(Math.max(...row))).toBe(text[at]);
    }
  });
});

describe("the result does not depend on the placement", () => {
  test.each<[string, Record<string, unknown>]>([
    ["llama", { target_modules: "all-linear", r: 4, lora_alpha: 8 }],
    ["gpt2", { target_modules: "all-linear", r: 3, lora_alpha: 8 }], // weights that are turned round
    ["llama-tied-sharded", { target_modules: ["lm_head", "o_proj"], r: 2 }], // a head that shares its table
    ["qwen2", { target_modules: ["q_proj"], rank_pattern: { "1.self_attn.q_proj": 17 }, use_rslora: true }],
    ["qwen2", { target_modules: ["v_proj"], layers_to_transform: [1], modules_to_save: ["norm", "mlp"] }],
    ["llama", { modules_to_save: ["embed_tokens", "lm_head"] }],
    ["llama-tied-sharded", { modules_to_save: ["embed_tokens"] }],
    ["gpt2", { modules_to_save: ["lm_head", "c_attn"], target_modules: ["c_fc"] }],
  ])("%s, %j", async (name, config) => {
    const dir = join(FIXTURES, name);
    const logits = await expectSameEverywhere(dir, await randomAdapter(dir, config));
    expect(largestDifference(logits, (await ask(dir, {})).logits)).toBeGreaterThan(0.01);
  });

  test.each<[SyntheticOptions, "f16" | "bf16"]>([
    [{ family: "llama", dtype: "bf16" }, "bf16"],
    [{ family: "gpt2", dtype: "f16" }, "bf16"],
    [{ family: "qwen2", dtype: "f16" }, "f16"],
  ])("base %j, adapter in %s", async (made, dtype) => {
    const dir = await checkpoint(made);
    const config = { target_modules: "all-linear", modules_to_save: ["lm_head"] };
    await expectSameEverywhere(dir, await randomAdapter(dir, config, { dtype }), 2);
  });

  test("weights that are converted, on disk or in memory, have the same adapter", async () => {
    const adapter = await randomAdapter(LLAMA, {
      target_modules: "all-linear",
      modules_to_save: ["lm_head"],
    });
    const options = { adapter, dtype: "bfloat16" as const, offload_folder: temporaryFolder() };
    const memory = await ask(LLAMA, { ...options, device_map: "cpu" });
    const disk = await ask(LLAMA, { ...options, device_map: "disk" });
    expect(bits(disk.logits).equals(bits(memory.logits))).toBe(true);
    const naive = await ask(LLAMA, { ...options, device_map: "cpu", low_cpu_mem_usage: false });
    expect(bits(naive.logits).equals(bits(memory.logits))).toBe(true);
  });

  test("a prompt in chunks", async () => {
    const shape = { max_position_embeddings: 1024 };
    const dir = await checkpoint({ family: "llama", dtype: "f32", layers: 2, shape });
    const adapter = await randomAdapter(dir, { target_modules: "all-linear" });
    const long = Array.from({ length: 530 }, (_, i) => (i * 37) % 512);
    const options = { adapter, context_length: 600 };
    const resident = await ask(dir, { ...options, device_map: "cpu" }, long);
    const streamed = await ask(dir, { ...options, device_map: "disk" }, long);
    expect(bits(streamed.logits).equals(bits(resident.logits))).toBe(true);
  });
});

test("parameters kept whole are those of a checkpoint that has them", async () => {
  const adapter = await randomAdapter(LLAMA, {
    r: 2,
    modules_to_save: ["embed_tokens", "model.norm", "1.mlp"],
  });
  const dir = temporaryFolder();
  cpSync(LLAMA, dir, { recursive: true });
  const [base, own] = await Promise.all([
    openCheckpoint(LLAMA),
    openCheckpoint(join(adapter, "adapter_model.safetensors")),
  ]);
  const tensors = [...base.tensors.values()].map(async (entry) => {
    const saved = `base_model.model.${entry.name}`;
    const data = own.tensors.has(saved) ? readTensor(own, saved) : readTensor(base, entry.name);
    return { ...entry, data: await data };
  });
  await writeSharded(dir, await Promise.all(tensors));
  // The low-rank part alone over it: its settings, without the modules that are in the checkpoint now.
  const low = await randomAdapter(LLAMA, { r: 2 });
  const whole = await ask(LLAMA, { adapter });
  const parts = await ask(dir, { adapter: low });
  expect(bits(whole.logits).equals(bits(parts.logits))).toBe(true);
});

describe("what cannot be is refused, and nothing stays behind", () => {
  const open = (adapter: string, options: EngineOptions = {}, dir = LLAMA) =>
    leavesNothing(() =>
      rejection(AutoModelForCausalLM.from_pretrained(dir, { ...CPU, ...options, adapter })),
    );

  test("an adapter of another model", async () => {
    const other = await open(PEFT_ADAPTER, {}, join(FIXTURES, "llama-tied-sharded"));
    expect(other).toBeInstanceOf(CheckpointError);
    expect(String(other)).toMatch(/tensors do not fit adapter_config\.json and the model/);
    expect(String(await open(PEFT_ADAPTER, {}, join(FIXTURES, "gpt2")))).toMatch(
      /chooses no module of the \d+-layer gpt2; choose among c_attn/,
    );
  });

  test("no adapter at all", async () => {
    expect(String(await open(join(LLAMA, "nothing")))).toMatch(
      /nothing: does not exist; name the folder that PEFT/,
    );
  });

  test("a file that is cut short", async () => {
    const dir = temporaryFolder();
    cpSync(PEFT_ADAPTER, dir, { recursive: true });
    truncateSync(join(dir, "adapter_model.safetensors"), 4000);
    expect(await open(dir)).toBeInstanceOf(CheckpointError);
    rmSync(join(dir, "adapter_model.safetensors"));
    expect(String(await open(dir))).toMatch(/adapter_model\.safetensors: does not exist/);
  });

  test("a budget without room for it names one that has", async () => {
    const adapter = await randomAdapter(LLAMA, { r: 512, target_modules: "all-linear" });
    const { least } = await budgetRange(LLAMA, CPU);
    const refusal = await open(adapter, { max_memory: { cpu: least } });
    expect(refusal).toBeInstanceOf(BudgetError);
    const { smallest } = refusal as BudgetError;
    const { memory } = await ask(LLAMA, { adapter, max_memory: { cpu: smallest! } });
    expect(memory.peak.cpu).toBeLessThanOrEqual(smallest!);
  });

  test("a read that fails, and an abort, while it is loaded", async () => {
    let reads = 0;
    const count = () => {
      reads++;
    };
    await ask(LLAMA, { adapter: PEFT_ADAPTER, device_map: "cpu", beforeRead: count });
    const loading = reads;
    expect(loading).toBeGreaterThan(12);
    for (const at of [loading - 12, loading - 3]) {
      let n = 0;
      const stopper = new AbortController();
      const fail = () => {
        if (++n === at) throw new IoError("the disk is gone");
      };
      expect(String(await open(PEFT_ADAPTER, { device_map: "cpu", beforeRead: fail }))).toMatch(
        /the disk is gone/,
      );
      n = 0;
      const abort = () => {
        if (++n === at) stopper.abort();
      };
      const aborted = open(PEFT_ADAPTER, { device_map: "cpu", beforeRead: abort, signal: stopper.signal });
      expect(await aborted).toBeInstanceOf(AbortError);
    }
  });
});
