// Which keys of config.json are without effect, named in a note, and refused.
import { describe, expect, test } from "vitest";
import { UnsupportedError } from "../base/errors.ts";
import { SYNTHETIC_FAMILIES } from "../formats/synthetic/families.ts";
import { modelSpec } from "./families.ts";

const notes = (change: object, family: "llama" | "qwen2" | "gpt2" = "llama") =>
  modelSpec({ ...SYNTHETIC_FAMILIES[family].config, ...change }).notes;

test.each<[object]>([
  [
    {
      transformers_version: "4.31.0",
      torch_dtype: "float16",
      architectures: ["LlamaModel"],
      _name_or_path: "x",
    },
  ],
  [
    {
      pretraining_tp: 4,
      attention_dropout: 0.1,
      use_cache: false,
      is_decoder: false,
      output_attentions: true,
    },
  ],
  [{ max_length: 20, temperature: 0.7, num_beams: 4, image_token_id: 5, bos_token_id: 1, pad_token_id: -1 }],
  [
    {
      unsloth_fixed: true,
      "transformers.js_config": { dtype: "q4" },
      unsloth_version: "2025.1",
      id2label: { a: "b" },
    },
  ],
  [
    {
      is_causal: true,
      add_cross_attention: false,
      quantization_config: null,
      text_config: {},
      num_kv_shared_layers: 0,
    },
  ],
  [
    {
      attn_logit_softcapping: null,
      embedding_multiplier: 1.0,
      num_experts: 0,
      use_qk_norm: false,
      rope_interleaved: false,
    },
  ],
  [{ n_layer: null, foo: false }],
])("%j is without effect", (change) => {
  expect(notes(change)).toEqual([]);
});

test("what nobody knows is named once, as text that a terminal does not obey", () => {
  expect(notes({ foo: 1, bar: { a: 1 } })).toEqual([
    "config.json: foo and bar are not keys of llama and not used",
  ]);
  expect(notes({ foo: "x" })).toEqual(["config.json: foo is not a key of llama and not used"]);
  expect(notes({ a1: 2, b1: 2, c1: 2, d1: 2, e1: 2 })[0]).toContain("a1, b1, c1 and 2 more are not keys");
  expect(notes({ "\u001b[31mred": 2 })[0]).toContain("\\u001b[31mred");
});

test("code of the checkpoint's own is never run, and that is said", () => {
  expect(notes({ auto_map: { AutoModelForCausalLM: "modeling.Own" } })).toEqual([
    "config.json: auto_map names code of the checkpoint, which is never run; read as llama",
  ]);
});

describe("what changes the arithmetic is refused by name", () => {
  test.each<[object, RegExp]>([
    [{ is_causal: false }, /is_causal is false: attention to later tokens is not supported/],
    [{ is_encoder_decoder: true }, /is_encoder_decoder is true: models with an encoder/],
    [{ add_cross_attention: true }, /add_cross_attention is true/],
    [
      { per_layer_config: { 0: { num_key_value_heads: 1 } } },
      /per_layer_config is {"0": {"num_key_value_heads": 1}}/,
    ],
    [{ num_kv_shared_layers: 2 }, /num_kv_shared_layers is 2/],
    [
      { quantization_config: { quant_method: "gptq" } },
      /quantization_config is {"quant_method": "gptq"}: quantized weights are not read/,
    ],
    [{ text_config: { hidden_size: 4 } }, /text_config is/],
    [{ transformers_weights: "other.safetensors" }, /name the file of weights model.safetensors/],
    [{ attn_logit_softcapping: 50 }, /attn_logit_softcapping is 50, which llama does not have/],
    [{ final_logit_softcapping: 30 }, /final_logit_softcapping/],
    [{ residual_multiplier: 0.22 }, /residual_multiplier is 0.22/],
    [{ logits_scaling: 8 }, /logits_scaling is 8/],
    [{ logit_scale: 0.0625 }, /logit_scale/],
    [{ use_qk_norm: true }, /use_qk_norm is true/],
    [{ num_local_experts: 8 }, /num_local_experts is 8/],
    [{ alibi: true }, /alibi is true/],
    [{ clip_qkv: 8 }, /clip_qkv/],
    [{ rope_interleaved: true }, /rope_interleaved is true/],
    [{ no_rope_layers: [0] }, /no_rope_layers/],
    [{ rotary_dim: 8 }, /rotary_dim is 8/],
    [{ scale_emb: 12 }, /scale_emb is 12/],
    [{ quantization: { bits: 4, group_size: 64 } }, /quantization is .*: quantized weights are not read/],
    [{ qkv_bias: true }, /qkv_bias is true/],
    [{ lm_head_bias: true }, /lm_head_bias/],
    [{ use_post_norm: true }, /use_post_norm/],
    [{ do_layer_norm_before: true }, /do_layer_norm_before/],
    [{ v_head_dim: 128 }, /v_head_dim/],
    [{ o_lora_rank: 1024 }, /o_lora_rank/],
    [{ routed_scaling_factor: 2.5 }, /routed_scaling_factor/],
    [{ first_k_dense_replace: 3 }, /first_k_dense_replace/],
    [{ attn_temperature_tuning: true }, /attn_temperature_tuning/],
    [{ mlp_alpha_factor: 3.5 }, /mlp_alpha_factor/],
    [{ attention_value_scale: 0.7 }, /attention_value_scale/],
    [{ dim_model_base: 256 }, /dim_model_base/],
    [{ swiglu_limit: 7 }, /swiglu_limit/],
    [{ global_attn_every_n_layers: 4 }, /global_attn_every_n_layers/],
    [{ layers_block_type: ["attention", "mamba"] }, /layers_block_type/],
    [{ num_attention_heads_per_layer: [4, 2] }, /num_attention_heads_per_layer/],
    [{ index_topk: 2048 }, /index_topk/],
    [{ hc_mult: 4 }, /hc_mult/],
    [{ ngram_vocab_size_base: 1000 }, /ngram_vocab_size_base/],
    [{ relative_attention_num_buckets: 32 }, /relative_attention_num_buckets/],
    [{ prefix_lm: true }, /prefix_lm/],
    [{ mlp_hidden_act: "relu2" }, /mlp_hidden_act/],
    [{ activation_function: "gelu_new" }, /activation_function/],
  ])("%j", (change, message) => {
    expect(() => notes(change)).toThrow(message);
    expect(() => notes(change)).toThrow(UnsupportedError);
  });

  test("another name of epsilon where the family's own is not named; beside it, it is only said", () => {
    const { rms_norm_eps: _, ...without } = SYNTHETIC_FAMILIES.llama.config as Record<string, unknown>;
    for (const key of ["layer_norm_eps", "norm_eps", "norm_epsilon", "eps"]) {
      expect(() => modelSpec({ ...without, [key]: 1e-5 })).toThrow(
        `${key} is 0.00001, which llama does not have`,
      );
      expect(modelSpec({ ...without, rms_norm_eps: 1e-5, [key]: 1e-5 }).notes).toEqual([
        `config.json: ${key} is not a key of llama and not used`,
      ]);
    }
  });

  test("biases that a family has always, and none where it has none", () => {
    expect(notes({ attention_bias: true }, "qwen2")).toEqual([]);
    expect(() => notes({ mlp_bias: true }, "qwen2")).toThrow(/mlp_bias is true, which qwen2 does not have/);
  });

  test("rotary settings of a model without rotation", () => {
    expect(() => notes({ rope_scaling: { type: "linear", factor: 2 } }, "gpt2")).toThrow(
      /which gpt2 does not have/,
    );
  });
});
