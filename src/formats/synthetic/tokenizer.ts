// The smallest tokenizer that every text survives: byte-level BPE without merges. 256 bytes and <|endoftext|>.
// Ids from 256 up to vocab_size, other than the end of text, stand for nothing.
import { ConfigError } from "../../base/errors.ts";
import { type Config, sizeIn } from "./families.ts";

const END_OF_TEXT = "<|endoftext|>";

/** `tokenizer.json` for a config: bytes are ids 0 to 255 in GPT-2's order, the end of text is the config's eos. */
export function tokenizerJson(config: Config): Record<string, unknown> {
  const end = config.eos_token_id;
  const vocab = sizeIn(config, "vocab_size");
  if (typeof end !== "number" || !Number.isSafeInteger(end) || end < 256 || end >= vocab) {
    throw new ConfigError(
      `eos_token_id is ${JSON.stringify(end)} and vocab_size ${vocab}: ids 0 to 255 are bytes, so the end of text must be ` +
        "256 or more, and below vocab_size",
    );
  }
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [
      {
        id: end,
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
      vocab: Object.fromEntries([...byteCharacters().map((c, id) => [c, id] as const), [END_OF_TEXT, end]]),
      merges: [],
    },
  };
}

/** `tokenizer_config.json`. `positions` is the longest sequence, tokens. */
export function tokenizerConfigJson(positions: number): Record<string, unknown> {
  return {
    tokenizer_class: "PreTrainedTokenizerFast",
    bos_token: null,
    eos_token: END_OF_TEXT,
    clean_up_tokenization_spaces: false,
    model_max_length: positions,
  };
}

/**
 * The printable stand-ins of the 256 bytes, in the order of their ids. From GPT-2's bytes_to_unicode: bytes that print
 * stand for themselves and come first, the others are shifted past U+0100.
 */
function byteCharacters(): string[] {
  const printable = [...range(0x21, 0x7e), ...range(0xa1, 0xac), ...range(0xae, 0xff)];
  const others = range(0, 255).filter((byte) => !printable.includes(byte));
  return [...printable, ...others.map((_, i) => 256 + i)].map((code) => String.fromCharCode(code));
}

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}
