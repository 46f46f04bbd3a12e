// The converter against llama.cpp itself (where `npm ci --prefix bench` was run) and, everywhere, against the format.

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { describeUnless } from "../../src/base/testing-unproven.ts";
import { convertLlama } from "./gguf.mjs";
import { GGML_TYPE } from "./gguf-writer.mjs";

const inBench = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));
const fixture = (name) => inBench(`../test/fixtures/checkpoints/${name}`);
const installed = existsSync(inBench("node_modules/node-llama-cpp"));

let dir;
beforeAll(async () => {
  dir = await mkdtemp(path.join(os.tmpdir(), "spillway-gguf-"));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

/** A plain reader of what the converter writes: metadata and tensors with their bytes. */
async function readGguf(file) {
  const bytes = await readFile(file);
  let at = 0;
  const take = (length) => {
    at += length;
    return at - length;
  };
  const u32 = () => bytes.readUInt32LE(take(4));
  const u64 = () => Number(bytes.readBigUInt64LE(take(8)));
  const text = () => {
    const length = u64();
    return bytes.subarray(take(length), at).toString("utf8");
  };
  const value = (type) => {
    if (type === 4) return u32();
    if (type === 5) return bytes.readInt32LE(take(4));
    if (type === 6) return bytes.readFloatLE(take(4));
    if (type === 8) return text();
    expect(type).toBe(9);
    const of = u32();
    return Array.from({ length: u64() }, () => value(of));
  };
  expect(bytes.toString("latin1", 0, 4)).toBe("GGUF");
  at = 4;
  expect(u32()).toBe(3);
  const [tensorCount, valueCount] = [u64(), u64()];
  const metadata = {};
  for (let i = 0; i < valueCount; i++) metadata[text()] = value(u32());
  const infos = Array.from({ length: tensorCount }, () => ({
    name: text(),
    shape: Array.from({ length: u32() }, u64).reverse(),
    type: u32(),
    offset: u64(),
  }));
  const start = Math.ceil(at / 32) * 32;
  const tensors = new Map();
  for (const { name, shape, type, offset } of infos) {
    const length = shape.reduce((a, b) => a * b, type === GGML_TYPE.F32 ? 4 : 2);
    expect(offset % 32).toBe(0);
    expect(start + offset + length).toBeLessThanOrEqual(bytes.length);
    tensors.set(name, { shape, type, data: bytes.subarray(start + offset, start + offset + length) });
  }
  return { metadata, tensors };
}

/** A Llama of two heads of four and no layer but one, whose element i of a tensor is `bits(i)`. */
async function tinyCheckpoint(name, dtype, bits) {
  const shapes = {
    "model.embed_tokens.weight": [16, 8],
    "model.layers.0.input_layernorm.weight": [8],
    "model.layers.0.self_attn.q_proj.weight": [8, 8],
    "model.layers.0.self_attn.k_proj.weight": [4, 8],
    "model.layers.0.self_attn.v_proj.weight": [4, 8],
    "model.layers.0.self_attn.o_proj.weight": [8, 8],
    "model.layers.0.post_attention_layernorm.weight": [8],
    "model.layers.0.mlp.gate_proj.weight": [12, 8],
    "model.layers.0.mlp.up_proj.weight": [12, 8],
    "model.layers.0.mlp.down_proj.weight": [8, 12],
    "model.norm.weight": [8],
  };
  const header = {};
  const data = [];
  let offset = 0;
  for (const [tensor, shape] of Object.entries(shapes)) {
    const elements = shape.reduce((a, b) => a * b, 1);
    const part = Buffer.from(Uint16Array.from({ length: elements }, (_, i) => bits(i)).buffer);
    header[tensor] = { dtype, shape, data_offsets: [offset, offset + part.length] };
    offset += part.length;
    data.push(part);
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const target = path.join(dir, name);
  await cp(fixture("llama"), target, { recursive: true, filter: (file) => !file.endsWith(".safetensors") });
  const tokenizer = {
    added_tokens: [{ id: 0, content: "<|end|>", special: true }],
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", vocab: { a: 1, b: 2, ab: 3 }, merges: [["a", "b"]] },
  };
  await writeFile(path.join(target, "tokenizer.json"), JSON.stringify(tokenizer));
  const config = {
    model_type: "llama",
    vocab_size: 16,
    hidden_size: 8,
    intermediate_size: 12,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    max_position_embeddings: 32,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: true,
    eos_token_id: [0, 1],
  };
  await writeFile(path.join(target, "config.json"), JSON.stringify(config));
  await writeFile(path.join(target, "model.safetensors"), Buffer.concat([length, text, ...data]));
  return target;
}

const out = (name) => path.join(dir, `${name}.gguf`);

describe("the file", () => {
  test("keeps matrices in their type and turns norms into f32", async () => {
    // 1.5 and -2 as bfloat16 and as IEEE half
    for (const [dtype, a, b] of [
      ["BF16", 0x3fc0, 0xc000],
      ["F16", 0x3e00, 0xc000],
    ]) {
      const source = await tinyCheckpoint(`tiny-${dtype}`, dtype, (i) => (i % 2 ? b : a));
      await convertLlama(source, out(dtype));
      const { tensors } = await readGguf(out(dtype));
      const norm = tensors.get("output_norm.weight");
      expect(norm.type).toBe(GGML_TYPE.F32);
      expect([norm.data.readFloatLE(0), norm.data.readFloatLE(4)]).toEqual([1.5, -2]);
      const up = tensors.get("blk.0.ffn_up.weight");
      expect(up).toMatchObject({ type: GGML_TYPE[dtype], shape: [12, 8] });
      expect([up.data.readUInt16LE(0), up.data.readUInt16LE(2)]).toEqual([a, b]);
    }
  });

  test("interleaves the rotary halves of each query and key head, and of nothing else", async () => {
    const source = await tinyCheckpoint("tiny-rows", "BF16", (i) => Math.floor(i / 8)); // each row holds its own number
    await convertLlama(source, out("rows"));
    const { tensors } = await readGguf(out("rows"));
    const rows = (name) => {
      const { shape, data } = tensors.get(name);
      return Array.from({ length: shape[0] }, (_, row) => data.readUInt16LE(row * shape[1] * 2));
    };
    expect(rows("blk.0.attn_q.weight")).toEqual([0, 2, 1, 3, 4, 6, 5, 7]);
    expect(rows("blk.0.attn_k.weight")).toEqual([0, 2, 1, 3]);
    expect(rows("blk.0.attn_v.weight")).toEqual([0, 1, 2, 3]);
  });

  test("has a token for every row of the embedding and no head where it is tied", async () => {
    const source = await tinyCheckpoint("tiny-tied", "BF16", () => 0);
    await convertLlama(source, out("tied"));
    const { metadata, tensors } = await readGguf(out("tied"));
    expect(tensors.has("output.weight")).toBe(false);
    expect(metadata["tokenizer.ggml.tokens"].slice(0, 6)).toEqual([
      "<|end|>",
      "a",
      "b",
      "ab",
      "<unused_4>",
      "<unused_5>",
    ]);
    expect(metadata["tokenizer.ggml.tokens"]).toHaveLength(16);
    expect(metadata["tokenizer.ggml.token_type"].slice(0, 5)).toEqual([3, 1, 1, 1, 5]);
    expect(metadata["tokenizer.ggml.merges"]).toEqual(["a b"]);
    expect(metadata["tokenizer.ggml.eos_token_id"]).toBe(0);
    expect(metadata["llama.attention.head_count_kv"]).toBe(1);
    expect(metadata["llama.rope.dimension_count"]).toBe(4);
  });

  test("appears whole or not at all, and the error names what is wrong", async () => {
    const source = await tinyCheckpoint("tiny-cut", "BF16", () => 0);
    const weights = path.join(source, "model.safetensors");
    await writeFile(weights, (await readFile(weights)).subarray(0, -2));
    await expect(convertLlama(source, out("cut"))).rejects.toThrow(/model\.norm\.weight/);

    const config = JSON.parse(await readFile(path.join(source, "config.json"), "utf8"));
    const changed = async (change) =>
      writeFile(path.join(source, "config.json"), JSON.stringify({ ...config, ...change }));
    await changed({ model_type: "gpt2" });
    await expect(convertLlama(source, out("cut"))).rejects.toThrow(/gpt2.*llama only/);
    await changed({ rope_scaling: { rope_type: "longrope" } });
    await expect(convertLlama(source, out("cut"))).rejects.toThrow(/longrope/);
    expect((await readdir(dir)).filter((name) => name.startsWith("cut"))).toEqual([]);
  });
});

describeUnless(installed ? undefined : "node-llama-cpp is not installed (npm ci --prefix bench)")(
  "llama.cpp",
  () => {
    test.each(["llama", "llama-tied-sharded", "llama3-rope", "llama-yarn"])(
      "continues %s as the reference does",
      async (name) => {
        await convertLlama(fixture(name), out(name));
        const golden = JSON.parse(await readFile(path.join(fixture(name), "golden.json"), "utf8"));
        expect(golden.prompts.length).toBeGreaterThan(0);
        for (const { ids, greedy } of golden.prompts) {
          const args = ["--model", out(name), "--ids", ids.join(), "--new-tokens", String(greedy.length)];
          const exact = ["--kv", "f32", "--flash", "false", "--context", "256"];
          const runner = inBench("runners/llama-cpp.mjs");
          const { stdout } = await promisify(execFile)(process.execPath, [runner, ...args, ...exact]);
          expect(JSON.parse(stdout.trim().split("\n").at(-1)).tokens).toEqual(greedy);
        }
      },
    );
  },
);
