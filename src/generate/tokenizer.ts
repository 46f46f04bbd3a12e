// Text to token ids and back, with the tokenizer.json that comes with a checkpoint. The algorithms are those of
// @huggingface/tokenizers; here are loading, checking, special tokens and chat templates.
import type { TextDecoder as Utf8Decoder } from "node:util";
import { Tokenizer } from "@huggingface/tokenizers";
import { CheckpointError, ConfigError } from "../errors.ts";
import { type ChatMessage, type ChatTemplateOptions, ChatTemplates } from "./chat-template.ts";
import { type GenerationConfig, readGenerationConfig } from "./generation-config.ts";
import { readTokenizerFiles, type TokenizerFiles } from "./tokenizer-files.ts";

export interface EncodeOptions {
  /** Add what the tokenizer puts around a text, such as a begin token. Default true. */
  add_special_tokens?: boolean;
}

export interface DecodeOptions {
  /** Leave out special tokens, such as an end token. Default false. */
  skip_special_tokens?: boolean;
}

/** The parts in use of the library's classes, whose own declarations do not resolve under NodeNext. */
interface LibraryTokenizer {
  readonly model: { readonly vocab: readonly string[] };
  readonly decoder: LibraryDecoder | null;
  encode(
    text: string,
    options: EncodeOptions,
  ): { ids: (number | undefined)[]; tokens: (string | undefined)[] };
  decode(ids: number[], options: DecodeOptions & { clean_up_tokenization_spaces: boolean }): string;
  id_to_token(id: number): string | undefined;
  token_to_id(token: string): number | undefined;
}

interface LibraryDecoder {
  readonly decoders?: readonly LibraryDecoder[];
  text_decoder?: Utf8Decoder;
}

/** What a tokenizer returns when it is called: one row of ids for each text, not padded. */
export interface BatchEncoding {
  input_ids: number[][];
}

type Call = (text: string | readonly string[], options?: EncodeOptions) => BatchEncoding;

/**
 * Base of a class whose instances can be called: its constructor returns a function with the class's prototype,
 * which `new` then takes for `this`.
 */
const Callable = function (): AutoTokenizer {
  const instance: AutoTokenizer = Object.setPrototypeOf(
    (...args: Parameters<Call>) => instance._call(...args),
    new.target.prototype,
  );
  return instance;
} as unknown as new () => Call;

/**
 * The tokenizer of a checkpoint. `tokenizer(text)` gives `{ input_ids: number[][] }`, as the models take it.
 */
export class AutoTokenizer extends Callable {
  /** Every id that ends a text: generation_config.json, else config.json, else the tokenizer's eos_token. */
  readonly eos_token_ids: readonly number[];
  readonly bos_token_id: number | undefined;
  readonly pad_token_id: number | undefined;
  readonly #tokenizer: LibraryTokenizer;
  readonly #templates: ChatTemplates;
  readonly #path: string;

  private constructor(tokenizer: LibraryTokenizer, files: TokenizerFiles, generation: GenerationConfig) {
    super();
    this.#tokenizer = tokenizer;
    this.#path = files.path;
    this.#templates = new ChatTemplates(files.chatTemplates, files.specialTokens);
    const idOf = (role: string) => {
      const text = files.specialTokens[role];
      return text === undefined ? undefined : this.token_to_id(text);
    };
    const eos = idOf("eos_token");
    this.eos_token_ids =
      generation.eos_token_ids.length > 0 || eos === undefined ? generation.eos_token_ids : [eos];
    this.bos_token_id = generation.bos_token_id ?? idOf("bos_token");
    this.pad_token_id = generation.pad_token_id ?? idOf("pad_token");
  }

  /**
   * Reads tokenizer.json and, where present, tokenizer_config.json, special_tokens_map.json, chat_template.jinja,
   * chat_template.json, generation_config.json and config.json.
   * @param dir the checkpoint's directory
   * @throws CheckpointError naming the file that is missing or malformed; ConfigError; IoError
   */
  static async from_pretrained(dir: string): Promise<AutoTokenizer> {
    if (typeof dir !== "string")
      throw new ConfigError(`the checkpoint must be a directory, got ${typeof dir}`);
    const files = await readTokenizerFiles(dir);
    const generation = await readGenerationConfig(dir);
    let tokenizer: LibraryTokenizer;
    try {
      tokenizer = new Tokenizer(
        { added_tokens: [], ...files.tokenizer },
        {
          ...files.config,
          ...files.specialTokens,
          additional_special_tokens: [
            ...files.additionalSpecialTokens,
            ...Object.values(files.specialTokens),
          ],
        },
      );
      keepByteOrderMarks(tokenizer.decoder);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new CheckpointError(
        `is not a tokenizer that can be used (${reason})`,
        { file: files.path },
        { cause: error },
      );
    }
    return new AutoTokenizer(tokenizer, files, generation);
  }

  /** Number of ids the tokenizer knows, added tokens included. The model's vocabulary may be padded to more. */
  get vocab_size(): number {
    return this.#tokenizer.model.vocab.length;
  }

  /** The token's text in the vocabulary, where a space may be "Ġ" or "▁"; undefined for an id that is not in use. */
  id_to_token(id: number): string | undefined {
    return this.#tokenizer.id_to_token(id);
  }

  token_to_id(token: string): number | undefined {
    return this.#tokenizer.token_to_id(token);
  }

  /**
   * Token ids of a text.
   * @throws ConfigError if text is not a string; CheckpointError if the tokenizer contradicts itself
   */
  encode(text: string, options: EncodeOptions = {}): number[] {
    if (typeof text !== "string")
      throw new ConfigError(`the text to encode must be a string, got ${typeof text}`);
    const { add_special_tokens = true } = options;
    let encoding: ReturnType<LibraryTokenizer["encode"]>;
    try {
      encoding = this.#tokenizer.encode(text, { add_special_tokens });
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new CheckpointError(
        `failed on a text of ${text.length} characters: ${reason}`,
        { file: this.#path },
        { cause: error },
      );
    }
    return encoding.ids.map((id, i) => {
      if (Number.isInteger(id)) return id as number;
      throw new CheckpointError(`gives the token ${JSON.stringify(encoding.tokens[i])}, which has no id`, {
        file: this.#path,
      });
    });
  }

  /**
   * Text of token ids. Ids that are not in use (padding of the model's vocabulary) have no text.
   * Broken UTF-8 becomes U+FFFD.
   * @throws ConfigError if ids is not an array
   */
  decode(ids: readonly number[], options: DecodeOptions = {}): string {
    if (!Array.isArray(ids))
      throw new ConfigError(`the ids to decode must be an array of numbers, got ${typeof ids}`);
    const known = (ids as readonly number[]).filter((id) => this.id_to_token(id) !== undefined);
    if (known.length === 0) return "";
    const { skip_special_tokens = false } = options;
    return this.#tokenizer.decode(known, { skip_special_tokens, clean_up_tokenization_spaces: false });
  }

  /**
   * A conversation as the text the model was trained on. Encode it with `add_special_tokens: false`:
   * templates write the begin token themselves.
   * @throws UnsupportedError if the checkpoint has no chat template; ConfigError if it refuses the messages
   */
  apply_chat_template(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    return this.#templates.render(messages, options);
  }

  /** What calling the tokenizer does. */
  _call(text: string | readonly string[], options: EncodeOptions = {}): BatchEncoding {
    const texts = typeof text === "string" ? [text] : text;
    if (!Array.isArray(texts))
      throw new ConfigError(`the text to encode must be a string or a list, got ${typeof text}`);
    return { input_ids: texts.map((one) => this.encode(one, options)) };
  }
}

/**
 * The library's byte-fallback decoder drops U+FEFF where the reference implementation keeps it. Dropping it would also
 * make text depend on where decoding starts.
 */
function keepByteOrderMarks(decoder: LibraryDecoder | null): void {
  if (decoder === null) return;
  if (decoder.text_decoder !== undefined)
    decoder.text_decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  for (const part of decoder.decoders ?? []) keepByteOrderMarks(part);
}
