// What a model family says about itself: its stages, their weights, and how each is computed. No memory, no data.
import type { Graph } from "../backend/ggml/ops.ts";
import type { Tensor } from "../backend/ggml/tensor.ts";
import type { RawConfig } from "./config.ts";

/** A parameter as the checkpoint holds it. */
export interface WeightSpec {
  /** Name in the checkpoint, with the family's usual prefix. */
  readonly name: string;
  /** Slowest-varying first, as in the checkpoint: [out, in] of a linear layer. */
  readonly shape: readonly number[];
  /** Stored as [in, out] (GPT-2's Conv1D); the stage is given it turned round. */
  readonly transposed?: boolean;
  /** A table of which a stage uses some rows: those of the tokens' ids, or of their positions. */
  readonly rows?: "tokens" | "positions";
}

/** How a layer's scores become weights. */
export interface AttentionSpec {
  /** Scores are q k^T * scale. */
  readonly scale: number;
  /** A token sees this many tokens, itself included; absent: all before it. At least 1. */
  readonly window?: number | undefined;
  /** Scores s become c tanh(s / c), before the mask (Gemma 2). Above 0. */
  readonly softcap?: number | undefined;
  /** f32 [heads]: a score of each head that takes weight and has no value (gpt-oss). */
  readonly sinks?: Tensor | undefined;
}

/** What a stage can ask of the run it is part of. */
export interface StageContext {
  /** i32 [tokens] */
  readonly positions: Tensor;
  readonly tokens: number;
  /**
   * Causal attention of this layer over everything its sequences have seen, the new tokens included.
   * q [head_dim, heads, tokens], k and v [head_dim, kv_heads, tokens] -> [heads * head_dim, tokens].
   */
  attend(g: Graph, layer: number, q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec): Tensor;
}

/** Weights of a stage by key: matrices [in, out] in ggml's order, vectors f32, row tables already gathered f32 [n, tokens]. */
export type Weights<K extends string = string> = Readonly<Record<K, Tensor>>;

export type StageKind = "embed" | "attention" | "mlp" | "head";

/** A piece of the model that runs as one graph. Its parameters are the unit that is placed and moved. */
export interface Stage {
  /** A module path, which `device_map` keys are prefixes of: "model.layers.3.self_attn". */
  readonly name: string;
  readonly kind: StageKind;
  /** Index of the layer, for stages that keep keys and values. */
  readonly layer?: number;
  readonly weights: Readonly<Record<string, WeightSpec>>;
  /** Values that are computed, not loaded, such as rotary frequencies; f32 vectors. */
  readonly constants?: Readonly<Record<string, Float32Array>>;
  /** hidden [hidden_size, tokens] -> the same; the first stage ignores `x`, the last gives logits [vocab, tokens]. */
  build(g: Graph, x: Tensor | undefined, w: Weights, ctx: StageContext): Tensor;
}

/** One model: sizes that memory depends on, and the stages in order. */
export interface ModelSpec {
  readonly model_type: string;
  readonly vocab_size: number;
  readonly hidden_size: number;
  readonly num_layers: number;
  readonly num_heads: number;
  readonly num_kv_heads: number;
  readonly head_dim: number;
  /** Tokens a sequence may have: the config's number, after scaling of rotary positions. */
  readonly max_positions: number;
  /** What `context_length` may raise that to, and what it ends at, for a message. */
  readonly positions: { readonly most: number; readonly end: string };
  readonly stages: readonly Stage[];
  /** Widths of the sliding windows that its layers ask `attend` for; each once. */
  readonly windows?: readonly number[];
  /** Module prefix that checkpoints saved from the bare model lack: "model", "transformer". */
  readonly prefix: string;
  /** Weights that are another weight under a second name: alias -> name. */
  readonly tied: Readonly<Record<string, string>>;
  /** Tensors a checkpoint may hold that are not parameters. */
  readonly ignored: readonly RegExp[];
  /** Sizes that config.json does not name, with the family's defaults: "hidden_size 4096". */
  readonly defaulted: readonly string[];
  /** What config.json says that is not used: see base/notes.ts. */
  readonly notes: readonly string[];
}

/** A family of models: one per `model_type`. */
export interface Family {
  readonly model_type: string;
  /** Reads config.json. Throws ConfigError or UnsupportedError that names the key. */
  spec(config: RawConfig): Omit<ModelSpec, "defaulted">;
}
