// What the targets share: opening and running a little, and what may stand where in a JSON file.
import { readFileSync } from "node:fs";

/** Something wrong was taken without a word. */
export class Wrong extends Error {}
export const wrong = (condition, what) => {
  if (condition) throw new Wrong(what);
};

export const OPEN = { device: "cpu", threads: 1, max_memory: { cpu: "256MiB", disk: "64MiB" } };
export const IDS = [[5, 6, 7, 8]];
export const json = (path) => JSON.parse(readFileSync(path, "utf8"));
export const isInt = (v, least = 0) => Number.isSafeInteger(v) && v >= least;

/** Loads, runs a little, frees. Returns what forward gave. */
export async function exercise(S, model, options = {}) {
  const m = await S.AutoModelForCausalLM.from_pretrained(model, { ...OPEN, ...options });
  try {
    const { logits } = await m.forward({ input_ids: IDS });
    await m.generate({ input_ids: IDS, max_new_tokens: 2 });
    wrong(!logits.data.every(Number.isFinite), "logits are not finite and generate did not say so");
    return logits;
  } finally {
    await m.dispose();
  }
}

export const COUNT = (v) => isInt(v, 1);
export const NUMBER = (v) => typeof v === "number" && Number.isFinite(v);
export const POSITIVE = (v) => NUMBER(v) && v > 0;
export const BOOL = (v) => typeof v === "boolean";
export const TEXT = (v) => typeof v === "string";
export const OBJECT = (v) => typeof v === "object" && !Array.isArray(v);
export const ID = (v) => v === -1 || isInt(v, -1e9) || (Array.isArray(v) && v.every((x) => isInt(x, -1e9)));

/** Keys that mean something, and what they may be; null is absent. */
export const CONFIG = {
  model_type: TEXT,
  hidden_size: COUNT,
  n_embd: COUNT,
  num_attention_heads: COUNT,
  n_head: COUNT,
  num_hidden_layers: COUNT,
  n_layer: COUNT,
  num_key_value_heads: COUNT,
  head_dim: COUNT,
  intermediate_size: COUNT,
  vocab_size: COUNT,
  max_position_embeddings: COUNT,
  n_positions: COUNT,
  rms_norm_eps: POSITIVE,
  layer_norm_epsilon: POSITIVE,
  rope_theta: POSITIVE,
  tie_word_embeddings: BOOL,
  attention_bias: BOOL,
  mlp_bias: BOOL,
  hidden_act: TEXT,
  activation_function: TEXT,
  rope_scaling: OBJECT,
  rope_parameters: OBJECT,
  use_sliding_window: BOOL,
};
const GPT2 = ["n_embd", "n_head", "n_layer", "n_positions", "layer_norm_epsilon", "activation_function"];
/** Throws Wrong if a JSON text that was taken has a value that means nothing. */
export function judge(table, text, gpt2) {
  let parsed;
  try {
    parsed = JSON.parse(text);
  } catch {
    throw new Wrong("not JSON");
  }
  wrong(!OBJECT(parsed) || parsed === null, "not an object");
  for (const [key, is] of Object.entries(table)) {
    const v = parsed[key];
    if (!Object.hasOwn(parsed, key) || v === null || v === undefined) continue;
    if (
      gpt2 !== undefined &&
      GPT2.includes(key) !== gpt2 &&
      CONFIG[key] &&
      (GPT2.includes(key) ||
        [
          "hidden_size",
          "num_attention_heads",
          "num_hidden_layers",
          "num_key_value_heads",
          "head_dim",
          "intermediate_size",
          "max_position_embeddings",
          "rms_norm_eps",
          "rope_theta",
          "attention_bias",
          "mlp_bias",
          "hidden_act",
          "rope_scaling",
          "rope_parameters",
          "use_sliding_window",
        ].includes(key))
    )
      continue;
    if (["use_sliding_window", "attention_bias", "mlp_bias", "rope_scaling", "rope_theta"].includes(key))
      continue; // not every family, or shadowed
    wrong(!is(v), `${key} is ${JSON.stringify(v)?.slice(0, 60)}`);
  }
}
