// Prints text while it is generated: token ids in, finished pieces of text out through a callback. As in transformers.js.
import { Listener, requireFunctions } from "../../base/async/listener.ts";
import { ConfigError, UnsupportedError } from "../../base/errors.ts";
import { refuseUnknown } from "../../base/options.ts";
import { shown } from "../../base/shown.ts";
import { IncrementalDecoder } from "./incremental-decoder.ts";
import { byteOf } from "./tokenizer.ts";

/** What is needed of a tokenizer. */
export interface StreamerTokenizer {
  decode(ids: number[], options?: { skip_special_tokens?: boolean }): string;
}

export interface TextStreamerOptions {
  /** Do not print the prompt, which generate() puts first. Default false. */
  skip_prompt?: boolean;
  /** Do not print special tokens, such as an end token. Default true. */
  skip_special_tokens?: boolean;
  /** Receives each piece of text, never empty. By default text goes to stdout, with a line end after it. */
  callback_function?: ((text: string) => void) | null;
  /** Receives the ids of each put that is printed. */
  token_callback_function?: ((ids: number[]) => void) | null;
}

const OPTIONS: readonly (keyof TextStreamerOptions)[] = [
  "skip_prompt",
  "skip_special_tokens",
  "callback_function",
  "token_callback_function",
];

/** Receives token ids from generate() and hands out their text as soon as it is certain. For one sequence. */
export class TextStreamer {
  readonly #decoder: IncrementalDecoder;
  readonly #skipPrompt: boolean;
  /** Absent: to stdout. */
  readonly #onText: Listener<[string]> | undefined;
  readonly #onTokens: Listener<[number[]]>;
  #promptIsNext = true;

  constructor(tokenizer: StreamerTokenizer, options: TextStreamerOptions = {}) {
    refuseUnknown(options, OPTIONS, "TextStreamer");
    if (typeof tokenizer?.decode !== "function")
      throw new ConfigError(
        `a TextStreamer needs a tokenizer, such as await model.tokenizer(), got ${shown(tokenizer)}`,
      );
    const { skip_prompt = false, skip_special_tokens = true } = options;
    requireFunctions(options, ["callback_function", "token_callback_function"]);
    this.#decoder = new IncrementalDecoder(
      (ids) => tokenizer.decode(ids, { skip_special_tokens }),
      byteOf(tokenizer),
    );
    this.#skipPrompt = skip_prompt;
    this.#onText = options.callback_function ? new Listener(options.callback_function) : undefined;
    this.#onTokens = new Listener(options.token_callback_function);
  }

  /**
   * Takes the next ids: the prompt first, then what is generated.
   * @param ids [1, tokens]
   * @throws UnsupportedError if there is more than one sequence
   */
  put(ids: readonly (readonly number[])[]): void {
    if (ids.length > 1) {
      throw new UnsupportedError(
        `a TextStreamer prints one sequence, got ${ids.length}; generate them one by one, or decode them at the end`,
      );
    }
    const isPrompt = this.#promptIsNext;
    this.#promptIsNext = false;
    if (isPrompt && this.#skipPrompt) return;
    const row = [...(ids[0] ?? [])];
    this.#onTokens.tell(row);
    let text = "";
    for (const id of row) text += this.#decoder.push(id);
    this.#emit(text);
  }

  /**
   * The sequence is complete: prints what was held back. The next put is a prompt again. Resolves when promises of the
   * callbacks have come to something, if they gave any.
   */
  end(): Promise<void> {
    this.#promptIsNext = true;
    this.#emit(this.#decoder.flush());
    if (this.#onText === undefined) process.stdout.write("\n");
    return Promise.all([this.#onText?.settled(), this.#onTokens.settled()]).then(() => {});
  }

  #emit(text: string): void {
    if (text === "") return;
    if (this.#onText === undefined) process.stdout.write(text);
    else this.#onText.tell(text);
  }
}
