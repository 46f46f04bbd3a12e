// Qwen2 and Qwen2.5 (Yang et al. 2024): Llama's plan with biases on q, k and v.
import { UnsupportedError } from "../errors.ts";
import { llamaSpec } from "./llama.ts";
import type { Family } from "./spec.ts";

export const qwen2: Family = {
  model_type: "qwen2",
  spec: (config) => {
    if (config.boolean("use_sliding_window", false)) {
      throw new UnsupportedError(
        "config.json: use_sliding_window is true; qwen2 is supported with full attention only",
      );
    }
    return llamaSpec(config, {
      model_type: "qwen2",
      attentionBias: () => ({ qkv: true, o: false }),
      mlpBias: () => false,
    });
  },
};
