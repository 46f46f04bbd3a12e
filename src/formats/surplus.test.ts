// Which names of tensors may be passed over in a llama of two layers, in a gpt2 and in one without its prefix.
import { describe, expect, test } from "vitest";
import { ModelModules, originOf } from "./surplus.ts";

const LLAMA = new ModelModules(
  [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.1.mlp.up_proj.weight",
    "model.norm.weight",
    "lm_head.weight",
  ],
  "model",
);

describe("passed over", () => {
  test.each([
    "v_head.summary.weight",
    "score.weight",
    "classifier.dense.weight",
    "mtp.norm.weight",
    "model.mtp.layers.0.input_layernorm.weight",
    "model.layers.2.input_layernorm.weight",
    "model.layers.10.self_attn.q_proj.weight", // not a layer "1"
    "model.vision_tower.embed.weight",
    "lm_head_2.weight",
    "model.layers.0.self_attn.k_scale",
    "model.layers.1.self_attn.v_proj.output_scale",
    "layers.0.self_attn.rotary_emb.cos_cached",
    "model.layers.0.mlp._extra_state",
    "marker",
  ])("%s", (name) => {
    expect(LLAMA.mayPassOver(name, [2])).toBe(true);
  });
});

describe("refused", () => {
  test.each([
    "model.layers.0.self_attn.q_proj.bias",
    "model.layers.1.self_attn.q_norm.weight",
    "layers.1.self_attn.q_norm.weight", // the model's prefix or not
    "model.layers.0.mlp.experts.0.w1.weight",
    "model.layers.0.layer_scale",
    "model.layers.1.mlp.up_proj.weight_scale",
    "model.layers.0.self_attn.sinks",
    "model.norm.bias",
    "model.embed_tokens.weight_scale",
    "lm_head.bias",
    "lm_head.weight.absmax",
    "model.embed_norm.weight",
    "embed_positions.weight",
    "model.project_in.weight",
  ])("%s", (name) => {
    expect(LLAMA.mayPassOver(name, [2])).toBe(false);
  });
});

test("what has no elements has no effect", () => {
  expect(LLAMA.mayPassOver("model.layers.0.anything", [0, 5])).toBe(true);
  expect(LLAMA.mayPassOver("model.layers.0.anything", [])).toBe(false); // a scalar
});

test.each([
  ["model.layers.0.self_attn.q_proj.lora_A.weight", /adapter that was not merged/],
  ["model.layers.0.self_attn.q_proj.base_layer.weight", /adapter that was not merged/],
  ["model.layers.0.self_attn.q_proj.qweight", /quantized/],
  ["model.layers.0.self_attn.q_proj.weight.absmax", /quantized/],
  ["model.layers.0.self_attn.q_proj.weight_scale_inv", /quantized/],
  ["model.layers.0.self_attn.q_proj.bias", /no such biases/],
])("%s says how its file was made", (name, origin) => {
  expect(originOf(name)).toMatch(origin);
});

test("other names say nothing", () => {
  expect(originOf("model.layers.0.self_attn.q_norm.weight")).toBeUndefined();
});
