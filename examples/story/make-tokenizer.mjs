// @ts-check
// Trains a byte-level BPE tokenizer on a corpus and writes tokenizer.json and tokenizer_config.json.
//   node examples/story/make-tokenizer.mjs --data DIR/train.jsonl --out MODEL --vocab 1536
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { byteCharacters, learnMerges } from "./bpe.mjs";
import { runIfStarted, wholeNumber, writeJson } from "./script.mjs";

const END_OF_TEXT = "<|endoftext|>";
/** The bytes and the end of text. */
const FEWEST_TOKENS = 257;

/**
 * tokenizer.json as transformers writes it. Ids: the end of text is 0, bytes are 1 to 256, merges follow.
 * @param {Iterable<string>} texts
 * @param {number} vocabSize most tokens; fewer come out where the texts have too few different words
 */
export function trainTokenizer(texts, vocabSize) {
  const merges = learnMerges(texts, vocabSize - FEWEST_TOKENS);
  const tokens = [END_OF_TEXT, ...byteCharacters(), ...merges.map((pair) => pair.join(""))];
  // Two merges may make the same token in different ways; it has one id.
  const vocab = Object.fromEntries([...new Set(tokens)].map((token, id) => [token, id]));
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [
      {
        id: 0,
        content: END_OF_TEXT,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        special: true,
      },
    ],
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab,
      merges,
    },
  };
}

/**
 * Writes a tokenizer's files into a folder.
 * @param {string} dir
 * @param {ReturnType<typeof trainTokenizer>} tokenizer
 */
export async function writeTokenizer(dir, tokenizer) {
  await writeJson(join(dir, "tokenizer.json"), tokenizer);
  await writeJson(join(dir, "tokenizer_config.json"), {
    tokenizer_class: "PreTrainedTokenizerFast",
    bos_token: null,
    eos_token: END_OF_TEXT,
    clean_up_tokenization_spaces: false,
    model_max_length: 512,
  });
}

/** The texts of a JSON Lines file. @param {string} path @returns {Promise<string[]>} */
async function readTexts(path) {
  const lines = (await readFile(path, "utf8")).split("\n");
  return lines.flatMap((line, i) => {
    if (line.trim() === "") return [];
    try {
      const text = JSON.parse(line)?.text;
      if (typeof text === "string") return [text];
    } catch {
      // said below, with the line
    }
    throw new Error(`${path}:${i + 1}: expected {"text": "..."}`);
  });
}

await runIfStarted(import.meta.url, async () => {
  const { values } = parseArgs({
    options: {
      data: { type: "string" },
      out: { type: "string" },
      vocab: { type: "string", default: "1536" },
    },
  });
  if (values.data === undefined)
    throw new Error("--data is missing: give the train.jsonl of make-corpus.mjs");
  if (values.out === undefined) throw new Error("--out is missing: give the folder of the model");
  const vocabSize = wholeNumber("vocab", values.vocab, FEWEST_TOKENS);
  const tokenizer = trainTokenizer(await readTexts(values.data), vocabSize);
  await writeTokenizer(values.out, tokenizer);
  console.log(`${join(values.out, "tokenizer.json")}: ${Object.keys(tokenizer.model.vocab).length} tokens`);
});
