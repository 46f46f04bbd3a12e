// The tensors of a family's checkpoint, as the Hub names and shapes them, derived from a config for making test data.
// The loader's own idea of a family lives in models/; this one is independent of it, so that each can catch the other.
import { ConfigError } from "../../base/errors.ts";

export type SyntheticFamily = "gpt2" | "llama" | "qwen2";

/** How a tensor's random values are drawn. */
export type Init =
  | { readonly kind: "weight"; readonly fanIn: number } // mean 0, variance 1 / fanIn
  | { readonly kind: "norm" } // near 1
  | { readonly kind: "bias" }; // near 0

export interface SyntheticTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly init: Init;
}

/** A config.json in the making. */
export type Config = Readonly<Record<string, unknown>>;

export interface FamilyRow {
  /** A tiny but complete config of the family. */
  readonly config: Config;
  /** The config key that holds the number of layers. */
  readonly layersKey: string;
  /** The config key that holds the most tokens a sequence may have. */
  readonly positionsKey: string;
  tensors(config: Config): Generator<SyntheticTensor>;
}

export const SYNTHETIC_FAMILIES: Readonly<Record<SyntheticFamily, FamilyRow>> = {
  gpt2: {
    config: {
      activation_function: "gelu_new",
      architectures: ["GPT2LMHeadModel"],
      attn_pdrop: 0.1,
      bos_token_id: 256,
      embd_pdrop: 0.1,
      eos_token_id: 256,
      initializer_range: 0.02,
      layer_norm_epsilon: 1e-5,
      model_type: "gpt2",
      n_embd: 64,
      n_head: 4,
      n_inner: null,
      n_layer: 3,
      n_positions: 256,
      reorder_and_upcast_attn: false,
      resid_pdrop: 0.1,
      scale_attn_by_inverse_layer_idx: false,
      scale_attn_weights: true,
      tie_word_embeddings: true,
      use_cache: true,
      vocab_size: 512,
    },
    layersKey: "n_layer",
    positionsKey: "n_positions",
    tensors: gpt2Tensors,
  },
  llama: {
    config: {
      architectures: ["LlamaForCausalLM"],
      attention_bias: false,
      attention_dropout: 0,
      bos_token_id: 256,
      eos_token_id: 256,
      hidden_act: "silu",
      hidden_size: 64,
      initializer_range: 0.02,
      intermediate_size: 160,
      max_position_embeddings: 256,
      mlp_bias: false,
      model_type: "llama",
      num_attention_heads: 4,
      num_hidden_layers: 3,
      num_key_value_heads: 2,
      rms_norm_eps: 1e-5,
      rope_scaling: null,
      rope_theta: 10000,
      tie_word_embeddings: false,
      use_cache: true,
      vocab_size: 512,
    },
    layersKey: "num_hidden_layers",
    positionsKey: "max_position_embeddings",
    tensors: (config) =>
      llamaTensors(config, { qkv: flag(config, "attention_bias"), o: flag(config, "attention_bias") }),
  },
  qwen2: {
    config: {
      architectures: ["Qwen2ForCausalLM"],
      attention_dropout: 0,
      bos_token_id: 256,
      eos_token_id: 256,
      hidden_act: "silu",
      hidden_size: 64,
      initializer_range: 0.02,
      intermediate_size: 160,
      max_position_embeddings: 256,
      max_window_layers: 28,
      model_type: "qwen2",
      num_attention_heads: 4,
      num_hidden_layers: 3,
      num_key_value_heads: 2,
      rms_norm_eps: 1e-6,
      rope_scaling: null,
      rope_theta: 10000,
      sliding_window: null,
      tie_word_embeddings: true,
      use_cache: true,
      use_sliding_window: false,
      vocab_size: 512,
    },
    layersKey: "num_hidden_layers",
    positionsKey: "max_position_embeddings",
    tensors: (config) => llamaTensors(config, { qkv: true, o: false }),
  },
};

function* gpt2Tensors(config: Config): Generator<SyntheticTensor> {
  const hidden = sizeIn(config, "n_embd");
  const inner = config.n_inner == null ? 4 * hidden : sizeIn(config, "n_inner");
  const vocab = sizeIn(config, "vocab_size");
  multiple(config, "n_embd", "n_head");
  yield weight("transformer.wte.weight", [vocab, hidden], hidden);
  yield weight("transformer.wpe.weight", [sizeIn(config, "n_positions"), hidden], hidden);
  for (let layer = 0; layer < sizeIn(config, "n_layer"); layer++) {
    const at = `transformer.h.${layer}`;
    yield* layerNorm(`${at}.ln_1`, hidden);
    yield* conv1d(`${at}.attn.c_attn`, hidden, 3 * hidden);
    yield* conv1d(`${at}.attn.c_proj`, hidden, hidden);
    yield* layerNorm(`${at}.ln_2`, hidden);
    yield* conv1d(`${at}.mlp.c_fc`, hidden, inner);
    yield* conv1d(`${at}.mlp.c_proj`, inner, hidden);
  }
  yield* layerNorm("transformer.ln_f", hidden);
  if (!flag(config, "tie_word_embeddings")) yield weight("lm_head.weight", [vocab, hidden], hidden);
}

function* llamaTensors(config: Config, bias: { qkv: boolean; o: boolean }): Generator<SyntheticTensor> {
  const hidden = sizeIn(config, "hidden_size");
  const inner = sizeIn(config, "intermediate_size");
  const vocab = sizeIn(config, "vocab_size");
  const heads = sizeIn(config, "num_attention_heads");
  multiple(config, "num_attention_heads", "num_key_value_heads");
  if (config.head_dim == null) multiple(config, "hidden_size", "num_attention_heads");
  const headDim = config.head_dim == null ? hidden / heads : sizeIn(config, "head_dim");
  const kv = headDim * sizeIn(config, "num_key_value_heads");
  const mlpBias = flag(config, "mlp_bias");
  yield weight("model.embed_tokens.weight", [vocab, hidden], hidden);
  for (let layer = 0; layer < sizeIn(config, "num_hidden_layers"); layer++) {
    const at = `model.layers.${layer}`;
    yield norm(`${at}.input_layernorm.weight`, hidden);
    yield* linear(`${at}.self_attn.q_proj`, hidden, headDim * heads, bias.qkv);
    yield* linear(`${at}.self_attn.k_proj`, hidden, kv, bias.qkv);
    yield* linear(`${at}.self_attn.v_proj`, hidden, kv, bias.qkv);
    yield* linear(`${at}.self_attn.o_proj`, headDim * heads, hidden, bias.o);
    yield norm(`${at}.post_attention_layernorm.weight`, hidden);
    yield* linear(`${at}.mlp.gate_proj`, hidden, inner, mlpBias);
    yield* linear(`${at}.mlp.up_proj`, hidden, inner, mlpBias);
    yield* linear(`${at}.mlp.down_proj`, inner, hidden, mlpBias);
  }
  yield norm("model.norm.weight", hidden);
  if (!flag(config, "tie_word_embeddings")) yield weight("lm_head.weight", [vocab, hidden], hidden);
}

function weight(name: string, shape: readonly number[], fanIn: number): SyntheticTensor {
  return { name, shape, init: { kind: "weight", fanIn } };
}

function norm(name: string, width: number): SyntheticTensor {
  return { name, shape: [width], init: { kind: "norm" } };
}

function* layerNorm(name: string, width: number): Generator<SyntheticTensor> {
  yield norm(`${name}.weight`, width);
  yield { name: `${name}.bias`, shape: [width], init: { kind: "bias" } };
}

/** torch.nn.Linear: [out, in] */
function* linear(name: string, from: number, to: number, bias: boolean): Generator<SyntheticTensor> {
  yield weight(`${name}.weight`, [to, from], from);
  if (bias) yield { name: `${name}.bias`, shape: [to], init: { kind: "bias" } };
}

/** GPT-2's own linear layer: [in, out] */
function* conv1d(name: string, from: number, to: number): Generator<SyntheticTensor> {
  yield weight(`${name}.weight`, [from, to], from);
  yield { name: `${name}.bias`, shape: [to], init: { kind: "bias" } };
}

/** The natural number above 0 that `config` has under `key`. Throws ConfigError. */
export function sizeIn(config: Config, key: string): number {
  const value = config[key];
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 1) {
    throw new ConfigError(
      `${key} is ${typeof value === "number" ? value : JSON.stringify(value)}, it must be a whole number above 0`,
    );
  }
  return value;
}

function flag(config: Config, key: string): boolean {
  const value = config[key] ?? false;
  if (typeof value !== "boolean") {
    throw new ConfigError(`${key} is ${JSON.stringify(value)}, it must be true or false`);
  }
  return value;
}

function multiple(config: Config, key: string, of: string): void {
  if (sizeIn(config, key) % sizeIn(config, of) !== 0) {
    throw new ConfigError(`${key} is ${config[key]}, it must be a multiple of ${of}, which is ${config[of]}`);
  }
}
