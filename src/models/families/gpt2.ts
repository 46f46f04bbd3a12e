// GPT-2 (Radford et al. 2019): learned positions, layer norm, fused q-k-v, weights stored [in, out].
import { joinNotes } from "../../base/notes.ts";
import { readActivation } from "../blocks/activations.ts";
import { fusedAttention, linear } from "../blocks/attention.ts";
import { layerNorm, plainMlp } from "../blocks/mlp.ts";
import { MAX_HEAD_DIM, MAX_LAYERS, type RawConfig } from "../config.ts";
import { learnedPositions, unnamedWindows, withinWindows } from "../positions.ts";
import type { Family, Stage, WeightSpec } from "../spec.ts";

const none: Record<string, string> = {};

/** Newer names of keys. Where a file has both, the newer one counts, as in transformers. */
const NEWER = {
  n_embd: "hidden_size",
  n_positions: "max_position_embeddings",
  n_head: "num_attention_heads",
  n_layer: "num_hidden_layers",
} as const;

/** The name of a size in this file, with a note where it has both and they differ. */
function nameOf(config: RawConfig, key: keyof typeof NEWER, notes: string[]): string {
  const newer = NEWER[key];
  if (!config.names(newer)) return key;
  if (config.names(key) && config.raw(key) !== config.raw(newer))
    notes.push(`${config.where}: ${newer} counts, ${key} beside it is not used`);
  return newer;
}

export const gpt2: Family = {
  model_type: "gpt2",
  spec: (config) => {
    const notes: string[] = [];
    const hidden = config.dimension(nameOf(config, "n_embd", notes), 768);
    const heads = config.dimension(nameOf(config, "n_head", notes), 12);
    if (hidden % heads !== 0) config.fail("n_head", `${heads} does not divide ${hidden}`);
    const headDim = hidden / heads;
    if (headDim > MAX_HEAD_DIM) config.fail("n_embd", `${hidden} is too large for ${heads} heads`);
    const layers = config.dimension(nameOf(config, "n_layer", notes), 12, MAX_LAYERS);
    const vocab = config.dimension("vocab_size", 50_257);
    const rows = config.dimension(nameOf(config, "n_positions", notes), 1024);
    const positions = withinWindows(learnedPositions(rows), config, layers, unnamedWindows(config));
    const inner = config.has("n_inner") ? config.size("n_inner") : 4 * hidden;
    const eps = config.positive("layer_norm_epsilon", 1e-5);
    const activation = readActivation(config, "activation_function", "gelu_new");
    const scale = config.boolean("scale_attn_weights", true) ? 1 / Math.sqrt(headDim) : 1;
    const byLayer = config.boolean("scale_attn_by_inverse_layer_idx", false);
    const conv1d = (at: string, input: number, out: number, key: string): Record<string, WeightSpec> => ({
      [key]: { name: `${at}.weight`, shape: [input, out], transposed: true },
      [`${key}_bias`]: { name: `${at}.bias`, shape: [out] },
    });
    const norm = (at: string): Record<string, WeightSpec> => ({
      norm: { name: `${at}.weight`, shape: [hidden] },
      norm_bias: { name: `${at}.bias`, shape: [hidden] },
    });
    const table: WeightSpec = { name: "transformer.wte.weight", shape: [vocab, hidden] };
    const stages: Stage[] = [
      {
        name: "transformer.wte",
        kind: "embed",
        weights: {
          tokens: { ...table, rows: "tokens" },
          positions: { name: "transformer.wpe.weight", shape: [rows, hidden], rows: "positions" },
        },
        build: (g, _x, w) => g.add(w.tokens!, w.positions!),
      },
    ];
    for (let layer = 0; layer < layers; layer++) {
      const at = `transformer.h.${layer}`;
      stages.push(
        {
          name: `${at}.attn`,
          kind: "attention",
          layer,
          weights: {
            ...norm(`${at}.ln_1`),
            ...conv1d(`${at}.attn.c_attn`, hidden, 3 * hidden, "qkv"),
            ...conv1d(`${at}.attn.c_proj`, hidden, hidden, "o"),
          },
          build: (g, x, w, ctx) =>
            g.add(
              fusedAttention(
                g,
                layerNorm(g, x!, w.norm!, w.norm_bias!, eps),
                w,
                ctx,
                layer,
                { heads, kvHeads: heads, headDim },
                byLayer ? scale / (layer + 1) : scale,
              ),
              x!,
            ),
        },
        {
          name: `${at}.mlp`,
          kind: "mlp",
          weights: {
            ...norm(`${at}.ln_2`),
            ...conv1d(`${at}.mlp.c_fc`, hidden, inner, "up"),
            ...conv1d(`${at}.mlp.c_proj`, inner, hidden, "down"),
          },
          build: (g, x, w) =>
            g.add(plainMlp(g, layerNorm(g, x!, w.norm!, w.norm_bias!, eps), w, activation), x!),
        },
      );
    }
    stages.push({
      name: "lm_head",
      kind: "head",
      weights: {
        ...norm("transformer.ln_f"),
        head: { name: "lm_head.weight", shape: [vocab, hidden] },
      },
      build: (g, x, w) => linear(g, w.head!, layerNorm(g, x!, w.norm!, w.norm_bias!, eps)),
    });
    return {
      model_type: "gpt2",
      vocab_size: vocab,
      hidden_size: hidden,
      num_layers: layers,
      num_heads: heads,
      num_kv_heads: heads,
      head_dim: headDim,
      max_positions: positions.usual,
      positions,
      stages,
      prefix: "transformer",
      tied: config.boolean("tie_word_embeddings", true) ? { "lm_head.weight": table.name } : none,
      ignored: [/\.attn\.(masked_)?bias$/],
      notes: joinNotes(notes, positions.notes),
    };
  },
};
