// Qwen2 and Qwen2.5 (Yang et al. 2024): Llama's plan with biases on q, k and v, and windows on the upper layers.

import type { Family } from "../spec.ts";
import { llamaSpec } from "./llama.ts";

export const qwen2: Family = {
  model_type: "qwen2",
  spec: (config) =>
    llamaSpec(config, {
      model_type: "qwen2",
      defaults: {
        vocab_size: 151_936,
        hidden_size: 4096,
        intermediate_size: 22_016,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: 32,
        max_position_embeddings: 32_768,
      },
      attentionBias: () => ({ qkv: true, o: false }),
      mlpBias: () => false,
      windows: (c) => {
        const windowed = c.boolean("use_sliding_window", false);
        const from = c.integer("max_window_layers", 28);
        const named = c.names("sliding_window");
        const none = !windowed || (named && !c.has("sliding_window"));
        return {
          window: none ? undefined : c.size("sliding_window", 4096),
          slides: (layer) => layer >= from,
        };
      },
    }),
};
