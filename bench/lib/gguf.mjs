// A Hugging Face Llama checkpoint (safetensors) as a GGUF file that llama.cpp loads: same weights, same element types.
// Only what the benches compare: no other family, no quantization.   node bench/lib/gguf.mjs CHECKPOINT_DIR OUT.gguf
import { open, readFile } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { tokenizerMetadata } from "./gguf-tokenizer.mjs";
import { f32, string, u32, writeGguf } from "./gguf-writer.mjs";
import { ELEMENT_BYTES, openSafetensors } from "./safetensors.mjs";

const CHUNK = 8 << 20;

/** general.file_type (enum llama_ftype) by the element type of the matrices. */
const FILE_TYPE = { F32: 0, F16: 1, BF16: 32 };

/** safetensors name -> GGUF name inside a layer; `model.layers.N.` and `blk.N.` stand before them. */
const LAYER_NAMES = {
  "input_layernorm.weight": "attn_norm.weight",
  "self_attn.q_proj.weight": "attn_q.weight",
  "self_attn.k_proj.weight": "attn_k.weight",
  "self_attn.v_proj.weight": "attn_v.weight",
  "self_attn.o_proj.weight": "attn_output.weight",
  "post_attention_layernorm.weight": "ffn_norm.weight",
  "mlp.gate_proj.weight": "ffn_gate.weight",
  "mlp.up_proj.weight": "ffn_up.weight",
  "mlp.down_proj.weight": "ffn_down.weight",
};

/** Tensors some checkpoints carry and no one needs: a tied head written out, old rotary tables. */
const IGNORED = /^lm_head\.weight$|\.rotary_emb\.inv_freq$/;

/** @typedef {import("./safetensors.mjs").Tensor} Tensor */
/** @typedef {import("./gguf-writer.mjs").OutTensor} OutTensor */
/** @typedef {import("./gguf-writer.mjs").Value} Value */

/**
 * The bytes of a tensor in pieces of at most `size`.
 * @param {Tensor} tensor
 * @param {number} [size]
 */
async function* read({ name, file, offset, bytes }, size = CHUNK) {
  const handle = await open(file, "r");
  try {
    const buffer = Buffer.alloc(Math.min(size, bytes));
    for (let at = 0; at < bytes; at += size) {
      const want = Math.min(size, bytes - at);
      for (let got = 0; got < want; ) {
        const { bytesRead } = await handle.read(buffer, got, want - got, offset + at + got);
        if (bytesRead === 0) throw new Error(`${file}: ends inside tensor ${name}`);
        got += bytesRead;
      }
      yield buffer.subarray(0, want);
    }
  } finally {
    await handle.close();
  }
}

/** @param {number} bits of an IEEE half */
function halfToFloat(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}

/**
 * A vector as f32; llama.cpp keeps its norms so.
 * @param {Tensor} tensor
 */
async function* asFloat32(tensor) {
  for await (const chunk of read(tensor)) {
    if (tensor.dtype === "F32") {
      yield chunk;
      continue;
    }
    const halves = new Uint16Array(chunk.length / 2).map((_, i) => chunk.readUInt16LE(2 * i));
    if (tensor.dtype === "BF16") yield Buffer.from(Uint32Array.from(halves, (bits) => bits << 16).buffer);
    else yield Buffer.from(Float32Array.from(halves, halfToFloat).buffer);
  }
}

/**
 * Rows of a query or key projection as llama.cpp rotates them: Hugging Face pairs row i of a head with row i + d/2,
 * llama.cpp with the next row.   [heads, 2, d/2, columns] -> [heads, d/2, 2, columns]
 * @param {Tensor} tensor
 * @param {number} heads
 */
async function* interleaved(tensor, heads) {
  const [rows = 0, columns = 0] = tensor.shape;
  const width = columns * ELEMENT_BYTES[tensor.dtype];
  const half = rows / heads / 2;
  for await (const head of read(tensor, 2 * half * width)) {
    const out = Buffer.alloc(head.length);
    for (let i = 0; i < half; i++) {
      head.copy(out, 2 * i * width, i * width, (i + 1) * width);
      head.copy(out, (2 * i + 1) * width, (half + i) * width, (half + i + 1) * width);
    }
    yield out;
  }
}

/**
 * Llama 3's long-context frequencies: what each rotary frequency is divided by.
 * Source: `_compute_llama3_parameters` of transformers' modeling_rope_utils.py.
 * @param {Record<string, any>} rope
 * @param {number} headDim
 */
function llama3Factors(rope, headDim) {
  const {
    factor,
    low_freq_factor: low,
    high_freq_factor: high,
    original_max_position_embeddings: context,
  } = rope;
  return Float32Array.from({ length: headDim / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * rope.rope_theta ** ((2 * i) / headDim);
    if (wavelength < context / high) return 1;
    if (wavelength > context / low) return factor;
    const smooth = (context / wavelength - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  });
}

/**
 * @param {Record<string, any>} config parsed config.json
 * @returns {{ heads: number, kvHeads: number, headDim: number, rope: Record<string, any>, metadata: Record<string, Value> }}
 */
function hyperparameters(config) {
  if (config.model_type !== "llama")
    throw new Error(`model_type is ${config.model_type}; the converter takes llama only`);
  if (config.attention_bias || config.mlp_bias)
    throw new Error("the converter takes no attention_bias or mlp_bias");
  const heads = config.num_attention_heads;
  const kvHeads = config.num_key_value_heads ?? heads;
  const headDim = config.head_dim ?? config.hidden_size / heads;
  const rope = { rope_theta: config.rope_theta ?? 10000, ...config.rope_scaling, ...config.rope_parameters };
  const type = rope.rope_type ?? rope.type ?? "default";
  /** @type {Record<string, Value>} */
  const metadata = {
    "llama.context_length": u32(config.max_position_embeddings),
    "llama.embedding_length": u32(config.hidden_size),
    "llama.block_count": u32(config.num_hidden_layers),
    "llama.feed_forward_length": u32(config.intermediate_size),
    "llama.attention.head_count": u32(heads),
    "llama.attention.head_count_kv": u32(kvHeads),
    "llama.attention.key_length": u32(headDim),
    "llama.attention.value_length": u32(headDim),
    "llama.attention.layer_norm_rms_epsilon": f32(config.rms_norm_eps),
    "llama.rope.dimension_count": u32(headDim),
    "llama.rope.freq_base": f32(rope.rope_theta),
    "llama.vocab_size": u32(config.vocab_size),
  };
  if (type === "linear" || type === "yarn") {
    metadata["llama.rope.scaling.type"] = string(type);
    metadata["llama.rope.scaling.factor"] = f32(rope.factor);
    if (type === "yarn")
      metadata["llama.rope.scaling.original_context_length"] = u32(
        rope.original_max_position_embeddings ?? config.max_position_embeddings,
      );
  } else if (type !== "default" && type !== "llama3")
    throw new Error(`the converter does not know rope_type ${type}`);
  return { heads, kvHeads, headDim, rope: { ...rope, type }, metadata };
}

/**
 * Every tensor of the model: safetensors name -> GGUF name, in the order llama.cpp's own converter writes them.
 * @param {Record<string, any>} config
 * @returns {Map<string, string>}
 */
function tensorNames(config) {
  const names = new Map([["model.embed_tokens.weight", "token_embd.weight"]]);
  for (let layer = 0; layer < config.num_hidden_layers; layer++)
    for (const [from, to] of Object.entries(LAYER_NAMES))
      names.set(`model.layers.${layer}.${from}`, `blk.${layer}.${to}`);
  names.set("model.norm.weight", "output_norm.weight");
  // without output.weight llama.cpp uses the embedding
  if (!config.tie_word_embeddings) names.set("lm_head.weight", "output.weight");
  return names;
}

/**
 * Writes `out`, which appears only when whole. Memory: the tokenizer and 8 MiB, or one head if that is larger.
 * @param {string} dir config.json, tokenizer.json and safetensors of model_type llama
 * @param {string} out the GGUF file
 */
export async function convertLlama(dir, out) {
  const [config, tokenizer] = await Promise.all(
    ["config.json", "tokenizer.json"].map(async (name) =>
      JSON.parse(await readFile(path.join(dir, name), "utf8")),
    ),
  );
  const { heads, kvHeads, headDim, rope, metadata } = hyperparameters(config);
  const source = await openSafetensors(dir);

  const names = tensorNames(config);
  for (const name of source.keys())
    if (!names.has(name) && !IGNORED.test(name))
      throw new Error(`${dir}: the converter has no place for tensor ${name}`);

  /** @type {OutTensor[]} */
  const tensors = [...names].map(([from, to]) => {
    const tensor = source.get(from);
    if (!tensor) throw new Error(`${dir}: no tensor ${from}`);
    const { dtype, shape, bytes } = tensor;
    if (shape.length === 1) {
      const elements = /** @type {number} */ (shape[0]);
      return { name: to, dtype: "F32", shape, bytes: 4 * elements, chunks: () => asFloat32(tensor) };
    }
    const rotated = from.endsWith("q_proj.weight") ? heads : from.endsWith("k_proj.weight") ? kvHeads : 0;
    if (rotated && shape[0] !== rotated * headDim)
      throw new Error(
        `${tensor.file}: ${from} has ${shape[0]} rows, ${rotated} heads of ${headDim} need ${rotated * headDim}`,
      );
    return {
      name: to,
      dtype,
      shape,
      bytes,
      chunks: () => (rotated ? interleaved(tensor, rotated) : read(tensor)),
    };
  });
  if (rope.type === "llama3") {
    const factors = llama3Factors(rope, headDim);
    const data = Buffer.from(factors.buffer);
    tensors.push({
      name: "rope_freqs.weight",
      dtype: "F32",
      shape: [factors.length],
      bytes: data.length,
      chunks: async function* () {
        yield data;
      },
    });
  }
  const matrices = /** @type {Tensor} */ (source.get("model.embed_tokens.weight")).dtype;
  await writeGguf(
    out,
    {
      "general.architecture": string("llama"),
      "general.name": string(path.basename(path.resolve(dir))),
      "general.file_type": u32(FILE_TYPE[matrices]),
      ...metadata,
      ...tokenizerMetadata(tokenizer, config),
    },
    tensors,
  );
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const [dir, out] = process.argv.slice(2);
  if (!dir || !out) {
    console.error("usage: node bench/lib/gguf.mjs CHECKPOINT_DIR OUT.gguf");
    process.exitCode = 2;
  } else await convertLlama(dir, out);
}
