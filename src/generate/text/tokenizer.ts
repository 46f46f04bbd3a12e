// Text to token ids and back, with the tokenizer that comes with a checkpoint. Encoding runs in the sandbox, for the
// regexes of a stranger's file may run for ever; decoding, which streams need token by token, runs here.
import { dirname, resolve } from "node:path";
import { ConfigError } from "../../base/errors.ts";
import { shown } from "../../base/shown.ts";
import { type GenerationConfig, readGenerationConfig } from "../generation-config.ts";
import type { TokenizerDescription } from "../sandbox/protocol.ts";
import { type ChatMessage, type ChatTemplateOptions, ChatTemplates } from "./chat-template.ts";
import type { ByteOf } from "./incremental-decoder.ts";
import { type DecodeOptions, type EncodeOptions, SandboxedTokenizer } from "./sandboxed-tokenizer.ts";
import { readTokenizerFiles, type TokenizerFiles } from "./tokenizer-files.ts";

export type { DecodeOptions, EncodeOptions };

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
 * Which of a tokenizer's tokens stand for a byte by byte fallback; undefined for tokenizers that are not of this library,
 * of which it is not known. For what decodes streams.
 */
export let byteOf: (tokenizer: unknown) => ByteOf | undefined;

/**
 * The tokenizer of a checkpoint. `tokenizer(text)` gives `{ input_ids: number[][] }`, as the models take it.
 */
export class AutoTokenizer extends Callable {
  /** Every id that ends a text: generation_config.json, else config.json, else eos_token; and that of an adapter's tokenizer. */
  readonly eos_token_ids: readonly number[];
  /** The tokenizer's own eos_token: what texts end with in training. */
  readonly eos_token_id: number | undefined;
  readonly bos_token_id: number | undefined;
  readonly pad_token_id: number | undefined;
  readonly #tokenizer: SandboxedTokenizer;
  readonly #templates: ChatTemplates;

  static {
    byteOf = (tokenizer) =>
      typeof tokenizer === "function" && #tokenizer in tokenizer
        ? (id) => tokenizer.#tokenizer.byteOf(id)
        : undefined;
  }

  private constructor(
    tokenizer: SandboxedTokenizer,
    { roles, roleIds }: TokenizerDescription,
    files: TokenizerFiles,
    generation: GenerationConfig,
    adapter: string | undefined,
  ) {
    super();
    this.#tokenizer = tokenizer;
    this.#templates = new ChatTemplates(files.chatTemplates, roles);
    this.eos_token_id = roleIds.eos_token;
    const own = this.eos_token_id === undefined ? [] : [this.eos_token_id];
    const configured = generation.eos_token_ids;
    // A tokenizer that an adapter brings has the end token that the adapter was trained with.
    const adds = adapter !== undefined && resolve(adapter) === dirname(files.path);
    this.eos_token_ids = configured.length === 0 || adds ? [...new Set([...configured, ...own])] : configured;
    this.bos_token_id = generation.bos_token_id ?? roleIds.bos_token;
    this.pad_token_id = generation.pad_token_id ?? roleIds.pad_token;
  }

  /**
   * Reads tokenizer.json and, where present, tokenizer_config.json, special_tokens_map.json, added_tokens.json,
   * chat_template.jinja, chat_template.json, generation_config.json and config.json.
   * @param dir the checkpoint's directory
   * @param options.adapter an adapter's folder: its tokenizer and chat template count, where it has them
   * @throws CheckpointError naming the file that is missing or malformed; ConfigError; IoError
   */
  static async from_pretrained(dir: string, { adapter }: { adapter?: string } = {}): Promise<AutoTokenizer> {
    if (typeof dir !== "string")
      throw new ConfigError(`the checkpoint must be a directory, got ${typeof dir}`);
    const [files, generation] = await Promise.all([
      readTokenizerFiles(dir, adapter),
      readGenerationConfig(dir),
    ]);
    const { tokenizer, description } = await SandboxedTokenizer.open(files);
    return new AutoTokenizer(tokenizer, description, files, generation, adapter);
  }

  /** Number of tokens that the tokenizer knows, added ones included. The model's vocabulary may be padded to more. */
  get vocab_size(): number {
    return this.#tokenizer.table.size;
  }

  /** The token's text in the vocabulary, where a space may be "Ġ" or "▁"; undefined for an id that is not in use. */
  id_to_token(id: number): string | undefined {
    return typeof id === "number" ? this.#tokenizer.table.textOf(id) : undefined;
  }

  token_to_id(token: string): number | undefined {
    return typeof token === "string" ? this.#tokenizer.table.idOf(token) : undefined;
  }

  /**
   * Token ids of a text. Waits for the sandbox; {@link encode_async} does not hold up the event loop.
   * @throws ConfigError if text is not a string, or has more than `max_tokens`; CheckpointError if the tokenizer cannot
   *   do it, or not within its limits of time and memory
   */
  encode(text: string, options: EncodeOptions = {}): number[] {
    return this.#tokenizer.encode([text], options)[0]!;
  }

  /** As {@link encode}, off the event loop. Throws AbortError too: the signal ends it at once. */
  async encode_async(
    text: string,
    options: EncodeOptions & { signal?: AbortSignal | undefined } = {},
  ): Promise<number[]> {
    return (await this.#tokenizer.encodeAsync([text], options))[0]!;
  }

  /** Many texts in one go, off the event loop. */
  encode_batch(
    texts: readonly string[],
    options: EncodeOptions & { signal?: AbortSignal | undefined } = {},
  ): Promise<number[][]> {
    return this.#tokenizer.encodeAsync(texts, options);
  }

  /**
   * Text of token ids. Ids that are not in use (padding of the model's vocabulary) have no text.
   * Broken UTF-8 becomes U+FFFD.
   * @throws ConfigError if ids is not an array; CheckpointError if the tokenizer's decoder fails
   */
  decode(ids: readonly number[], options: DecodeOptions = {}): string {
    if (!Array.isArray(ids))
      throw new ConfigError(`the ids to decode must be an array of numbers, got ${typeof ids}`);
    const odd = Array.from(ids).findIndex((id) => typeof id !== "number");
    if (odd >= 0)
      throw new ConfigError(`the ids to decode must be numbers, but number ${odd} is ${shown(ids[odd])}`);
    return this.#tokenizer.decode(ids, options.skip_special_tokens ?? false);
  }

  /**
   * A conversation as the text the model was trained on. Encode it with `add_special_tokens: false`:
   * templates write the begin token themselves.
   * @throws UnsupportedError if the checkpoint has no chat template; ConfigError if it refuses the messages
   */
  apply_chat_template(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    return this.#templates.render(messages, options);
  }

  /** As {@link apply_chat_template}, off the event loop. Throws AbortError too. */
  apply_chat_template_async(
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions = {},
    signal?: AbortSignal,
  ): Promise<string> {
    return this.#templates.renderAsync(messages, options, signal);
  }

  /** What calling the tokenizer does. */
  _call(text: string | readonly string[], options: EncodeOptions = {}): BatchEncoding {
    const texts = typeof text === "string" ? [text] : text;
    if (!Array.isArray(texts))
      throw new ConfigError(`the text to encode must be a string or a list, got ${typeof text}`);
    return { input_ids: this.#tokenizer.encode(texts, options) };
  }
}
