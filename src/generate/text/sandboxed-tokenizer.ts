// One tokenizer: texts are encoded in the sandbox, short ones of a plain tokenizer here, and tokens are decoded here. Turns
// the sandbox's failures into errors that name the file. What surrounds it (special tokens' roles, chat templates) is
// tokenizer.ts's.

import { CheckpointError, ConfigError, IoError, SpillwayError, throwIfAborted } from "../../base/errors.ts";
import { shown } from "../../base/shown.ts";
import { LARGE_FILE_LIMIT } from "../../formats/files/json-files.ts";
import { SandboxFailure } from "../sandbox/failure.ts";
import { PlainTokenizer } from "../sandbox/plain-tokenizer.ts";
import type { TokenizerDescription, TokenizerSource } from "../sandbox/protocol.ts";
import { RemoteTokenizer } from "../sandbox/remote-tokenizer.ts";
import { Fields } from "../tokenizer/fields.ts";
import { type Decode, fallbackByte, readDecoder } from "../tokenizer/parts/decoders.ts";
import { TokenTable } from "../tokenizer/token-table.ts";
import type { TokenizerFiles } from "./tokenizer-files.ts";

export interface EncodeOptions {
  /** Add what the tokenizer puts around a text, such as a begin token. Default true. */
  add_special_tokens?: boolean;
  /** Throw a ConfigError if the text has more tokens, without tokenizing what certainly has. */
  max_tokens?: number;
}

export interface DecodeOptions {
  /** Leave out special tokens, such as an end token. Default false. */
  skip_special_tokens?: boolean;
}

type AsyncEncodeOptions = EncodeOptions & { signal?: AbortSignal | undefined };

/** A text has more tokens than its caller can use. `what` is said of it; who knows why there are no more may say so. */
export class TooLongError extends ConfigError {
  readonly what: string;
  constructor(what: string, max_tokens: number) {
    super(`${what}, more than the ${max_tokens} that can be used; shorten it`);
    this.what = what;
  }
}

/** Where a tokenizer's texts are encoded. */
interface Places {
  readonly remote: RemoteTokenizer;
  /** For short texts, if the tokenizer is one that may be used on this thread. */
  readonly plain: PlainTokenizer | undefined;
}

export class SandboxedTokenizer {
  readonly table: TokenTable;
  readonly #places: Places;
  readonly #path: string;
  readonly #special: ReadonlySet<string>;
  readonly #longestToken: number | undefined;
  /** Undefined if tokens are joined by spaces, or decoded in the sandbox. */
  readonly #decode: Decode | undefined;
  readonly #decodesInSandbox: boolean;
  #hasByteFallback: boolean | undefined;

  private constructor(places: Places, path: string, description: TokenizerDescription) {
    this.#places = places;
    this.#path = path;
    this.table = new TokenTable(description.tokens);
    this.#special = new Set(description.specialTokens);
    this.#longestToken = description.longestToken;
    this.#decodesInSandbox = description.decodesInSandbox;
    const { decoder } = description;
    this.#decode =
      decoder === undefined || decoder === null
        ? undefined
        : readDecoder(new Fields(decoder, "decoder"), () => ({ spans: () => [] }));
  }

  /** @throws CheckpointError naming the file and its value that cannot be used; IoError */
  static async open(
    files: TokenizerFiles,
  ): Promise<{ tokenizer: SandboxedTokenizer; description: TokenizerDescription }> {
    const { path, bytes, config, specialTokensMap, addedTokens } = files;
    // Templates are no concern of a tokenizer, and may be long.
    const { chat_template: _, ...settings } = config;
    const source: TokenizerSource = {
      path,
      limit: LARGE_FILE_LIMIT,
      files: { config: settings, specialTokensMap, addedTokens },
    };
    const remote = new RemoteTokenizer(source, bytes);
    try {
      const plain = PlainTokenizer.open(source, bytes);
      const description = plain?.description ?? (await remote.describe());
      source.fingerprint = description.fingerprint;
      return { tokenizer: new SandboxedTokenizer({ remote, plain }, path, description), description };
    } catch (error) {
      remote.release();
      throw loadError(error, path);
    }
  }

  encode(texts: readonly string[], options: EncodeOptions): number[][] {
    const { input, work } = this.#task(texts, options);
    const { plain, remote } = this.#places;
    try {
      return plain?.takes(work) ? plain.encode(input) : remote.encodeSync(input, { work });
    } catch (error) {
      throw this.#error(error, work, options.max_tokens);
    }
  }

  async encodeAsync(texts: readonly string[], options: AsyncEncodeOptions): Promise<number[][]> {
    const { signal } = options;
    const { input, work } = this.#task(texts, options);
    const { plain, remote } = this.#places;
    throwIfAborted(signal);
    try {
      return plain?.takes(work) ? plain.encode(input) : await remote.encode(input, { work, signal });
    } catch (error) {
      throw this.#error(error, work, options.max_tokens);
    }
  }

  #task(texts: readonly string[], options: EncodeOptions) {
    const { add_special_tokens = true, max_tokens } = options;
    let work = 0;
    for (const text of texts) {
      if (typeof text !== "string")
        throw new ConfigError(`the text to encode must be a string, got ${shown(text)}`);
      work += text.length;
      if (max_tokens === undefined || this.#longestToken === undefined) continue;
      // A UTF-16 unit is at least one byte of UTF-8.
      const least = Math.ceil(text.length / this.#longestToken);
      if (least > max_tokens)
        throw new TooLongError(
          `the text of ${text.length} characters has at least ${least} tokens`,
          max_tokens,
        );
    }
    return {
      input: { texts, addSpecialTokens: add_special_tokens, maxTokens: max_tokens },
      work,
    };
  }

  decode(ids: readonly number[], skipsSpecial: NonNullable<DecodeOptions["skip_special_tokens"]>): string {
    const tokens: string[] = [];
    for (const id of ids) {
      const token = this.table.textOf(id);
      if (token !== undefined && !(skipsSpecial && this.#special.has(token))) tokens.push(token);
    }
    if (tokens.length === 0) return "";
    try {
      return this.#join(tokens);
    } catch (error) {
      if (error instanceof SpillwayError) throw error;
      throw new CheckpointError(
        `failed to decode ${tokens.length} tokens: ${messageOf(error)}`,
        { file: this.#path },
        { cause: error },
      );
    }
  }

  /** The byte that a token stands for by byte fallback: in a run of such tokens, one that is broken takes all others with it. */
  byteOf(id: number): number | undefined {
    if (this.#decode === undefined && !this.#decodesInSandbox) return undefined;
    this.#hasByteFallback ??= this.#join(["<0x80>", "<0x41>"]) === "\uFFFD\uFFFD";
    const token = this.#hasByteFallback ? this.table.textOf(id) : undefined;
    return token === undefined || this.#special.has(token) ? undefined : fallbackByte(token);
  }

  #join(tokens: string[]): string {
    if (this.#decodesInSandbox) return this.#places.remote.decodeSync(tokens);
    return this.#decode === undefined ? tokens.join(" ") : this.#decode(tokens).join("");
  }

  #error(error: unknown, characters: number, maxTokens: number | undefined): unknown {
    if (!(error instanceof SandboxFailure)) return error;
    const { kind, message } = error;
    if (kind === "too-many")
      return new TooLongError(
        `the text of ${characters} characters has at least ${maxTokens! + 1} tokens`,
        maxTokens!,
      );
    if (kind === "format" || kind === "changed" || kind === "read") return loadError(error, this.#path);
    return new CheckpointError(
      `failed on a text of ${characters} characters: ${message}`,
      { file: this.#path },
      { cause: error },
    );
  }
}

function loadError(error: unknown, path: string): unknown {
  if (!(error instanceof SandboxFailure)) return error;
  const { kind, message } = error;
  if (kind === "read") return new IoError(message, path, { cause: error });
  const isWhole = kind === "format" || kind === "changed";
  return new CheckpointError(
    isWhole ? message : `is not a tokenizer that can be used (${message})`,
    { file: path },
    { cause: error },
  );
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
