// Named sizes of synthetic checkpoints: what each changes in its family's tiny config.
import type { Config, SyntheticFamily } from "./families.ts";

export interface Preset {
  readonly family: SyntheticFamily;
  readonly config: Config;
  /** Too big to be written by accident: unless told otherwise, the data is a hole in the file. */
  readonly sparse?: boolean;
}

const LLAMA_3: Config = {
  bos_token_id: 128000,
  eos_token_id: 128001,
  max_position_embeddings: 8192,
  num_key_value_heads: 8,
  rope_theta: 500000,
  vocab_size: 128256,
};

export const PRESETS = {
  /** The tiny ones take under 1 MB in f32. */
  "tiny-gpt2": { family: "gpt2", config: {} },
  "tiny-llama": { family: "llama", config: {} },
  "tiny-qwen2": { family: "qwen2", config: {} },
  /** 355 M parameters, the shape of openai-community/gpt2-medium */
  "gpt2-medium": {
    family: "gpt2",
    config: {
      bos_token_id: 50256,
      eos_token_id: 50256,
      n_embd: 1024,
      n_head: 16,
      n_layer: 24,
      n_positions: 1024,
      vocab_size: 50257,
    },
  },
  /** 4.02 GiB in bf16; with 22 layers, 4.10 GiB in f32 */
  "llama-4gib": {
    family: "llama",
    config: {
      hidden_size: 2048,
      intermediate_size: 5632,
      max_position_embeddings: 4096,
      num_attention_heads: 32,
      num_hidden_layers: 46,
      num_key_value_heads: 4,
      vocab_size: 32000,
    },
  },
  /** 15.0 GiB in bf16 */
  "llama-3-8b": {
    family: "llama",
    config: {
      ...LLAMA_3,
      hidden_size: 4096,
      intermediate_size: 14336,
      num_attention_heads: 32,
      num_hidden_layers: 32,
    },
  },
  /** 131.4 GiB in bf16 */
  "llama-3-70b": {
    family: "llama",
    sparse: true,
    config: {
      ...LLAMA_3,
      hidden_size: 8192,
      intermediate_size: 28672,
      num_attention_heads: 64,
      num_hidden_layers: 80,
    },
  },
} as const satisfies Record<string, Preset>;

export type PresetName = keyof typeof PRESETS;
