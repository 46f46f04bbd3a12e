import { describe, expect, test } from "vitest";
import { ConfigError, UnsupportedError } from "../base/errors.ts";
import { modelSpec } from "../models/families.ts";
import { parseLoraConfig } from "./config.ts";
import { loraTargets, matchModules, savedWeights } from "./targets.ts";

const llama = modelSpec({
  model_type: "llama",
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 512,
});
const gpt2 = modelSpec({ model_type: "gpt2", n_embd: 32, n_head: 2, n_layer: 2, vocab_size: 100 });

const targets = (options: Record<string, unknown>, spec = llama) =>
  loraTargets(parseLoraConfig(options), spec);
const modules = (options: Record<string, unknown>, spec = llama) =>
  targets(options, spec).map(({ module }) => module);

describe("matchModules", () => {
  // PEFT's own cases: REGEX_TEST_CASES of tests/test_tuners_utils.py, plus exclusions
  test.each<
    [
      key: string,
      target_modules: string | string[],
      layers: number[] | null,
      pattern: string[] | string | null,
      boolean,
    ]
  >([
    ["", [], null, null, false],
    ["", ["foo"], null, null, false],
    ["foo", [], null, null, false],
    ["foo", ["foo"], null, null, true],
    ["foo", ["bar"], null, null, false],
    ["foo", ["foo", "bar"], null, null, true],
    ["foo", "foo", null, null, true],
    ["foo", ".*oo", null, null, true],
    ["foo", "fo.*", null, null, true],
    ["foo", ".*bar.*", null, null, false],
    ["foobar", ".*oba.*", null, null, true],
    ["foo.bar.1.baz", ["baz"], [1], ["bar"], true],
    ["foo.bar.1.baz", ["baz"], [0], ["bar"], false],
    ["foo.bar.1.baz", ["baz"], [2], ["bar"], false],
    ["foo.bar.10.baz", ["baz"], [0], ["bar"], false],
    ["foo.bar.10.baz", ["baz"], [1], ["bar"], false],
    ["foo.bar.1.baz", ["baz"], [0, 1, 2], ["bar"], true],
    ["foo.bar.1.baz", ["baz", "spam"], [1], ["bar"], true],
    ["foo.bar.1.baz", ["baz", "spam"], [0, 1, 2], ["bar"], true],
    ["foo.whatever.1.baz", ["baz"], [1], [], true],
    ["foo.whatever.1.baz", ["baz"], [0], [], false],
    ["foo.whatever.1.baz", ["baz"], [1], "", true],
    ["foo.whatever.1.baz", ["baz"], [0], "", false],
    ["foo.whatever.1.baz", ["baz"], [1], null, true],
    ["foo.whatever.1.baz", ["baz"], [0], null, false],
    ["transformer.h.1.attn.attention.q_proj.foo", ["q_proj"], null, [], false],
    ["transformer.h.1.attn.attention.q_proj", [], null, [], false],
    ["transformer.h.1.attn.attention.q_proj", ["q_proj"], null, [], true],
    ["transformer.h.1.attn.attention.q_proj", ["q_proj", "v_proj"], null, [], true],
    ["transformer.h.1.attn.attention.resid_dropout", ["q_proj", "v_proj"], null, [], false],
    ["transformer.h.1.attn.attention.q_proj", ["q_proj"], [1], ["h"], true],
    ["transformer.h.1.attn.attention.q_proj", ["q_proj"], [0], ["h"], false],
    ["transformer.h.1.attn.attention.q_proj", ["q_proj"], [2], ["h"], false],
    ["transformer.h.1.attn.attention.q_proj", ["q_proj"], [0, 1, 2], ["h"], true],
    ["foo.bar.q_proj", ["q_proj"], null, [], true],
    ["foo.bar.1.baz", ["baz"], [1], ["foo"], false],
    ["foo.bar.1.baz", ["baz"], [1], ["baz"], false],
    ["bar.1.baz", ["baz"], [1], ["bar"], false],
    ["foo.bar.001.baz", ["baz"], [1], ["bar"], true],
    ["foo.bar.1.spam.2.baz", ["baz"], [1], ["bar"], true],
    ["foo.bar.2.spam.1.baz", ["baz"], [1], ["bar"], false],
    ["blocks.1.weight", ["weight"], [1], ["blocks"], false],
    ["blocks.1.bias", ["weight"], [1], ["blocks"], false],
    ["mlp.blocks.1.weight", ["weight"], [1], ["blocks"], true],
    ["mlp.blocks.1.bias", ["weight"], [1], ["blocks"], false],
  ])(
    "%s with %j, layers %j of %j: %s",
    (key, target_modules, layers_to_transform, layers_pattern, expected) => {
      const config = parseLoraConfig({ target_modules, layers_to_transform, layers_pattern });
      expect(matchModules(config, [key])).toEqual(expected ? [key] : []);
    },
  );

  test.each<[Record<string, unknown>, boolean]>([
    [{ exclude_modules: ["q"] }, false],
    [{ exclude_modules: ["h.1.q"] }, false],
    [{ exclude_modules: ["1"] }, true],
    [{ exclude_modules: "h\\..*" }, false],
    [{ exclude_modules: "h" }, true],
    [{ modules_to_save: ["h"] }, false],
    [{ modules_to_save: ["q"] }, false],
    [{ modules_to_save: ["x"] }, true],
  ])("leaving out %j", (options, expected) => {
    const config = parseLoraConfig({ target_modules: ["q"], ...options });
    expect(matchModules(config, ["h.1.q"])).toEqual(expected ? ["h.1.q"] : []);
  });
});

describe("loraTargets", () => {
  test("names, shapes and scale of a target", () => {
    const [first] = targets({ target_modules: ["v_proj"], r: 4, lora_alpha: 16 });
    expect(first).toEqual({
      module: "model.layers.0.self_attn.v_proj",
      weight: { name: "model.layers.0.self_attn.v_proj.weight", shape: [32, 64] },
      in: 64,
      out: 32,
      r: 4,
      scale: 4,
      a: "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight",
      b: "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight",
    });
  });

  test("weights stored [in, out] are turned round", () => {
    expect(targets({ target_modules: ["c_attn"] }, gpt2)[0]).toMatchObject({ in: 32, out: 96 });
    expect(targets({ target_modules: ["mlp.c_proj"] }, gpt2)[0]).toMatchObject({ in: 128, out: 32 });
  });

  test("without target_modules, the family's default", () => {
    const attention = ["q_proj", "v_proj"].map((name) => `model.layers.0.self_attn.${name}`);
    expect(modules({}).slice(0, 2)).toEqual(attention);
    expect(modules({}, gpt2)).toEqual(["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]);
    const unknown = { ...llama, model_type: "other" };
    expect(() => targets({}, unknown)).toThrow(
      /target_modules is missing and other has no default; choose among q_proj, /,
    );
  });

  test("all-linear is every linear layer but the head", () => {
    const names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    const chosen = modules({ target_modules: "ALL-linear" });
    expect(new Set(chosen.map((module) => module.split(".").at(-1)))).toEqual(new Set(names));
    expect(chosen).toHaveLength(2 * names.length);
    expect(modules({ target_modules: "all-linear" }, gpt2)).toHaveLength(2 * 4);
  });

  test("a pattern, single layers, the head by name", () => {
    expect(modules({ target_modules: String.raw`.*\.1\.mlp\.(up|down)_proj` })).toEqual(
      expect.arrayContaining(["model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"]),
    );
    expect(modules({ target_modules: ["o_proj"], layers_to_transform: 1 })).toEqual([
      "model.layers.1.self_attn.o_proj",
    ]);
    expect(modules({ target_modules: ["lm_head"] })).toEqual(["lm_head"]);
  });

  test("ranks and alphas by pattern; the first that fits the end of a path counts", () => {
    const [q0, v0, q1, v1] = targets({
      r: 8,
      lora_alpha: 16,
      rank_pattern: { "layers.1.self_attn.q_proj": 2, q_proj: 4, "^model.layers.0.self_attn.v_proj": 32 },
      alpha_pattern: { ".*\\.0\\..*": 64, _proj: 1 },
    });
    expect([q0, v0, q1, v1].map((target) => [target!.r, target!.scale])).toEqual([
      [4, 16],
      [32, 2],
      [2, 8],
      [8, 2],
    ]);
  });

  test("rank-stabilised scale", () => {
    expect(targets({ r: 16, lora_alpha: 8, use_rslora: true })[0]!.scale).toBe(2);
  });

  test.each<[Record<string, unknown>, typeof ConfigError | typeof UnsupportedError, RegExp]>([
    [
      { target_modules: ["query"] },
      ConfigError,
      /\["query"\] chooses no module of the 2-layer llama; choose among q_proj, k_proj, .*"all-linear"/,
    ],
    [{ target_modules: [] }, ConfigError, /chooses no module/],
    [{ exclude_modules: ["q_proj", "v_proj"] }, ConfigError, /chooses no module/],
    [
      { target_modules: ["embed_tokens"] },
      UnsupportedError,
      /model.embed_tokens, which is not a linear layer/,
    ],
    [
      { target_modules: ["q_proj", "input_layernorm"] },
      UnsupportedError,
      /input_layernorm, which is not a linear layer/,
    ],
    [
      { target_modules: ["self_attn"] },
      UnsupportedError,
      /model.layers.0.self_attn, which is not a linear layer/,
    ],
    [{ target_modules: "(" }, ConfigError, /target_modules: the pattern "\(" is not a regular expression/],
    [{ rank_pattern: { "[": 2 } }, ConfigError, /rank_pattern: the pattern/],
  ])("refuses %j", (options, kind, message) => {
    expect(() => targets(options)).toThrow(kind);
    expect(() => targets(options)).toThrow(message);
  });
});

describe("savedWeights", () => {
  const saved = (modules_to_save: string[] | null, spec = llama) =>
    savedWeights(parseLoraConfig({ modules_to_save }), spec).map(({ name }) => name);

  test("the parameters of modules whose paths end so, once each, in the order of the model", () => {
    expect(saved(null)).toEqual([]);
    expect(saved(["lm_head", "embed_tokens", "model.embed_tokens"])).toEqual([
      "model.embed_tokens.weight",
      "lm_head.weight",
    ]);
    expect(saved(["1.mlp"]).map((name) => name.split(".").at(-2))).toEqual([
      "gate_proj",
      "up_proj",
      "down_proj",
    ]);
    expect(saved(["h.0.ln_1"], gpt2)).toEqual(["transformer.h.0.ln_1.weight", "transformer.h.0.ln_1.bias"]);
  });

  test("a name that no path ends with is refused", () => {
    expect(() => saved(["score"])).toThrow(/modules_to_save: no module's path ends with "score"/);
  });
});
