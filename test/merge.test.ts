// An adapter merged into its base says what both together say, and a merge that fails leaves nothing.
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type MergeOptions, mergeAdapter, openAdapter } from "../src/adapters/index.ts";
import { TensorMerger } from "../src/adapters/merge-tensors.ts";
import { Device, findDevice } from "../src/backend/ggml/device.ts";
import { AbortError, BudgetError, CheckpointError, ConfigError } from "../src/base/errors.ts";
import { openCheckpoint, readConfigJson, readTensor } from "../src/formats/index.ts";
import type { SyntheticOptions } from "../src/formats/synthetic.ts";
import { openHandles, rejection, temporaryFolder } from "../src/formats/testing.ts";
import { AutoModelForCausalLM } from "../src/generate/causal-lm.ts";
import { Ledger } from "../src/memory/ledger.ts";
import { modelSpec } from "../src/models/families.ts";
import type { WeightDType } from "../src/plan/options.ts";
import { FIXTURES, largestDifference } from "./golden/golden.ts";
import { PEFT_ADAPTER, randomAdapter } from "./support/adapters.ts";
import { checkpoint } from "./support/checkpoints.ts";
import { leavesNothing } from "./support/leaks.ts";

const LLAMA = join(FIXTURES, "llama");
const PROMPT = Array.from({ length: 13 }, (_, i) => (i * 53 + 5) % 512);

async function logits(dir: string, adapter?: string, dtype: WeightDType = "auto"): Promise<Float32Array> {
  const options = { device: "cpu", dtype, kv_dtype: "float32" as const, context_length: 64, threads: 1 };
  await using model = await AutoModelForCausalLM.from_pretrained(dir, {
    ...options,
    ...(adapter && { adapter }),
  });
  return (await model.forward({ input_ids: [PROMPT] })).logits.data;
}

/** Merges into a new folder. */
async function merged(base: string, adapter: string, options: MergeOptions = {}) {
  const out = join(temporaryFolder(), "merged");
  const result = await leavesNothing(() => mergeAdapter(base, adapter, out, options));
  expect(readdirSync(join(out, ".."))).toEqual(["merged"]);
  return { out, result };
}

describe("the merged model says what base and adapter say together", () => {
  test.each<[string, Record<string, unknown> | undefined]>([
    ["llama", undefined], // PEFT's own
    ["llama", { target_modules: "all-linear", r: 4, lora_alpha: 8, modules_to_save: ["lm_head", "norm"] }],
    ["gpt2", { target_modules: "all-linear", r: 3, lora_alpha: 8 }],
    ["qwen2", { target_modules: "all-linear", use_rslora: true, rank_pattern: { q_proj: 5 } }],
    ["llama-tied-sharded", { target_modules: ["lm_head", "v_proj"] }],
    ["llama-tied-sharded", { modules_to_save: ["embed_tokens"] }],
    ["gpt2", { modules_to_save: ["wte", "lm_head"] }],
  ])("%s, %j", async (name, config) => {
    const base = join(FIXTURES, name);
    const adapter = config ? await randomAdapter(base, config) : PEFT_ADAPTER;
    const { out } = await merged(base, adapter);
    const both = await logits(base, adapter);
    expect(largestDifference(await logits(out), both)).toBeLessThan(2e-4);
    expect(largestDifference(await logits(base), both)).toBeGreaterThan(0.01);
  });

  // Rounding sums to 16 bits moves logits by more than adding in another order does.
  test.each<[SyntheticOptions, WeightDType]>([
    [{ family: "llama", dtype: "bf16" }, "auto"],
    [{ family: "gpt2", dtype: "f16" }, "auto"],
    [{ family: "qwen2", dtype: "bf16" }, "float32"],
  ])("base %j to %s", async (made, dtype) => {
    const base = await checkpoint(made);
    const config = { target_modules: "all-linear", modules_to_save: ["lm_head"] };
    const adapter = await randomAdapter(base, config, { dtype: "bf16" });
    const { out } = await merged(base, adapter, { dtype });
    const tolerance = dtype === "float32" ? 2e-4 : 0.1;
    const both = await logits(base, adapter, dtype);
    expect(largestDifference(await logits(out, undefined, dtype), both)).toBeLessThan(tolerance);
    const types = new Set([...(await openCheckpoint(out)).tensors.values()].map((entry) => entry.dtype));
    expect([...types]).toEqual([dtype === "auto" ? made.dtype : "f32"]);
  });
});

test("every value is W + scale B A, rounded once; all others are the base's to the bit", async () => {
  const base = await checkpoint({ family: "gpt2", dtype: "f32" });
  const dir = await randomAdapter(base, { target_modules: ["c_fc", "attn.c_proj"], r: 3, lora_alpha: 6 });
  const { out } = await merged(base, dir);
  const [before, after] = [await openCheckpoint(base), await openCheckpoint(out)];
  const { targets, checkpoint: own } = await openAdapter(dir, modelSpec(await readConfigJson(base)));
  const f32 = async (from: typeof own, name: string) =>
    new Float32Array((await readTensor(from, name)).slice().buffer);
  expect([...after.tensors.keys()]).toEqual([...before.tensors.keys()]);
  for (const name of before.tensors.keys()) {
    const [was, is] = [await f32(before, name), await f32(after, name)];
    const target = targets.find((t) => t.weight.name.endsWith(name));
    if (!target) {
      expect(is).toEqual(was);
      continue;
    }
    const [a, b] = [await f32(own, target.a), await f32(own, target.b)];
    const { r, in: rows, out: columns, scale } = target; // stored [in, out]
    let worst = 0;
    for (let i = 0; i < rows; i++) {
      for (let o = 0; o < columns; o++) {
        let sum = 0;
        for (let k = 0; k < r; k++) sum += b[o * r + k]! * a[k * rows + i]!;
        worst = Math.max(worst, Math.abs(is[i * columns + o]! - (was[i * columns + o]! + scale * sum)));
      }
    }
    expect(worst).toBeLessThan(1e-6);
  }
});

test("the size of a block changes at most the order of additions", async () => {
  const adapter = await openAdapter(PEFT_ADAPTER, modelSpec(await readConfigJson(LLAMA)));
  const base = await openCheckpoint(LLAMA);
  const cpu = Device.open(findDevice("cpu"), { threads: 1 });
  const target = adapter.targets[3]!;
  const of = (name: string) => ({
    checkpoint: adapter.checkpoint,
    entry: adapter.checkpoint.tensors.get(name)!,
  });
  const source = { checkpoint: base, entry: base.tensors.get(target.weight.name)! };
  const results: Float32Array[] = [];
  const ledger = new Ledger();
  for (const bytes of [1, 5000, 2 ** 24]) {
    const merger = new TensorMerger(cpu, ledger, bytes);
    const chunks: Buffer[] = [];
    const update = { target, a: of(target.a), b: of(target.b) };
    for await (const chunk of merger.chunks(source, "f32", update)) chunks.push(Buffer.from(chunk));
    merger.dispose();
    if (bytes === 1) expect(chunks).toHaveLength(target.out);
    results.push(new Float32Array(new Uint8Array(Buffer.concat(chunks)).buffer));
  }
  await cpu.dispose();
  ledger.assertEmpty();
  for (const result of results) expect(largestDifference(result, results[2]!)).toBeLessThan(1e-6);
});

describe("within a budget", () => {
  // The rank is so large that its factors are read in ranges; gpt2 stores matrices the other way.
  test.each([
    ["llama", "down_proj"],
    ["gpt2", "c_fc"],
  ])("%s: the same sums", async (name, module) => {
    const base = join(FIXTURES, name);
    const adapter = await randomAdapter(base, { target_modules: [module], r: 150, lora_alpha: 8 });
    const usual = await openCheckpoint((await merged(base, adapter)).out);
    const small = await openCheckpoint((await merged(base, adapter, { max_memory: { cpu: "250KiB" } })).out);
    expect([...small.tensors.keys()]).toEqual([...usual.tensors.keys()]);
    for (const tensor of usual.tensors.keys()) {
      const [a, b] = [await readTensor(usual, tensor), await readTensor(small, tensor)].map(
        (bytes) => new Float32Array(bytes.slice().buffer),
      ) as [Float32Array, Float32Array];
      expect(largestDifference(a, b), tensor).toBeLessThan(1e-4);
    }
  });

  test("one that is too small is refused, and nothing is left", async () => {
    const out = join(temporaryFolder(), "merged");
    const error = await rejection(mergeAdapter(LLAMA, PEFT_ADAPTER, out, { max_memory: { cpu: "5KiB" } }));
    expect(error).toBeInstanceOf(BudgetError);
    expect(readdirSync(join(out, ".."))).toEqual([]);
  });
});

describe("the folder", () => {
  test("has the base's other files, its shards' sizes, and a config that is true", async () => {
    const base = join(FIXTURES, "llama-tied-sharded");
    const adapter = await randomAdapter(base, { target_modules: ["lm_head"] });
    const { out, result } = await merged(base, adapter);
    expect(result).toMatchObject({ path: out, merged: 1, replaced: 0, untied: ["lm_head.weight"] });
    expect(result.files.length).toBeGreaterThan(3);
    expect(await readConfigJson(base)).toMatchObject({ tie_word_embeddings: true });
    expect(await readConfigJson(out)).toEqual({
      ...(await readConfigJson(base)),
      tie_word_embeddings: false,
    });
    for (const name of ["tokenizer.json", "generation_config.json"])
      expect(readFileSync(join(out, name))).toEqual(readFileSync(join(base, name)));
    const plain = await merged(LLAMA, PEFT_ADAPTER);
    expect(plain.result.files).toEqual(["model.safetensors"]);
    expect(readFileSync(join(plain.out, "config.json"))).toEqual(readFileSync(join(LLAMA, "config.json")));
    expect(readdirSync(plain.out)).not.toContain("golden.safetensors");
  });

  test("config.json says the type that was asked for", async () => {
    const { out } = await merged(LLAMA, PEFT_ADAPTER, { dtype: "bfloat16" });
    const config = await readConfigJson(out);
    expect(config.torch_dtype ?? config.dtype).toBe("bfloat16");
  });

  test("progress counts to the end", async () => {
    const seen: [number, number][] = [];
    const { result } = await merged(LLAMA, PEFT_ADAPTER, { progress: (...now) => seen.push(now) });
    expect(seen.at(-1)).toEqual([result.bytes, result.bytes]);
    expect(seen.every(([done], i) => i === 0 || done > seen[i - 1]![0])).toBe(true);
  });

  test("an empty one is used, a full one and a file are refused as they are", async () => {
    const empty = join(temporaryFolder(), "empty");
    mkdirSync(empty);
    await mergeAdapter(LLAMA, PEFT_ADAPTER, empty);
    expect(existsSync(join(empty, "model.safetensors"))).toBe(true);
    const full = await rejection(mergeAdapter(LLAMA, PEFT_ADAPTER, empty));
    expect(full).toBeInstanceOf(ConfigError);
    expect(String(full)).toMatch(/is not empty; name a folder that does not exist yet/);
    expect(await rejection(mergeAdapter(LLAMA, PEFT_ADAPTER, LLAMA))).toBeInstanceOf(ConfigError);
    const file = join(temporaryFolder(), "file");
    writeFileSync(file, "mine");
    expect(await rejection(mergeAdapter(LLAMA, PEFT_ADAPTER, file))).toBeInstanceOf(ConfigError);
    expect(readFileSync(file, "utf8")).toBe("mine");
  });
});

describe("a merge that fails leaves nothing", () => {
  /** What it fails with. */
  async function failure(base: string, adapter: string, options: MergeOptions = {}): Promise<unknown> {
    const parent = temporaryFolder();
    const error = await leavesNothing(() =>
      rejection(mergeAdapter(base, adapter, join(parent, "out"), options)),
    );
    expect(readdirSync(parent)).toEqual([]);
    expect(openHandles(base) ?? 0).toBe(0);
    return error;
  }

  test("an adapter for another model, a folder that is none, a type there is not", async () => {
    const other = await failure(join(FIXTURES, "llama-tied-sharded"), PEFT_ADAPTER);
    expect(other).toBeInstanceOf(CheckpointError);
    expect(await failure(LLAMA, join(LLAMA, "nothing"))).toBeInstanceOf(CheckpointError);
    expect(await failure(join(LLAMA, "nothing"), PEFT_ADAPTER)).toBeInstanceOf(CheckpointError);
    expect(await failure(LLAMA, PEFT_ADAPTER, { dtype: "int8" as WeightDType })).toBeInstanceOf(ConfigError);
  });

  test("an abort half-way", async () => {
    const stopper = new AbortController();
    const progress = (done: number, total: number) => {
      if (done > total / 2) stopper.abort("enough");
    };
    expect(await failure(LLAMA, PEFT_ADAPTER, { signal: stopper.signal, progress })).toBeInstanceOf(
      AbortError,
    );
  });

  test("a base that is cut short while it is read", async () => {
    const base = temporaryFolder();
    cpSync(LLAMA, base, { recursive: true });
    const progress = (done: number, total: number) => {
      if (done > total / 2) truncateSync(join(base, "model.safetensors"), 1000);
    };
    const error = await failure(base, PEFT_ADAPTER, { progress });
    expect(error).toBeInstanceOf(CheckpointError);
    expect(String(error)).toMatch(/the file changed while it was merged/);
  });
});
