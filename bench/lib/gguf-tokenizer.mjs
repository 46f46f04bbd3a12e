// A byte-level BPE tokenizer.json as the tokenizer metadata of a GGUF file. Other tokenizers are refused.
import { i32s, string, strings, u32 } from "./gguf-writer.mjs";

/** enum llama_token_type */
const TOKEN_TYPE = { normal: 1, control: 3, userDefined: 4, unused: 5 };

/** @param {Record<string, any> | null} part of tokenizer.json: a pre-tokenizer or a decoder, possibly a sequence */
const steps = (part) => part?.pretokenizers ?? part?.decoders ?? (part ? [part] : []);

/**
 * @param {Record<string, any>} tokenizer parsed tokenizer.json
 * @param {Record<string, any>} config parsed config.json: `vocab_size` rows, which may be more than the tokenizer has tokens
 * @returns {Record<string, import("./gguf-writer.mjs").Value>}
 */
export function tokenizerMetadata(tokenizer, config) {
  const { model, added_tokens: added = [] } = tokenizer;
  const byteLevel = [...steps(tokenizer.pre_tokenizer), ...steps(tokenizer.decoder)].some(
    (step) => step.type === "ByteLevel",
  );
  if (model?.type !== "BPE" || !byteLevel)
    throw new Error(
      `tokenizer.json is ${model?.type ?? "of no known type"}; the converter takes byte-level BPE only`,
    );

  const size = config.vocab_size;
  const tokens = Array.from({ length: size }, (_, id) => `<unused_${id}>`);
  const types = new Array(size).fill(TOKEN_TYPE.unused);
  /** @param {string} token @param {number} id @param {number} type */
  const put = (token, id, type) => {
    if (!(id >= 0 && id < size))
      throw new Error(`token ${JSON.stringify(token)} has id ${id}, the model has ${size} rows`);
    tokens[id] = token;
    types[id] = type;
  };
  for (const [token, id] of Object.entries(model.vocab)) put(token, Number(id), TOKEN_TYPE.normal);
  for (const { content, id, special } of added)
    put(content, id, special ? TOKEN_TYPE.control : TOKEN_TYPE.userDefined);

  /** @type {Record<string, import("./gguf-writer.mjs").Value>} */
  const metadata = {
    "tokenizer.ggml.model": string("gpt2"),
    "tokenizer.ggml.pre": string("gpt-2"),
    "tokenizer.ggml.tokens": strings(tokens),
    "tokenizer.ggml.token_type": i32s(types),
    // newer files write a merge as a pair, older ones as one string
    "tokenizer.ggml.merges": strings(
      model.merges.map((/** @type {string | string[]} */ merge) =>
        Array.isArray(merge) ? merge.join(" ") : merge,
      ),
    ),
  };
  for (const name of ["bos", "eos"]) {
    const id = [config[`${name}_token_id`]].flat()[0]; // Llama 3 lists several ends; the first is the end of text
    if (typeof id === "number") metadata[`tokenizer.ggml.${name}_token_id`] = u32(id);
  }
  return metadata;
}
