// One tokenizer whose texts are encoded in the sandbox and whose tokens are decoded here. Turns the sandbox's failures into
// errors that name the file. What surrounds it (special tokens' roles, chat templates) is tokenizer.ts's.

import { shown } from "../base/shown.ts";
import { LARGE_FILE_LIMIT } from "../checkpoint/json-files.ts";
import { CheckpointError, ConfigError, IoError, SpillwayError } from "../errors.ts";
import type { Tasks, TokenizerDescription, TokenizerSource } from "../sandbox/protocol.ts";
import { type Sandbox, SandboxFailure, sandbox } from "../sandbox/sandbox.ts";
import { type Decode, fallbackByte, readDecoder } from "../tokenizer/decoders.ts";
import { Fields } from "../tokenizer/fields.ts";
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

/** Tells the sandbox which tokenizers nothing refers to any more. */
const released = new FinalizationRegistry<{ sandbox: Sandbox; handle: number }>(({ sandbox, handle }) =>
  sandbox.release(handle),
);

export class SandboxedTokenizer {
  readonly table: TokenTable;
  readonly #sandbox: Sandbox;
  readonly #handle: number;
  readonly #path: string;
  readonly #special: ReadonlySet<string>;
  readonly #longestToken: number | undefined;
  /** Undefined if tokens are joined by spaces, or decoded in the sandbox. */
  readonly #decode: Decode | undefined;
  readonly #decodesInSandbox: boolean;
  #hasByteFallback: boolean | undefined;

  private constructor(handle: number, path: string, description: TokenizerDescription) {
    this.#sandbox = sandbox();
    this.#handle = handle;
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
    released.register(this, { sandbox: this.#sandbox, handle });
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
    const handle = sandbox().add(source, bytes);
    try {
      const description = await sandbox().run("describe", { tokenizer: handle });
      source.fingerprint = description.fingerprint;
      return { tokenizer: new SandboxedTokenizer(handle, path, description), description };
    } catch (error) {
      sandbox().release(handle);
      throw loadError(error, path);
    }
  }

  encode(texts: readonly string[], options: EncodeOptions): number[][] {
    const { input, work } = this.#task(texts, options);
    try {
      return this.#sandbox.runSync("encode", input, { work }).map((ids) => Array.from(ids));
    } catch (error) {
      throw this.#error(error, work, options.max_tokens);
    }
  }

  async encodeAsync(texts: readonly string[], options: AsyncEncodeOptions): Promise<number[][]> {
    const { input, work } = this.#task(texts, options);
    try {
      const rows = await this.#sandbox.run("encode", input, { work, signal: options.signal });
      return rows.map((ids) => Array.from(ids));
    } catch (error) {
      throw this.#error(error, work, options.max_tokens);
    }
  }

  #task(texts: readonly string[], options: EncodeOptions): { input: Tasks["encode"]["input"]; work: number } {
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
        throw new ConfigError(
          `the text of ${text.length} characters has at least ${least} tokens, more than the ${max_tokens} that can be used; shorten it`,
        );
    }
    return {
      input: { tokenizer: this.#handle, texts, addSpecialTokens: add_special_tokens, maxTokens: max_tokens },
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
    if (this.#decodesInSandbox)
      return this.#sandbox.runSync(
        "decode",
        { tokenizer: this.#handle, tokens },
        { work: tokens.length * 8 },
      );
    return this.#decode === undefined ? tokens.join(" ") : this.#decode(tokens).join("");
  }

  #error(error: unknown, characters: number, maxTokens: number | undefined): unknown {
    if (!(error instanceof SandboxFailure)) return error;
    const { kind, message } = error;
    if (kind === "too-many")
      return new ConfigError(
        `the text of ${characters} characters has more than the ${maxTokens} tokens that can be used; shorten it`,
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
