// What each family makes of a config.json: stages, names and shapes. Whether they compute the right thing is for
// test/golden.
import { describe, expect, test } from "vitest";
import { ConfigError, UnsupportedError } from "../base/errors.ts";
import { openCheckpoint, readConfigJson } from "../formats/index.ts";
import { SYNTHETIC_FAMILIES as SYNTHETIC } from "../formats/synthetic/families.ts";
import { PRESETS } from "../formats/synthetic.ts";
import { fixture } from "../formats/testing.ts";
import { FAMILIES, modelSpec } from "./families.ts";

/** The family's tiny config with some keys changed; undefined takes one away. */
function config(family: keyof typeof SYNTHETIC, change: Record<string, unknown> = {}) {
  return { ...SYNTHETIC[family].config, ...change };
}

describe.each(FAMILIES.map((f) => f.model_type))("%s", (name) => {
  const spec = modelSpec(config(name as keyof typeof SYNTHETIC));

  test("embeds, then attention and MLP by turns, then the head", () => {
    const kinds = spec.stages.map((stage) => stage.kind);
    const layers = Array.from({ length: spec.num_layers }, () => ["attention", "mlp"]).flat();
    expect(kinds).toEqual(["embed", ...layers, "head"]);
    expect(spec.stages.flatMap((s) => s.layer ?? [])).toEqual([...new Array(spec.num_layers).keys()]);
    expect(new Set(spec.stages.map((s) => s.name)).size).toBe(spec.stages.length);
  });

  test.each([true, false])("wants just the tensors its checkpoints have, tied: %s", (tied) => {
    const tiny = config(name as keyof typeof SYNTHETIC, { tie_word_embeddings: tied });
    const { stages, tied: aliases } = modelSpec(tiny);
    const wanted = new Map(
      stages.flatMap((s) => Object.values(s.weights).map((w) => [aliases[w.name] ?? w.name, [...w.shape]])),
    );
    const row = SYNTHETIC[name as keyof typeof SYNTHETIC];
    const held = new Map([...row.tensors(tiny)].map((t) => [t.name, [...t.shape]]));
    expect(Object.fromEntries(wanted)).toEqual(Object.fromEntries(held));
  });

  test("the reference's checkpoint has them too", async () => {
    const dir = fixture(name);
    const { stages, tied } = modelSpec(await readConfigJson(dir));
    const { tensors } = await openCheckpoint(dir);
    const names = new Set(stages.flatMap((s) => Object.values(s.weights).map((w) => tied[w.name] ?? w.name)));
    expect([...names].sort()).toEqual([...tensors.keys()].sort());
  });
});

test("published shapes are taken", () => {
  for (const { family, config: change } of Object.values(PRESETS)) {
    const spec = modelSpec(config(family, change));
    expect(spec.hidden_size).toBe(spec.num_heads * spec.head_dim);
  }
});

describe("llama", () => {
  test("as many heads for k and v as for q where the config names none", () => {
    const spec = modelSpec(config("llama", { num_key_value_heads: undefined }));
    expect(spec.num_kv_heads).toBe(spec.num_heads);
  });

  test("heads of a size of their own", () => {
    const spec = modelSpec(config("llama", { head_dim: 32 }));
    expect(spec.head_dim).toBe(32);
    expect(spec.stages[1]?.weights.q?.shape).toEqual([128, 64]);
    expect(spec.stages[1]?.weights.o?.shape).toEqual([64, 128]);
  });

  test("biases where the config has them", () => {
    const spec = modelSpec(config("llama", { attention_bias: true, mlp_bias: true }));
    expect(Object.keys(spec.stages[1]?.weights ?? {})).toContain("o_bias");
    expect(Object.keys(spec.stages[2]?.weights ?? {})).toContain("down_bias");
  });

  test("defaults of configs older than the keys", () => {
    const {
      rms_norm_eps: _e,
      rope_theta: _t,
      tie_word_embeddings: _w,
      attention_bias: _b,
      ...old
    } = config("llama");
    expect(modelSpec(old).tied).toEqual({});
  });
});

// transformers 5.18's LlamaConfig, Qwen2Config, GPT2Config.
test.each([
  [
    "llama",
    {
      vocab_size: 32_000,
      hidden_size: 4096,
      num_layers: 32,
      num_heads: 32,
      num_kv_heads: 32,
      head_dim: 128,
      max_positions: 2048,
    },
  ],
  [
    "qwen2",
    {
      vocab_size: 151_936,
      hidden_size: 4096,
      num_layers: 32,
      num_heads: 32,
      num_kv_heads: 32,
      head_dim: 128,
      max_positions: 32_768,
    },
  ],
  [
    "gpt2",
    {
      vocab_size: 50_257,
      hidden_size: 768,
      num_layers: 12,
      num_heads: 12,
      num_kv_heads: 12,
      head_dim: 64,
      max_positions: 1024,
    },
  ],
])("what the class of %s has where config.json says nothing, which is noted", (model_type, expected) => {
  const spec = modelSpec({ model_type });
  expect(spec).toMatchObject(expected);
  expect(Object.keys(spec.tied)).toEqual(model_type === "gpt2" ? ["lm_head.weight"] : []);
  expect(spec.notes?.[0]).toContain(`not named, so ${model_type}'s defaults: `);
});

describe("gpt2's newer names of keys", () => {
  const { n_embd, n_layer, n_head, n_positions, ...rest } = config("gpt2") as Record<string, number>;
  test("stand for the older ones", () => {
    const newer = { hidden_size: n_embd, num_hidden_layers: n_layer, num_attention_heads: n_head };
    const spec = modelSpec({ ...rest, ...newer, max_position_embeddings: n_positions });
    expect(spec).toMatchObject({
      hidden_size: 64,
      num_layers: 3,
      num_heads: 4,
      max_positions: 256,
      notes: [],
    });
  });
  test("count where a file has both", () => {
    const spec = modelSpec(config("gpt2", { num_attention_heads: 2 }));
    expect(spec.num_heads).toBe(2);
    expect(spec.notes).toEqual(["config.json: num_attention_heads counts, n_head beside it is not used"]);
  });
});

test("qwen2 has biases on q, k and v alone", () => {
  const weights = Object.keys(modelSpec(config("qwen2")).stages[1]?.weights ?? {});
  expect(weights.filter((key) => key.endsWith("_bias"))).toEqual(["q_bias", "k_bias", "v_bias"]);
});

describe("what is refused", () => {
  test.each<
    [keyof typeof SYNTHETIC, Record<string, unknown>, typeof ConfigError | typeof UnsupportedError, RegExp]
  >([
    [
      "llama",
      { model_type: "nonesuch" },
      UnsupportedError,
      /"nonesuch" is not supported; supported: gpt2, llama/,
    ],
    ["llama", { model_type: "__proto__" }, UnsupportedError, /not supported/],
    ["llama", { hidden_act: "SiLU" }, UnsupportedError, /hidden_act is "SiLU"; supported: gelu_new, .*silu/],
    ["llama", { num_hidden_layers: null }, ConfigError, /num_hidden_layers is null/],
    ["llama", { tie_word_embeddings: null }, ConfigError, /tie_word_embeddings is null/],
    ["llama", { layer_types: ["full_attention"] }, ConfigError, /layer_types: expected a list of 3 types/],
    [
      "llama",
      { layer_types: ["full_attention", "conv", "conv"] },
      UnsupportedError,
      /layer_types has "conv"/,
    ],
    ["qwen2", { num_key_value_heads: undefined }, ConfigError, /num_key_value_heads: 32 does not divide 4/],
    ["llama", { num_hidden_layers: 10_001 }, ConfigError, /num_hidden_layers is 10001/],
    ["llama", { head_dim: 1e9 }, ConfigError, /head_dim is 1000000000/],
    ["llama", { rms_norm_eps: 0 }, ConfigError, /rms_norm_eps/],
    ["gpt2", { activation_function: "hasOwnProperty" }, UnsupportedError, /"hasOwnProperty"/],
    ["gpt2", { scale_attn_weights: 1 }, ConfigError, /scale_attn_weights is 1, expected true or false/],
    ["gpt2", { n_embd: 66 }, ConfigError, /n_head: 4 does not divide 66/],
    ["qwen2", { use_sliding_window: 1 }, ConfigError, /use_sliding_window is 1/],
    ["qwen2", { layer_types: Array(3).fill("sliding_attention") }, ConfigError, /3 layers slide/],
  ])("%s with %j", (family, change, type, message) => {
    const read = () => modelSpec(config(family, change));
    expect(read).toThrow(type);
    expect(read).toThrow(message);
  });
});
