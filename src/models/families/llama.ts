// Llama (Touvron et al. 2023): RMS norm, grouped-query attention with rotary positions, gated MLP.
import { joinNotes } from "../../base/notes.ts";
import { readActivation } from "../blocks/activations.ts";
import { groupedQueryAttention, linear } from "../blocks/attention.ts";
import { gatedMlp, rmsNorm } from "../blocks/mlp.ts";
import { rope as ropeOf } from "../blocks/rope.ts";
import { MAX_HEAD_DIM, MAX_LAYERS, type RawConfig } from "../config.ts";
import { rotaryPositions, unnamedWindows, type Windows, withinWindows } from "../positions.ts";
import { readRopeConfig } from "../rope-config.ts";
import type { Family, ModelSpec, Stage, WeightSpec } from "../spec.ts";

/** What families built on Llama's plan say differently. */
export interface LlamaVariant {
  readonly model_type: string;
  /** The class's own values where the config names none; as many heads for k and v as for q where undefined. */
  readonly defaults: Readonly<{
    vocab_size: number;
    hidden_size: number;
    intermediate_size: number;
    num_hidden_layers: number;
    num_attention_heads: number;
    num_key_value_heads: number | undefined;
    max_position_embeddings: number;
  }>;
  /** Biases on q, k, v and o projections. */
  readonly attentionBias: (config: RawConfig) => { qkv: boolean; o: boolean };
  readonly mlpBias: (config: RawConfig) => boolean;
  readonly windows: (config: RawConfig) => Windows;
}

/** The stages of a decoder on Llama's plan. */
export function llamaSpec(config: RawConfig, variant: LlamaVariant): Omit<ModelSpec, "defaulted"> {
  const { defaults } = variant;
  const hidden = config.dimension("hidden_size", defaults.hidden_size);
  const heads = config.dimension("num_attention_heads", defaults.num_attention_heads);
  const sameHeads = config.names("num_key_value_heads")
    ? !config.has("num_key_value_heads")
    : defaults.num_key_value_heads === undefined;
  const kvHeads = sameHeads
    ? heads
    : config.dimension("num_key_value_heads", defaults.num_key_value_heads as number);
  if (heads % kvHeads !== 0) config.fail("num_key_value_heads", `${kvHeads} does not divide ${heads} heads`);
  if (!config.has("head_dim") && hidden % heads !== 0)
    config.fail("num_attention_heads", `${heads} does not divide ${hidden}`);
  const headDim = config.has("head_dim") ? config.size("head_dim", undefined, MAX_HEAD_DIM) : hidden / heads;
  if (headDim > MAX_HEAD_DIM) config.fail("hidden_size", `${hidden} is too large for ${heads} heads`);
  const intermediate = config.dimension("intermediate_size", defaults.intermediate_size);
  const layers = config.dimension("num_hidden_layers", defaults.num_hidden_layers, MAX_LAYERS);
  const vocab = config.dimension("vocab_size", defaults.vocab_size);
  const maxPositions = config.size("max_position_embeddings", defaults.max_position_embeddings);
  const eps = config.positive("rms_norm_eps", 1e-6);
  const activation = readActivation(config, "hidden_act", "silu");
  const ropeConfig = readRopeConfig(config, maxPositions);
  const rope = ropeOf(ropeConfig, headDim);
  const windows = variant.windows(config);
  const positions = withinWindows(rotaryPositions(ropeConfig), config, layers, windows);
  const bias = variant.attentionBias(config);
  const mlpBias = variant.mlpBias(config);
  const shape = { heads, kvHeads, headDim };

  const dense = (name: string, out: number, input: number, key: string, withBias: boolean) => ({
    [key]: { name: `${name}.weight`, shape: [out, input] },
    ...(withBias && { [`${key}_bias`]: { name: `${name}.bias`, shape: [out] } }),
  });
  const table: WeightSpec = { name: "model.embed_tokens.weight", shape: [vocab, hidden] };
  const stages: Stage[] = [
    {
      name: "model.embed_tokens",
      kind: "embed",
      weights: { tokens: { ...table, rows: "tokens" } },
      build: (_g, _x, w) => w.tokens!,
    },
  ];
  for (let layer = 0; layer < layers; layer++) {
    const at = `model.layers.${layer}`;
    stages.push(
      {
        name: `${at}.self_attn`,
        kind: "attention",
        layer,
        weights: {
          norm: { name: `${at}.input_layernorm.weight`, shape: [hidden] },
          ...dense(`${at}.self_attn.q_proj`, heads * headDim, hidden, "q", bias.qkv),
          ...dense(`${at}.self_attn.k_proj`, kvHeads * headDim, hidden, "k", bias.qkv),
          ...dense(`${at}.self_attn.v_proj`, kvHeads * headDim, hidden, "v", bias.qkv),
          ...dense(`${at}.self_attn.o_proj`, hidden, heads * headDim, "o", bias.o),
        },
        ...(rope.factors && { constants: { rope_factors: rope.factors } }),
        build: (g, x, w, ctx) =>
          g.add(groupedQueryAttention(g, rmsNorm(g, x!, w.norm!, eps), w, ctx, layer, shape, rope), x!),
      },
      {
        name: `${at}.mlp`,
        kind: "mlp",
        weights: {
          norm: { name: `${at}.post_attention_layernorm.weight`, shape: [hidden] },
          ...dense(`${at}.mlp.gate_proj`, intermediate, hidden, "gate", mlpBias),
          ...dense(`${at}.mlp.up_proj`, intermediate, hidden, "up", mlpBias),
          ...dense(`${at}.mlp.down_proj`, hidden, intermediate, "down", mlpBias),
        },
        build: (g, x, w) => g.add(gatedMlp(g, rmsNorm(g, x!, w.norm!, eps), w, activation), x!),
      },
    );
  }
  stages.push({
    name: "lm_head",
    kind: "head",
    weights: {
      norm: { name: "model.norm.weight", shape: [hidden] },
      head: { name: "lm_head.weight", shape: [vocab, hidden] },
    },
    build: (g, x, w) => linear(g, w.head!, rmsNorm(g, x!, w.norm!, eps)),
  });
  return {
    model_type: variant.model_type,
    vocab_size: vocab,
    hidden_size: hidden,
    num_layers: layers,
    num_heads: heads,
    num_kv_heads: kvHeads,
    head_dim: headDim,
    max_positions: positions.usual,
    positions,
    stages,
    prefix: "model",
    tied: config.boolean("tie_word_embeddings", false) ? { "lm_head.weight": table.name } : {},
    ignored: [/\.rotary_emb\.inv_freq$/],
    notes: joinNotes(ropeConfig.notes, positions.notes),
  };
}

export const llama: Family = {
  model_type: "llama",
  spec: (config) =>
    llamaSpec(config, {
      model_type: "llama",
      defaults: {
        vocab_size: 32_000,
        hidden_size: 4096,
        intermediate_size: 11_008,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: undefined,
        max_position_embeddings: 2048,
      },
      attentionBias: (c) => {
        const bias = c.boolean("attention_bias", false);
        return { qkv: bias, o: bias };
      },
      mlpBias: (c) => c.boolean("mlp_bias", false),
      windows: unnamedWindows,
    }),
};
