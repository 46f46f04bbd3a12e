// Small checkpoints of odd sizes with random weights, written here so that nothing of the project is trusted.
import { writeFileSync } from "node:fs";
import { join } from "node:path";

export function shapesOf(r) {
  const family = r.pick(["llama", "gpt2", "qwen2"]);
  const headDim = r.pick([1, 2, 3, 4, 5, 6, 8, 10, 16, 20, 32, 63, 64, 65, 80, 96, 127, 128, 256, 320]);
  const kv = r.pick([1, 1, 2, 3]);
  const heads = family === "gpt2" ? r.pick([1, 2, 3]) : kv * r.pick([1, 1, 2, 3, 5, 8]);
  return {
    family,
    headDim,
    heads,
    kv,
    hidden: family === "gpt2" ? heads * headDim : r.pick([1, 2, 3, 5, 7, 16, 31, 32, 33, 64, 100]),
    inner: r.pick([1, 2, 3, 5, 17, 32, 33, 100]),
    layers: 1 + r.int(2),
    vocab: r.pick([1, 2, 3, 5, 17, 33, 256, 300]),
    positions: r.pick([1, 2, 16, 17, 33, 64]),
    dtype: r.pick(["F32", "F16", "BF16"]),
    tie: r.chance(0.5),
  };
}

export function checkpointOf(dir, m, r) {
  const t = [];
  const w = (name, ...shape) => t.push({ name, shape });
  let config;
  if (m.family === "gpt2") {
    config = {
      model_type: "gpt2",
      n_embd: m.hidden,
      n_head: m.heads,
      n_layer: m.layers,
      n_positions: m.positions,
      n_inner: m.inner,
      vocab_size: m.vocab,
      tie_word_embeddings: m.tie,
    };
    w("transformer.wte.weight", m.vocab, m.hidden);
    w("transformer.wpe.weight", m.positions, m.hidden);
    for (let l = 0; l < m.layers; l++) {
      const at = `transformer.h.${l}`;
      for (const n of ["ln_1", "ln_2"]) {
        w(`${at}.${n}.weight`, m.hidden);
        w(`${at}.${n}.bias`, m.hidden);
      }
      for (const [n, a, b] of [
        ["attn.c_attn", m.hidden, 3 * m.hidden],
        ["attn.c_proj", m.hidden, m.hidden],
        ["mlp.c_fc", m.hidden, m.inner],
        ["mlp.c_proj", m.inner, m.hidden],
      ]) {
        w(`${at}.${n}.weight`, a, b);
        w(`${at}.${n}.bias`, b);
      }
    }
    w("transformer.ln_f.weight", m.hidden);
    w("transformer.ln_f.bias", m.hidden);
  } else {
    config = {
      model_type: m.family,
      hidden_size: m.hidden,
      num_attention_heads: m.heads,
      num_key_value_heads: m.kv,
      head_dim: m.headDim,
      num_hidden_layers: m.layers,
      intermediate_size: m.inner,
      vocab_size: m.vocab,
      max_position_embeddings: m.positions,
      tie_word_embeddings: m.tie,
    };
    w("model.embed_tokens.weight", m.vocab, m.hidden);
    for (let l = 0; l < m.layers; l++) {
      const at = `model.layers.${l}`;
      const q = m.heads * m.headDim;
      const k = m.kv * m.headDim;
      w(`${at}.input_layernorm.weight`, m.hidden);
      w(`${at}.post_attention_layernorm.weight`, m.hidden);
      w(`${at}.self_attn.q_proj.weight`, q, m.hidden);
      w(`${at}.self_attn.k_proj.weight`, k, m.hidden);
      w(`${at}.self_attn.v_proj.weight`, k, m.hidden);
      w(`${at}.self_attn.o_proj.weight`, m.hidden, q);
      if (m.family === "qwen2") {
        w(`${at}.self_attn.q_proj.bias`, q);
        w(`${at}.self_attn.k_proj.bias`, k);
        w(`${at}.self_attn.v_proj.bias`, k);
      }
      w(`${at}.mlp.gate_proj.weight`, m.inner, m.hidden);
      w(`${at}.mlp.up_proj.weight`, m.inner, m.hidden);
      w(`${at}.mlp.down_proj.weight`, m.hidden, m.inner);
    }
    w("model.norm.weight", m.hidden);
  }
  if (!m.tie) w("lm_head.weight", m.vocab, m.hidden);
  const size = m.dtype === "F32" ? 4 : 2;
  const header = {};
  const parts = [];
  let at = 0;
  for (const { name, shape } of t) {
    const n = shape.reduce((a, b) => a * b, 1);
    const bytes = Buffer.alloc(n * size);
    for (let i = 0; i < n; i++) {
      const f = Math.fround((r.next() - 0.5) * 0.4 + (shape.length === 1 ? 1 : 0));
      if (size === 4) bytes.writeFloatLE(f, i * 4);
      else {
        const b = Buffer.alloc(4);
        b.writeFloatLE(f);
        bytes.writeUInt16LE(m.dtype === "BF16" ? b.readUInt16LE(2) : half(b.readUInt32LE(0)), i * 2);
      }
    }
    header[name] = { dtype: m.dtype, shape, data_offsets: [at, at + bytes.length] };
    at += bytes.length;
    parts.push(bytes);
  }
  const text = Buffer.from(JSON.stringify(header));
  const field = Buffer.alloc(8);
  field.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(join(dir, "model.safetensors"), Buffer.concat([field, text, ...parts]));
  writeFileSync(join(dir, "config.json"), JSON.stringify(config));
}

function half(bits) {
  const e = ((bits >>> 23) & 255) - 112;
  if (e <= 0) return (bits >>> 16) & 0x8000;
  return ((bits >>> 16) & 0x8000) | (e << 10) | ((bits >>> 13) & 0x3ff);
}
