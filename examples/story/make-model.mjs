// @ts-check
// Writes a small Llama that knows nothing yet: config.json, generation_config.json and model.safetensors (f32), for the
// tokenizer.json in the same folder. The same seed makes the same bytes, everywhere.
//   node examples/story/make-model.mjs --out MODEL --seed 1
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { choices, seedOf } from "./random.mjs";
import { runIfStarted, wholeNumber, writeJson, writeWhole } from "./script.mjs";

/**
 * Standard deviation of the weights: one over the root of the hidden size. With GPT-2's 0.02 all names begin nearly alike,
 * and a model of this size is slow to learn that the name to say is the one that was said.
 */
const DEVIATION = 1 / 16;

/**
 * config.json of the story model.
 * @param {number} vocabSize
 * @param {number} eos id of the end of text, which also stands before a text
 */
export function storyConfig(vocabSize, eos) {
  return {
    architectures: ["LlamaForCausalLM"],
    attention_bias: false,
    attention_dropout: 0,
    bos_token_id: eos,
    eos_token_id: eos,
    head_dim: 64,
    hidden_act: "silu",
    hidden_size: 256,
    initializer_range: DEVIATION,
    intermediate_size: 512,
    max_position_embeddings: 512,
    mlp_bias: false,
    model_type: "llama",
    num_attention_heads: 4,
    num_hidden_layers: 4,
    num_key_value_heads: 2,
    rms_norm_eps: 1e-5,
    rope_scaling: null,
    rope_theta: 10000,
    tie_word_embeddings: true,
    torch_dtype: "float32",
    use_cache: true,
    vocab_size: vocabSize,
  };
}

/** @typedef {ReturnType<typeof storyConfig>} StoryConfig */
/** @typedef {{ name: string, shape: number[], deviation: number }} Tensor deviation: 0 for all ones */

/**
 * The tensors of a config. What is added to the residual stream starts smaller, the more layers add (GPT-2, section 2.3).
 * @param {StoryConfig} config
 * @returns {Tensor[]}
 */
export function tensorsOf(config) {
  const { hidden_size: hidden, intermediate_size: inner, head_dim: width } = config;
  const query = width * config.num_attention_heads;
  const kv = width * config.num_key_value_heads;
  const residual = DEVIATION / Math.sqrt(2 * config.num_hidden_layers);
  /** @param {string} name @param {number[]} shape @param {number} deviation @returns {Tensor} */
  const tensor = (name, shape, deviation) => ({ name: `model.${name}.weight`, shape, deviation });
  const layers = Array.from({ length: config.num_hidden_layers }, (_, i) => [
    tensor(`layers.${i}.input_layernorm`, [hidden], 0),
    tensor(`layers.${i}.self_attn.q_proj`, [query, hidden], DEVIATION),
    tensor(`layers.${i}.self_attn.k_proj`, [kv, hidden], DEVIATION),
    tensor(`layers.${i}.self_attn.v_proj`, [kv, hidden], DEVIATION),
    tensor(`layers.${i}.self_attn.o_proj`, [hidden, query], residual),
    tensor(`layers.${i}.post_attention_layernorm`, [hidden], 0),
    tensor(`layers.${i}.mlp.gate_proj`, [inner, hidden], DEVIATION),
    tensor(`layers.${i}.mlp.up_proj`, [inner, hidden], DEVIATION),
    tensor(`layers.${i}.mlp.down_proj`, [hidden, inner], residual),
  ]);
  return [
    tensor("embed_tokens", [config.vocab_size, hidden], DEVIATION),
    ...layers.flat(),
    tensor("norm", [hidden], 0),
  ];
}

/** @param {Tensor} tensor */
export const elementsOf = ({ shape }) => shape.reduce((product, length) => product * length, 1);

/**
 * A safetensors file of random weights.
 * @param {readonly Tensor[]} tensors
 * @param {number} seed
 */
export function safetensors(tensors, seed) {
  /** @type {Record<string, unknown>} */
  const header = { __metadata__: { format: "pt" } };
  let bytes = 0;
  for (const tensor of tensors) {
    const end = bytes + 4 * elementsOf(tensor);
    header[tensor.name] = { dtype: "F32", shape: tensor.shape, data_offsets: [bytes, end] };
    bytes = end;
  }
  const json = JSON.stringify(header);
  const headerBytes = Math.ceil(json.length / 8) * 8;
  const file = Buffer.alloc(8 + headerBytes + bytes);
  file.writeBigUInt64LE(BigInt(headerBytes), 0);
  file.write(json.padEnd(headerBytes), 8, "latin1");
  let at = 8 + headerBytes;
  for (const [index, tensor] of tensors.entries()) {
    const r = choices(seedOf(seed, index));
    for (let i = 0; i < elementsOf(tensor); i++) {
      at = file.writeFloatLE(tensor.deviation === 0 ? 1 : normal(r) * tensor.deviation, at);
    }
  }
  return file;
}

/**
 * Near enough to normal: twelve uniform numbers less six have mean 0 and variance 1. Additions are exact everywhere,
 * logarithms and cosines are not.
 * @param {import("./random.mjs").Choices} r
 */
function normal(r) {
  let sum = -6;
  for (let i = 0; i < 12; i++) sum += r.uniform();
  return sum;
}

await runIfStarted(import.meta.url, async () => {
  const { values } = parseArgs({
    options: { out: { type: "string" }, seed: { type: "string", default: "1" } },
  });
  if (values.out === undefined) throw new Error("--out is missing: give the folder that has tokenizer.json");
  const path = join(values.out, "tokenizer.json");
  const seed = wholeNumber("seed", values.seed);
  const tokenizer = JSON.parse(await readFile(path, "utf8"));
  const vocab = Object.keys(tokenizer?.model?.vocab ?? {}).length;
  const eos = tokenizer?.added_tokens?.[0]?.id;
  if (vocab === 0 || !Number.isSafeInteger(eos)) {
    throw new Error(`${path}: has no vocabulary or no end of text; make it with make-tokenizer.mjs`);
  }
  const config = storyConfig(vocab, eos);
  const tensors = tensorsOf(config);
  await writeWhole(join(values.out, "model.safetensors"), safetensors(tensors, seed));
  await writeJson(join(values.out, "generation_config.json"), { bos_token_id: eos, eos_token_id: eos });
  await writeJson(join(values.out, "config.json"), config);
  const parameters = tensors.reduce((sum, tensor) => sum + elementsOf(tensor), 0);
  console.log(`${values.out}: ${parameters} parameters`);
});
