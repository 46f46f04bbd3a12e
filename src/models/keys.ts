// What becomes of the keys of a config.json: the one list of those known. A key that a family asks for is honoured; the
// rest is without effect, or changes what is computed and is refused, or is unknown and named once in a note.
//
// The rule for unknown keys: one that looks like a part of the forward pass (ARITHMETIC) and does not have a value that
// switches it off is an error, because a model trained with it would be computed wrongly without a word; transformers'
// own class of the family would do just that. Any other unknown key is named, and not used.

import { UnsupportedError } from "../base/errors.ts";
import { listed } from "../base/notes.ts";
import { printable, shown } from "../base/shown.ts";
import type { RawConfig } from "./config.ts";

const words = (text: string): string[] => text.trim().split(/\s+/);

/** Keys without effect on what a causal language model computes, whatever their value. */
const HARMLESS: ReadonlySet<string> = new Set([
  // about the file, the classes of transformers, and how they are run
  ...words(`architectures auto_map model_type transformers_version torch_dtype dtype name_or_path torchscript torch_script
    use_bfloat16 return_dict output_attentions output_hidden_states output_scores return_dict_in_generate use_cache
    gradient_checkpointing attn_implementation use_flash_attn use_flash_attention use_flash_attention_2 pretraining_tp
    tensor_parallel tp_plan chunk_size_feed_forward tie_encoder_decoder is_decoder is_llama_config cross_attention_hidden_size
    pruned_heads prune_heads problem_type num_labels id2label label2id finetuning_task task_specific_params
    tokenizer_class prefix language library_name license vocab_file mlp_only_layers revision tie_last_hidden_states
    multiple_of ffn_dim_multiplier`),
  // training: initial values, dropout, losses
  ...words(`initializer_range initializer_factor init_std init_method init_device attention_dropout hidden_dropout
    hidden_dropout_prob resid_pdrop embd_pdrop attn_pdrop residual_dropout embedding_dropout classifier_dropout
    router_aux_loss_coef output_router_logits use_cut_cross_entropy z_loss_coefficient tokenizer_padding_side pad_to_multiple_of
    num_nextn_predict_layers`),
  // generation: read from generation_config.json by transformers 5, or by nobody; ids of tokens are read by generate/
  ...words(`assistant_confidence_threshold assistant_lookbehind bad_words_ids begin_suppress_tokens diversity_penalty do_sample
    early_stopping encoder_no_repeat_ngram_size encoder_repetition_penalty epsilon_cutoff eta_cutoff
    exponential_decay_length_penalty length_penalty max_length min_length max_new_tokens no_repeat_ngram_size
    num_assistant_tokens num_assistant_tokens_schedule num_beam_groups num_beams num_return_sequences penalty_alpha
    remove_invalid_values repetition_penalty suppress_tokens target_lookbehind temperature top_k top_p typical_p
    keys_to_ignore_at_inference max_sequence_length model_max_length seq_length max_seq_len max_seq_length n_ctx`),
  // heads that the causal model does not have
  ...words(`summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj`),
  // how gpt2's attention is rounded in mixed precision; it is f32 here
  "reorder_and_upcast_attn",
  // read under some conditions only
  ...words(`sliding_window attention_chunk_size max_window_layers use_sliding_window layer_types`),
]);

/** Whole kinds of such keys: private ones, ids of tokens, and what programs leave behind about themselves. */
const HARMLESS_KINDS =
  /^_|_token_ids?$|^(unsloth|transformers[._]js|mlx|axolotl|onnx|openvino|neuron)|_version$/;

/** Keys that transformers' own classes honour and that are not supported, with the value that does no harm, and why. */
const REFUSED: Readonly<Record<string, { readonly fine: unknown; readonly why: string }>> = {
  is_causal: { fine: true, why: "attention to later tokens is not supported" },
  is_encoder_decoder: { fine: false, why: "models with an encoder are not supported" },
  add_cross_attention: { fine: false, why: "attention to an encoder is not supported" },
  per_layer_config: { fine: undefined, why: "layers of different sizes are not supported" },
  num_kv_shared_layers: { fine: 0, why: "layers that share keys and values are not supported" },
  fusion_config: { fine: undefined, why: "fused modules are not supported; save the model without them" },
  transformers_weights: { fine: "model.safetensors", why: "name the file of weights model.safetensors" },
  quantization_config: {
    fine: undefined,
    why: "quantized weights are not read; use the model's float32, float16 or bfloat16 checkpoint",
  },
  quantization: {
    fine: undefined,
    why: "quantized weights are not read; use the model's float32, float16 or bfloat16 checkpoint",
  },
  compression_config: {
    fine: undefined,
    why: "compressed weights are not read; use the model's float32, float16 or bfloat16 checkpoint",
  },
  text_config: {
    fine: undefined,
    why: "a text model inside another one is not read; save the text model on its own",
  },
};

/**
 * Keys that say how other architectures compute, by what they are about. Named here, they are an error unless their value
 * switches them off. Held against the config classes of transformers 5.18.
 */
const ARITHMETIC = new RegExp(
  [
    // caps and factors on scores, logits, embeddings and residuals
    "soft_?cap|logits?_cap|_multipliers?$|_mult$|logits?_scal|(^|_)mup|clip_qkv|qk_clip|query_pre_attn|dim_model_base",
    "(embedding|emb|embed|residual|attention|attn|query|layer)_scal|scal\\w*_(embed|attn|attention|depth|emb|input)",
    "_(alpha|beta)_factor$|_scale_factor$|value_scale$|log_scaling|temperature_tuning|swiglu_",
    // biases that no weight of these families has
    "(^|_)bias$",
    // norms elsewhere, or of another kind
    "qk_?(layer)?_?norm|layernorm_embedding|embed\\w*_norm|norm_type|normalization_type|(use|add)_(post|pre|out)_norm|norm_before$",
    "elementwise_affine|gated_norm|layernorm_1p|post_layernorm$",
    // positions
    "alibi|^rotary|^rope_|_rope|mrope|no_rope|use_rotary|position_embeddings?_type|relative_(attention|bias|position)|position_bias",
    "learned_pos",
    // attention of another kind, or in some layers only
    "attention_sink|(^|_)sinks?$|window|bidirectional|differential|cross_attention_layers|linear_attention|prefix_lm|multi_query",
    "attn_(every|layer|idxs|type)|full_attn|attention_type|layers?_block_types?|^block_types$|_heads_per_layer$|\\w_head_dim$",
    "\\w_lora_rank$|^index_|indexer|sparse_attention|compress_rat|attn_output_gate|^gating$|^linear_(key|value|num|attn)_",
    // experts, state spaces, several streams, tables of n-grams, other activations
    "expert|(^|_)moe(_|$)|rout(e|ed|er)_|topk|first_k_dense|num_dense_layers|mlp_layer_types|scoring_func|(^|_)ssm|mamba|lru_width",
    "time_step_|state_size$|conv1d|(^|_)hc_|ngram|per_layer_input|altup|laurel|parallel_(residual|attn|attention|block)",
    "hidden_activation|mlp_hidden_act|^activation(_function)?$|ff_activation|gelu_activation|is_gated_act|dense_act_fn",
  ].join("|"),
);

/** Other families' names of what is added to a variance: without the family's own key a default would be taken instead. */
const EPSILON = /(^|_)eps(ilon)?$/;
const OWN_EPSILONS = ["rms_norm_eps", "layer_norm_epsilon"];

/** Values of such keys that say what every family here does anyway. */
const AS_IT_IS: Readonly<Record<string, readonly unknown[]>> = {
  position_embedding_type: ["rope", "rotary", "absolute"],
  norm_type: ["rmsnorm", "rms_norm"],
  // qwen2 and gpt2 have them always; llama asks
  attention_bias: [true],
  no_bias: [true],
  activation_function: ["silu", "swish"],
  activation: ["silu", "swish"],
  use_rope: [true],
  rotary: [true],
};

/** Whether a value says nothing. */
function isEmpty(value: unknown): boolean {
  if (typeof value === "object" && value !== null) return Object.keys(value).length === 0;
  return value === null || value === undefined || value === false || value === "";
}

/** Whether a value switches a setting off, or multiplies by one. */
function isOff(value: unknown): boolean {
  return isEmpty(value) || value === 0 || value === 1 || value === "none";
}

/**
 * Judges what no family asked for, once its spec is made. Returns the notes.
 * Throws UnsupportedError for a key that changes what is computed.
 */
export function checkKeys(config: RawConfig, family: string): string[] {
  for (const [key, { fine, why }] of Object.entries(REFUSED)) {
    if (!config.has(key)) continue;
    const value = config.raw(key);
    if (value === fine || (typeof value === "object" && isEmpty(value))) continue;
    throw new UnsupportedError(`${config.where}: ${key} is ${shown(value)}: ${why}`);
  }
  const unknown: string[] = [];
  const unasked = config.unasked();
  const epsilonGiven = OWN_EPSILONS.some((key) => !unasked.includes(key) && config.has(key));
  const changes = (key: string) => ARITHMETIC.test(key) || (EPSILON.test(key) && !epsilonGiven);
  for (const key of unasked) {
    if (HARMLESS.has(key) || HARMLESS_KINDS.test(key)) continue;
    const value = config.raw(key);
    if (isEmpty(value) || (Object.hasOwn(AS_IT_IS, key) && AS_IT_IS[key]?.includes(value))) continue;
    if (changes(key) && isOff(value)) continue;
    if (changes(key)) {
      throw new UnsupportedError(
        `${config.where}: ${printable(key, 80)} is ${shown(value)}, which ${family} does not have: ` +
          "the model was made for other code; take the key out if its weights were not trained with it",
      );
    }
    unknown.push(printable(key, 80));
  }
  const notes: string[] = [];
  if (config.has("auto_map")) {
    notes.push(
      `${config.where}: auto_map names code of the checkpoint, which is never run; read as ${family}`,
    );
  }
  if (unknown.length > 0) {
    const verb = unknown.length === 1 ? "is not a key" : "are not keys";
    notes.push(`${config.where}: ${listed(unknown)} ${verb} of ${family} and not used`);
  }
  return notes;
}
