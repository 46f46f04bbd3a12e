import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test, vi } from "vitest";
import { ConfigError } from "../base/errors.ts";
import { AutoTokenizer } from "../generate/text/tokenizer.ts";
import { openCheckpoint, readConfigJson, readTensor } from "./index.ts";
import { makeCheckpoint, PRESETS, type PresetName, type SyntheticFamily } from "./synthetic.ts";
import { fixture, rejection, temporaryFolder } from "./testing.ts";

vi.setConfig({ testTimeout: 120_000 });

describe("the checkpoint of a family", () => {
  test.each<[SyntheticFamily, string]>([
    ["gpt2", "gpt2"],
    ["llama", "llama"],
    ["llama", "llama-tied-sharded"],
    ["qwen2", "qwen2"],
  ])("%s has the names and shapes of the reference's %s, given its config", async (family, reference) => {
    const dir = temporaryFolder();
    const { eos_token_id, bos_token_id, ...shape } = await readConfigJson(fixture(reference));
    await makeCheckpoint(dir, { family, shape, dtype: "f32" });
    const made = await openCheckpoint(dir);
    const real = await openCheckpoint(fixture(reference));
    const shapes = (c: typeof made) =>
      [...c.tensors.values()].map((t) => `${t.name} ${t.dtype} [${t.shape}]`).sort();
    expect(shapes(made)).toEqual(shapes(real));
  });

  test("has a config whose keys are the reference's", async () => {
    for (const family of ["gpt2", "llama", "qwen2"] as const) {
      const { config } = await makeCheckpoint(temporaryFolder(), { family });
      expect(config).toMatchObject({ model_type: family, torch_dtype: "bfloat16" });
      const reference = await readConfigJson(fixture(family));
      // Those that transformers derives or that only its training code reads.
      const derived =
        /^(summary_|layer_types|head_dim|pad_token_id|pretraining_tp|add_cross_attention|transformers_version)/;
      const keys = Object.keys(reference).filter((key) => !derived.test(key));
      expect(Object.keys(config)).toEqual(expect.arrayContaining(keys));
    }
  });

  test("has biases and an own head where the config says so", async () => {
    const dir = temporaryFolder();
    const shape = { attention_bias: true, mlp_bias: true, head_dim: 24 };
    await makeCheckpoint(dir, { family: "llama", shape, layers: 1, tie_word_embeddings: true });
    const { tensors } = await openCheckpoint(dir);
    expect(tensors.get("model.layers.0.self_attn.o_proj.bias")?.shape).toEqual([64]);
    expect(tensors.get("model.layers.0.mlp.gate_proj.bias")?.shape).toEqual([160]);
    expect(tensors.get("model.layers.0.self_attn.k_proj.weight")?.shape).toEqual([48, 64]);
    expect(tensors.has("model.layers.1.mlp.gate_proj.bias")).toBe(false);
    expect(tensors.has("lm_head.weight")).toBe(false);
  });
});

describe("values", () => {
  const bytesOf = async (options: object) => {
    const dir = temporaryFolder();
    await makeCheckpoint(dir, { family: "llama", ...options });
    const checkpoint = await openCheckpoint(dir);
    const names = [...checkpoint.tensors.keys()].sort();
    return Buffer.concat(await Promise.all(names.map((name) => readTensor(checkpoint, name))));
  };

  test("depend on seed and name alone, not on how they are stored", async () => {
    const first = await bytesOf({ seed: 7 });
    expect((await bytesOf({ seed: 7 })).equals(first)).toBe(true);
    expect((await bytesOf({ seed: 7, max_shard_bytes: 50_000 })).equals(first)).toBe(true);
    expect((await bytesOf({ seed: 8 })).equals(first)).toBe(false);
  });

  test("keep the variance of what flows through the weights; norms are near 1", async () => {
    const dir = temporaryFolder();
    // Larger than the table of values, so that it is read past its end.
    const shape = { intermediate_size: 20_000 };
    await makeCheckpoint(dir, { family: "llama", shape, dtype: "f32", layers: 1 });
    const checkpoint = await openCheckpoint(dir);
    const values = async (name: string) => new Float32Array((await readTensor(checkpoint, name)).buffer);
    const down = await values("model.layers.0.mlp.down_proj.weight");
    const mean = down.reduce((a, b) => a + b, 0) / down.length;
    const variance = down.reduce((a, b) => a + b * b, 0) / down.length;
    expect(mean).toBeCloseTo(0, 4);
    expect(variance * 20_000).toBeCloseTo(1, 1);
    const up = await values("model.layers.0.mlp.up_proj.weight");
    expect(up.reduce((a, b) => a + b * b, 0) / up.length).toBeCloseTo(1 / 64, 3);
    expect(up.subarray(0, 64)).not.toEqual(up.subarray(64, 128));
    const norm = await values("model.norm.weight");
    expect(norm.every((value) => Math.abs(value - 1) < 0.1)).toBe(true);
  });

  test("f16 and bf16 are the rounded f32", async () => {
    const name = "model.norm.weight";
    const read = async (dtype: "f32" | "bf16") => {
      const dir = temporaryFolder();
      await makeCheckpoint(dir, { family: "llama", dtype });
      return readTensor(await openCheckpoint(dir), name);
    };
    const f32 = new Float32Array((await read("f32")).buffer);
    const bf16 = new Uint16Array((await read("bf16")).buffer);
    const widened = new Float32Array(Uint32Array.from(bf16, (bits) => bits << 16).buffer);
    for (let i = 0; i < f32.length; i++)
      expect(Math.abs(widened[i]! - f32[i]!)).toBeLessThanOrEqual(f32[i]! / 256);
  });
});

describe("presets", () => {
  // [preset, parameters of the published model or of its size's purpose]
  test.each<[PresetName, number]>([
    ["tiny-gpt2", 199_232],
    ["tiny-llama", 195_008],
    ["tiny-qwen2", 162_624],
    ["gpt2-medium", 354_823_168],
    ["llama-3-8b", 8_030_261_248],
    ["llama-3-70b", 70_553_706_496],
  ])("%s has %i parameters", async (shape, parameters) => {
    const dir = temporaryFolder();
    const made = await makeCheckpoint(dir, { shape, sparse: true });
    expect(made.parameters).toBe(parameters);
    expect(made.bytes).toBe(2 * parameters);
    const checkpoint = await openCheckpoint(dir);
    expect([...checkpoint.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0)).toBe(made.bytes);
  });

  test("llama-4gib is at least 4 GiB in bf16, and in f32 with 22 layers", async () => {
    const bf16 = await makeCheckpoint(temporaryFolder(), { shape: "llama-4gib", sparse: true });
    const f32 = await makeCheckpoint(temporaryFolder(), {
      shape: "llama-4gib",
      dtype: "f32",
      layers: 22,
      sparse: true,
    });
    for (const { bytes } of [bf16, f32]) {
      expect(bytes).toBeGreaterThanOrEqual(4 * 2 ** 30);
      expect(bytes).toBeLessThan(4.2 * 2 ** 30);
    }
  });

  test("the 131 GiB preset is sparse unless told otherwise, also in shards", async () => {
    const dir = temporaryFolder();
    const { files } = await makeCheckpoint(dir, { shape: "llama-3-70b", max_shard_bytes: 5e9 });
    expect(files.length).toBe(30);
    const onDisk = readdirSync(dir).reduce((sum, name) => sum + 512 * statSync(join(dir, name)).blocks, 0);
    expect(onDisk).toBeLessThan(2 ** 20);
    expect((await openCheckpoint(dir)).tensors.size).toBe(723);
  });

  test.each(Object.keys(PRESETS) as PresetName[])(
    "%s comes with a tokenizer for every text",
    async (shape) => {
      const dir = temporaryFolder();
      const { config } = await makeCheckpoint(dir, { shape, sparse: true, layers: 1 });
      const tokenizer = await AutoTokenizer.from_pretrained(dir);
      const text = "Grüße, \u{1f600}\n\t  world\0";
      const ids = tokenizer.encode(`${text}<|endoftext|>`);
      expect(ids.length).toBe(Buffer.from(text).length + 1);
      expect(ids.at(-1)).toBe(config.eos_token_id);
      expect(tokenizer.decode(ids, { skip_special_tokens: true })).toBe(text);
      expect(JSON.parse(readFileSync(join(dir, "generation_config.json"), "utf8"))).toHaveProperty(
        "eos_token_id",
        config.eos_token_id,
      );
    },
  );
});

test.each([
  [{}, "give a family (gpt2, llama, qwen2) or a preset"],
  [{ shape: "llama-5" }, 'there is no preset "llama-5"; there are tiny-gpt2'],
  [{ family: "toString" }, 'there is no family "toString"'],
  [{ family: "gpt2", shape: "tiny-llama" }, "preset tiny-llama is of family llama, not gpt2"],
  [{ family: "llama", dtype: "q4_k" }, 'there is no dtype "q4_k"; there are f32, f16, bf16'],
  [{ family: "llama", seed: 0.5 }, "seed is 0.5"],
  [{ family: "llama", layers: Number.NaN }, "num_hidden_layers is NaN"],
  [{ family: "llama", layers: 1e9 }, "1000000000 layers are more than the 10000"],
  [
    { family: "llama", shape: { hidden_size: "64" } },
    'hidden_size is "64", it must be a whole number above 0',
  ],
  [
    { family: "llama", shape: { hidden_size: 63 } },
    "hidden_size is 63, it must be a multiple of num_attention_heads",
  ],
  [{ family: "llama", shape: { num_key_value_heads: 3 } }, "num_attention_heads is 4, it must be a multiple"],
  [{ family: "gpt2", shape: { tie_word_embeddings: "yes" } }, 'tie_word_embeddings is "yes"'],
  [{ family: "gpt2", shape: { vocab_size: 100 } }, "eos_token_id is 256 and vocab_size 100"],
])("options %j are refused before anything is written", async (options, message) => {
  const dir = temporaryFolder();
  const error = await rejection(makeCheckpoint(dir, options as Parameters<typeof makeCheckpoint>[1]));
  expect(error).toBeInstanceOf(ConfigError);
  expect((error as Error).message).toContain(message);
  expect(readdirSync(dir)).toEqual([]);
});
