// GPT-2 (Radford et al. 2019): learned positions, layer norm, fused q-k-v, weights stored [in, out].
import { UnsupportedError } from "../errors.ts";
import { fusedAttention, linear } from "./blocks/attention.ts";
import { geluErf, geluTanh, layerNorm, plainMlp } from "./blocks/mlp.ts";
import { MAX_LAYERS } from "./config.ts";
import type { Family, Stage, WeightSpec } from "./spec.ts";

const none: Record<string, string> = {};
const ACTIVATIONS = { gelu_new: geluTanh, gelu_pytorch_tanh: geluTanh, gelu: geluErf } as const;

export const gpt2: Family = {
  model_type: "gpt2",
  spec: (config) => {
    const hidden = config.size("n_embd");
    const heads = config.size("n_head");
    if (hidden % heads !== 0) config.fail("n_head", `${heads} does not divide ${hidden}`);
    const headDim = hidden / heads;
    const layers = config.size("n_layer", undefined, MAX_LAYERS);
    const vocab = config.size("vocab_size");
    const maxPositions = config.size("n_positions", 1024);
    const inner = config.size("n_inner", 4 * hidden);
    const eps = config.positive("layer_norm_epsilon", 1e-5);
    const name = config.string("activation_function", "gelu_new");
    const activation = Object.hasOwn(ACTIVATIONS, name) && ACTIVATIONS[name as keyof typeof ACTIVATIONS];
    if (!activation) {
      throw new UnsupportedError(
        `config.json: activation_function "${name}"; supported: ${Object.keys(ACTIVATIONS).join(", ")}`,
      );
    }
    for (const [key, supported] of [
      ["scale_attn_weights", true],
      ["scale_attn_by_inverse_layer_idx", false],
    ] as const) {
      if (config.boolean(key, supported) !== supported) {
        throw new UnsupportedError(`config.json: ${key} is ${!supported}; supported: ${supported}`);
      }
    }
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
          positions: { name: "transformer.wpe.weight", shape: [maxPositions, hidden], rows: "positions" },
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
              fusedAttention(g, layerNorm(g, x!, w.norm!, w.norm_bias!, eps), w, ctx, layer, {
                heads,
                kvHeads: heads,
                headDim,
              }),
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
      max_positions: maxPositions,
      stages,
      prefix: "transformer",
      tied: config.boolean("tie_word_embeddings", true) ? { "lm_head.weight": table.name } : none,
      ignored: [/\.attn\.(masked_)?bias$/],
    };
  },
};
