// Tensors that a checkpoint holds and the model does not have: which of them may be passed over. By name and shape alone.
//
// The rule: what lies in a module that the model has (its embeddings, one of its layers, its norms, its head) would take
// part in what that module computes, and so does a norm, an embedding or a projection of its own beside them; they are an
// error. Everything else is somebody else's: value and classification heads, further prediction layers, layers beyond the
// ones the config asks for, other towers. So are tensors without elements, and those of NO_EFFECT, wherever they lie.

/** Buffers that are computed anew, and scales of a quantized KV cache or of activations that are not quantized here. */
const NO_EFFECT =
  /(^|\.)(rotary_emb\.\w+|inv_freq|cos_cached|sin_cached|masked_bias|position_ids|_extra_state|num_batches_tracked)$|\.(k|v|q|kv|prob|attn_output)_scale$|\.(q|k|v|kv|qkv)_proj\.(k|v|q|kv|output|kv_output)_scale$/;

/** A parameter directly under the model, beside its layers, that takes part in its forward pass. */
const OF_THE_MODEL = /^(\w*(norm|ln_|embed|proj|scale|gate|position)\w*)\.(weight|bias|scale)$/;

/** What names say about how a file was made, for the error. */
const ORIGINS: readonly [RegExp, string][] = [
  [
    /\.lora_|\.base_layer\.|modules_to_save/,
    "these are weights of an adapter that was not merged: merge it first, or give its folder as adapter",
  ],
  [
    /\.(qweight|qzeros|g_idx|scales|weight_scale\w*|weight_zero_point|weight_packed|weight_shape|input_scale|absmax|SCB|biases)$|\.weight\.(absmax|quant_)/,
    "the weights are quantized: use the model's float32, float16 or bfloat16 checkpoint",
  ],
  [/\.bias$/, "config.json says that there are no such biases"],
];

/** Where the weights of a model lie, for telling whether another tensor lies among them. */
export class ModelModules {
  readonly #modules = new Set<string>();
  readonly #prefix: string;

  /** `names` are those of all weights of the model; `prefix` the module they lie in, which a checkpoint may lack. */
  constructor(names: Iterable<string>, prefix: string) {
    this.#prefix = prefix === "" ? "" : `${prefix}.`;
    for (const name of names) {
      const bare = this.#bare(name);
      this.#modules.add(/^(.*?\.\d+)\./.exec(bare)?.[1] ?? bare.slice(0, bare.lastIndexOf(".")));
    }
  }

  /** Whether a tensor that the model does not have may be left where it is. */
  mayPassOver(name: string, shape: readonly number[]): boolean {
    if (shape.includes(0) || NO_EFFECT.test(name)) return true;
    const bare = this.#bare(name);
    for (let end = bare.indexOf("."); end !== -1; end = bare.indexOf(".", end + 1)) {
      if (this.#modules.has(bare.slice(0, end))) return false;
    }
    return !OF_THE_MODEL.test(bare);
  }

  #bare(name: string): string {
    return name.startsWith(this.#prefix) ? name.slice(this.#prefix.length) : name;
  }
}

/** What a surplus tensor's name says about its file, for the error that refuses it. */
export function originOf(name: string): string | undefined {
  return ORIGINS.find(([pattern]) => pattern.test(name))?.[1];
}
