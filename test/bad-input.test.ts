// What people and files get wrong: an error of a class of its own with what to do about it, never the end of the
// process; nothing stays allocated, and a model that is open stays right.
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import {
  CheckpointError,
  ConfigError,
  type ErrorCode,
  IoError,
  SpillwayError,
  UnsupportedError,
} from "../src/base/errors.ts";
import { rejection, temporaryFolder } from "../src/formats/testing.ts";
import { AutoModelForCausalLM } from "../src/generate/causal-lm.ts";
import type { EngineOptions } from "../src/runtime/open/prepare.ts";
import { expectStillRight, FIXTURES, readGolden } from "./golden/golden.ts";
import { copyOfFixture } from "./support/checkpoints.ts";
import { editConfig, editHeader, type Header } from "./support/damage.ts";
import { leavesNothing } from "./support/leaks.ts";

const CPU: EngineOptions = { device: "cpu", kv_dtype: "float32", threads: 1 };
const LLAMA = join(FIXTURES, "llama");

/** What opening `dir` with `options` is refused with; the options may be anything, as from plain JavaScript. */
async function refusal(dir: string, options: Record<string, unknown> = {}): Promise<SpillwayError> {
  return leavesNothing(async () => {
    const opening = AutoModelForCausalLM.from_pretrained(dir, { ...CPU, ...options } as EngineOptions);
    const error = await rejection(opening);
    if (!(error instanceof SpillwayError)) throw error;
    return error;
  });
}

describe("options", () => {
  const options: [Record<string, unknown>, ErrorCode, RegExp][] = [
    [{ dtype: "float17" }, "config", /float17.*float32, float16, bfloat16/],
    [{ dtype: "int8" }, "config", /int8/],
    [{ dtype: "" }, "config", /dtype/],
    [{ kv_dtype: "bfloat16" }, "config", /kv_dtype "bfloat16".*float16, float32/],
    [{ kv_dtype: "nonsense" }, "config", /kv_dtype/],
    [{ device: "abacus" }, "config", /device "abacus" was not found; there are: .*cpu/],
    [{ device: "cpu:7" }, "config", /cpu:7/],
    [{ device_map: "ram" }, "config", /device_map: "ram" is not a tier; tiers are gpu, cpu, disk/],
    [{ device_map: "gpu" }, "config", /on gpu, but the model runs on the CPU/],
    [
      { device_map: { "": "cpu", "model.layers.1": "cloud" } },
      "config",
      /device_map\["model.layers.1"\]: "cloud"/,
    ],
    [{ device_map: { "": "cpu", "model.layers.9": "disk" } }, "config", /"model.layers.9" matches no module/],
    [{ device_map: { "": "cpu", "model.layers": null } }, "config", /null is not a tier/],
    [{ device_map: { "model.layers": "cpu" } }, "config", /names no tier for .*""/],
    [{ device_map: {} }, "config", /names no tier/],
    [
      { device_map: { "": "cpu", "model.layers.0.self_attn.q_proj": "disk" } },
      "config",
      /model.layers.0.self_attn is one unit.*q_proj.weight on disk/,
    ],
    [
      { device_map: { "": "cpu", "model.layers.0": "gpu" } },
      "config",
      /on gpu, but the model runs on the CPU/,
    ],
    [{ max_memory: { cpu: "6G" } }, "config", /max_memory.cpu.*did you mean "6GiB" or "6GB"/],
    [{ max_memory: { cpu: -1 } }, "config", /max_memory.cpu/],
    [{ max_memory: { cpu: Number.NaN } }, "config", /max_memory.cpu/],
    [{ max_memory: { cpu: "lots" } }, "config", /max_memory.cpu.*"lots" is not a size/],
    [{ max_memory: { cpu: {} } }, "config", /max_memory.cpu/],
    [{ max_memory: { floppy: "1.44MB" } }, "config", /max_memory: "floppy" is not a tier/],
    [{ max_memory: { 0: "1GiB", "cuda:0": "1GiB" } }, "config", /gpu is named twice/],
    [{ max_memory: { cpu: 0 } }, "budget", /smallest budget that works/],
    [{ context_length: 0 }, "config", /context_length is 0/],
    [{ context_length: 1.5 }, "config", /context_length is 1.5/],
    [{ context_length: 2 ** 31 }, "config", /positions for 2147483647 tokens/],
    [{ threads: 0 }, "config", /threads is 0/],
    [{ threads: 100_000 }, "config", /1 to 512/],
  ];
  test.each(options)("%j", async (wrong, code, message) => {
    const error = await refusal(LLAMA, wrong);
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
  });
});

describe("config.json", () => {
  const configs: [string, Record<string, unknown>, ErrorCode, RegExp][] = [
    ["llama", { model_type: "nonesuch" }, "unsupported", /"nonesuch" is not supported; supported: .*llama/],
    ["llama", { model_type: "constructor" }, "unsupported", /"constructor" is not supported/],
    ["llama", { model_type: 7 }, "config", /model_type is 7, expected a string/],
    ["llama", { model_type: null }, "config", /model_type is null, expected a string/],
    ["llama", { hidden_size: -64 }, "config", /hidden_size is -64/],
    ["llama", { hidden_size: "64" }, "config", /hidden_size is "64"/],
    ["llama", { hidden_size: 65, head_dim: null }, "config", /4 does not divide 65/],
    ["llama", { hidden_size: 2 ** 50, head_dim: 16 }, "config", /hidden_size/],
    ["llama", { num_key_value_heads: 3 }, "config", /3 does not divide 4 heads/],
    ["llama", { num_hidden_layers: 1_000_000_000 }, "config", /num_hidden_layers is 1000000000/],
    ["llama", { num_hidden_layers: 4 }, "checkpoint", /9 are missing/],
    ["llama", { mlp_bias: true }, "checkpoint", /9 are missing/],
    ["llama", { head_dim: 1_000_000_000 }, "config", /head_dim/],
    ["llama", { head_dim: 32 }, "checkpoint", /q_proj.weight is \[64,64\].*calls for \[128,64\]/],
    ["llama", { vocab_size: 513 }, "checkpoint", /embed_tokens.weight is \[512,64\].*calls for \[513,64\]/],
    ["llama", { rms_norm_eps: -1 }, "config", /rms_norm_eps is -1/],
    ["llama", { rope_theta: 0 }, "config", /rope_theta is 0/],
    ["llama", { hidden_act: "mish" }, "unsupported", /hidden_act is "mish"; supported: gelu_new/],
    [
      "llama",
      { rope_scaling: { rope_type: "spiral" } },
      "unsupported",
      /rope type "spiral".*linear, dynamic, llama3, yarn/,
    ],
    ["llama", { rope_scaling: { rope_type: "linear" } }, "config", /rope_scaling: factor is missing/],
    ["llama", { rope_scaling: { rope_type: "linear", factor: -2 } }, "config", /factor is -2/],
    ["llama", { rope_scaling: [] }, "config", /rope_scaling: expected an object/],
    ["llama", { partial_rotary_factor: 0 }, "config", /partial_rotary_factor is 0/],
    ["llama", { attn_logit_softcapping: 30 }, "unsupported", /attn_logit_softcapping is 30, which llama/],
    [
      "llama",
      { tie_word_embeddings: "yes" },
      "config",
      /tie_word_embeddings is "yes", expected true or false/,
    ],
    ["gpt2", { activation_function: "toString" }, "unsupported", /"toString"; supported: gelu_new/],
    ["gpt2", { n_head: 7 }, "config", /7 does not divide 64/],
    ["gpt2", { n_layer: 1_000_000_000 }, "config", /n_layer/],
    ["gpt2", { scale_attn_by_inverse_layer_idx: 1 }, "config", /scale_attn_by_inverse_layer_idx is 1/],
    ["gpt2", { add_cross_attention: true }, "unsupported", /add_cross_attention is true/],
    ["qwen2", { is_causal: false }, "unsupported", /is_causal is false/],
  ];
  test.each(configs)("%s with %j", async (name, change, code, message) => {
    const dir = copyOfFixture(name);
    editConfig(dir, change);
    const error = await refusal(dir);
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
  });

  test.each(["", "{", "[]", "null", '"llama"', "\u0000\u0001"])("that is %j", async (text) => {
    const dir = copyOfFixture("llama");
    writeFileSync(join(dir, "config.json"), text);
    expect((await refusal(dir)).message).toContain("config.json");
  });

  test("that is not there", async () => {
    const dir = copyOfFixture("llama");
    rmSync(join(dir, "config.json"));
    expect((await refusal(dir)).message).toContain("config.json");
    expect(await refusal(join(dir, "no", "such", "folder"))).toBeInstanceOf(SpillwayError);
    expect(await refusal(temporaryFolder())).toBeInstanceOf(SpillwayError);
  });

  test("a generation_config.json that makes no sense", async () => {
    const dir = copyOfFixture("llama");
    writeFileSync(join(dir, "generation_config.json"), '{"eos_token_id": "the end"}');
    expect(await refusal(dir)).toBeInstanceOf(ConfigError);
  });
});

describe("tensors", () => {
  const norm = "model.norm.weight";
  const entry = (header: Header, name: string) => header[name] as Header[string];
  const damages: [string, (header: Header, end: number) => void, number, RegExp][] = [
    [
      "one is missing, and one is too many",
      (h) => {
        h["model.norm.wait"] = entry(h, norm);
        delete h[norm];
      },
      0,
      /1 is missing, 1 is not part of the model/,
    ],
    [
      "one too many",
      (h, end) => {
        h["model.layers.0.adapter.weight"] = { dtype: "F32", shape: [2], data_offsets: [end, end + 8] };
      },
      8,
      /adapter.weight \[2\].*is not part of the model/,
    ],
    [
      "one is turned round",
      (h) => {
        entry(h, "model.layers.1.mlp.down_proj.weight").shape.reverse();
      },
      0,
      /down_proj.weight is \[160,64\].*calls for \[64,160\]/,
    ],
    [
      "a vector is a matrix",
      (h) => {
        entry(h, norm).shape = [1, 64];
      },
      0,
      /model.norm.weight is \[1,64\].*calls for \[64\]/,
    ],
    [
      "one overlaps another",
      (h) => {
        entry(h, norm).data_offsets = [0, 256];
      },
      0,
      /safetensors/,
    ],
    [
      "one ends beyond the file",
      (h, end) => {
        entry(h, norm).data_offsets = [end, end + 256];
      },
      0,
      /safetensors/,
    ],
  ];
  test.each(damages)("%s", async (_what, damage, more, message) => {
    const dir = copyOfFixture("llama");
    editHeader(dir, damage, more);
    const error = await refusal(dir);
    expect(error).toBeInstanceOf(CheckpointError);
    expect(error.message).toMatch(message);
  });

  test("of a type that no kernel multiplies", async () => {
    const dir = copyOfFixture("llama");
    editHeader(dir, (h) => {
      const e = entry(h, "lm_head.weight");
      e.dtype = "I32";
    });
    const error = await refusal(dir);
    expect(error).toBeInstanceOf(UnsupportedError);
    expect(error.message).toMatch(/lm_head.weight is i32; weights of f64, f32, f16 and bf16/);
  });

  test("a shard that is not there", async () => {
    const dir = copyOfFixture("llama-tied-sharded");
    rmSync(join(dir, "model-00007-of-00011.safetensors"));
    const error = await refusal(dir);
    expect([CheckpointError, IoError].some((type) => error instanceof type)).toBe(true);
    expect(error.message).toContain("model-00007-of-00011.safetensors");
  });

  test("that are not numbers: generate says so, forward shows them", async () => {
    const dir = copyOfFixture("llama");
    const path = join(dir, "model.safetensors");
    const bytes = readFileSync(path);
    bytes.fill(0xff, bytes.length - 256); // f32 NaNs in the last tensor of the file
    writeFileSync(path, bytes);
    await leavesNothing(async () => {
      await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, device_map: "disk" });
      const error = await rejection(model.generate({ input_ids: [[1, 2]] }));
      expect(error).toBeInstanceOf(SpillwayError);
      expect((error as SpillwayError).message).toMatch(/NaN.*check the checkpoint/);
      const { data } = (await model.forward({ input_ids: [[1, 2]] })).logits;
      expect(data.some(Number.isNaN)).toBe(true);
    });
  });
});

describe("ids", () => {
  const long = Array.from({ length: 257 }, () => 1);
  const inputs: [string, unknown, RegExp][] = [
    ["beyond the vocabulary", [[1, 512]], /512 is not a token of a vocabulary of 512/],
    ["negative", [[-1]], /-1 is not a token/],
    ["not whole", [[1.5]], /1.5 is not a token/],
    ["NaN", [[Number.NaN]], /NaN is not a token/],
    ["text", [["1"]], /is not a token/],
    ["far beyond", [[2 ** 40]], /is not a token/],
    ["none", [[]], /at least one token/],
    ["no sequence", [], /sequence/],
    ["more than the model has positions for", [long], /256/],
  ];
  test.each(inputs)("%s", async (_what, input_ids, message) => {
    const { prompts } = await readGolden("llama");
    await leavesNothing(async () => {
      await using model = await AutoModelForCausalLM.from_pretrained(LLAMA, { ...CPU, device_map: "disk" });
      const ids = input_ids as number[][];
      for (const call of [
        () => model.forward({ input_ids: ids }),
        () => model.generate({ input_ids: ids }),
      ]) {
        const error = await rejection(call());
        expect(error).toBeInstanceOf(ConfigError);
        expect((error as ConfigError).message).toMatch(message);
      }
      await expectStillRight(model, prompts);
    });
  });

  test("one wrong id in a batch refuses the batch, not the next one", async () => {
    const { prompts } = await readGolden("llama");
    await using open = await AutoModelForCausalLM.from_pretrained(LLAMA, CPU);
    const input_ids = [...prompts.map((p) => p.ids), [1, 2, 100_000]];
    await expect(open.generate({ input_ids })).rejects.toThrow(/100000 is not a token/);
    await expectStillRight(open, prompts);
  });

  test("rows of different lengths: forward refuses them, generate takes them", async () => {
    await using open = await AutoModelForCausalLM.from_pretrained(LLAMA, CPU);
    const input_ids = [[1, 2, 3], [4]];
    await expect(open.forward({ input_ids })).rejects.toThrow(/row 0 has 3 tokens, row 1 has 1/);
    expect(await open.generate({ input_ids, max_new_tokens: 1, ignore_eos: true })).toHaveLength(2);
  });

  test("as many tokens as there are positions: the last one of the text needs none", async () => {
    await using open = await AutoModelForCausalLM.from_pretrained(LLAMA, CPU);
    const full = long.slice(0, 256);
    expect(await open.generate({ input_ids: [full], max_new_tokens: 5 })).toEqual([
      [...full, expect.any(Number)],
    ]);
    const [ids] = await open.generate({
      input_ids: [long.slice(0, 254)],
      max_new_tokens: 5,
      ignore_eos: true,
    });
    expect(ids).toHaveLength(257);
  });

  test.each([
    [{ max_new_tokens: -1 }, /max_new_tokens must be a whole number from 0, got -1/],
    [{ max_new_tokens: 1.5 }, /max_new_tokens must be .* got 1.5/],
    [{ temperature: -1, do_sample: true }, /temperature/],
    [{ top_p: 7, do_sample: true }, /top_p/],
  ])("generate with %j", async (wrong, message) => {
    const { prompts } = await readGolden("llama");
    await using open = await AutoModelForCausalLM.from_pretrained(LLAMA, CPU);
    const error = await rejection(open.generate({ input_ids: [[1]], ...wrong }));
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as ConfigError).message).toMatch(message);
    await expectStillRight(open, prompts);
  });
});
