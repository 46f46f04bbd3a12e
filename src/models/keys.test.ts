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
  ])("%j", (change, message) => {
    expect(() => notes(change)).toThrow(message);
    expect(() => notes(change)).toThrow(UnsupportedError);
  });

  test("rotary settings of a model without rotation", () => {
    expect(() => notes({ rope_scaling: { type: "linear", factor: 2 } }, "gpt2")).toThrow(
      /which gpt2 does not have/,
    );
  });
});
