// Rows to examples: text to token ids, and which of them are learned. One row at a time; lengths are pack.ts's business.

import { ConfigError, SpillwayError, UnsupportedError } from "../../base/errors.ts";
import { shown } from "../../base/shown.ts";
import type { ChatMessage, ChatTemplateOptions } from "../../generate/text/chat-template.ts";
import type { AutoTokenizer, EncodeOptions } from "../../generate/text/tokenizer.ts";
import { renderChat, sharedPrefix } from "./chat-spans.ts";
import { type Example, exampleOf } from "./example.ts";
import { type ChatRow, type CompletionRow, type Row, RowProblem } from "./row.ts";

/** What is used of a tokenizer. Where it can work off the event loop, it does. */
export type RowTokenizer = Pick<AutoTokenizer, "encode" | "apply_chat_template" | "eos_token_ids"> &
  Partial<Pick<AutoTokenizer, "encode_batch" | "apply_chat_template_async" | "eos_token_id" | "id_to_token">>;

export interface EncodeRowOptions {
  /** End texts and completions with the end token, unless the tokenizer does. Default true. Conversations end as their template says. */
  readonly append_eos?: boolean | undefined;
  /** The end token. Default: the tokenizer's own, which is not always the first that ends what is generated. */
  readonly eos_token_id?: number | undefined;
  /** Given to the chat template, such as `chat_template` itself or `date_string`. */
  readonly template_options?: ChatTemplateOptions | undefined;
  /** Rows of the model's embedding. A token that has none cannot be learned. Default: not looked at. */
  readonly vocab_size?: number | undefined;
}

/** No row of conversations can be encoded: there is no template, or it cannot be used. */
class WithoutTemplate extends UnsupportedError {
  constructor(cause: UnsupportedError) {
    const reason = cause.message.replace(/: encode the text itself.*$/s, "");
    super(
      `the rows are conversations, and ${reason}; give one as chat_template (--chat-template FILE), or put a ` +
        "chat_template.jinja into the model's folder",
      { cause },
    );
  }
}

/** Turns rows into examples. */
export class RowEncoder {
  readonly #tokenizer: RowTokenizer;
  readonly #eos: number | undefined;
  readonly #template: ChatTemplateOptions;
  readonly #vocab: number;

  /** Throws ConfigError where an end token is to be appended and the tokenizer names none. */
  constructor(tokenizer: RowTokenizer, options: EncodeRowOptions = {}) {
    const { append_eos = true, template_options = {}, vocab_size = Number.POSITIVE_INFINITY } = options;
    const own = tokenizer.eos_token_id ?? tokenizer.eos_token_ids[0];
    const { eos_token_id = own } = options;
    if (append_eos && eos_token_id === undefined) {
      throw new ConfigError(
        "the tokenizer names no eos_token: give eos_token_id, or set append_eos to false",
      );
    }
    this.#tokenizer = tokenizer;
    this.#eos = append_eos ? eos_token_id : undefined;
    this.#template = template_options;
    this.#vocab = vocab_size;
  }

  /**
   * The example of a row. Its first label, and in unlucky cases all of them, are IGNORE_INDEX.
   * What the tokenizer or the chat template refuses comes back as a {@link RowProblem}, so that the row can be named.
   */
  async encode(row: Row): Promise<Example | RowProblem> {
    try {
      const example = await this.#example(row);
      return example instanceof RowProblem ? example : (this.#beyond(example) ?? example);
    } catch (error) {
      if (!(error instanceof SpillwayError) || error instanceof WithoutTemplate) throw error;
      return new RowProblem(error.message);
    }
  }

  async #example(row: Row): Promise<Example | RowProblem> {
    switch (row.kind) {
      case "text": {
        const [first] = await this.#ids([row.text]);
        const ids = this.#ended(first as number[]);
        return exampleOf(ids, [[0, ids.length]]);
      }
      case "completion":
        return this.#completion(row);
      case "chat":
        return this.#chat(row);
      default:
        return row satisfies never;
    }
  }

  /** Tokens that were added to a tokenizer without a row for them in the model. */
  #beyond({ input_ids }: Example): RowProblem | undefined {
    const id = input_ids.find((one) => !(one < this.#vocab));
    if (id === undefined) return undefined;
    const token = this.#tokenizer.id_to_token?.(id);
    return new RowProblem(
      `has the token ${token === undefined ? id : `${shown(token)} (${id})`}, and the model's vocabulary ends at ` +
        `${this.#vocab - 1}: use the tokenizer the model came with, or resize its embeddings (resize_token_embeddings in ` +
        "transformers) and save it first",
    );
  }

  /**
   * The two are tokenized as one text, as they would be anywhere else. Learned is what follows the tokens that the prompt
   * alone begins with: a token across the boundary belongs to the completion.
   */
  async #completion({ prompt, completion }: CompletionRow): Promise<Example> {
    const [whole, alone] = await this.#ids([prompt + completion, prompt]);
    const ids = whole!;
    const given = sharedPrefix(ids, alone!);
    this.#ended(ids);
    return exampleOf(ids, [[given, ids.length]]);
  }

  async #chat({ messages, learned: turns, tools }: ChatRow): Promise<Example | RowProblem> {
    const chat = await renderChat(messages, turns, (some, options) =>
      this.#render(some, { ...this.#template, tools, ...options }),
    );
    if (chat instanceof RowProblem) return chat;
    const ends = [...new Set(chat.spans.flat())].filter((end) => end < chat.text.length);
    const texts = [chat.text, ...ends.map((end) => chat.text.slice(0, end))];
    const [whole, ...beginnings] = await this.#ids(texts, { add_special_tokens: false });
    const ids = whole!;
    // Tokens do not say which characters they are. Those of a beginning of the text do, as far as they agree with the
    // whole: a token across a boundary belongs to what follows it.
    const tokenAt = (character: number) =>
      character === chat.text.length ? ids.length : sharedPrefix(ids, beginnings[ends.indexOf(character)]!);
    const learned: [number, number][] = [];
    let end = 0;
    for (const [i, span] of chat.spans.entries()) {
      const from = tokenAt(span[0]);
      const to = tokenAt(span[1]);
      if (from < end || to < from) {
        return new RowProblem(
          `the tokens of the assistant's turn ${i + 1} cannot be found: the tokenizer gives the conversation up to it ` +
            "quite other tokens than the whole",
        );
      }
      learned.push([from, this.#endOfTurn(ids, from, to)]);
      end = to;
    }
    return exampleOf(ids, learned);
  }

  /** The ids of several texts. */
  async #ids(texts: readonly string[], options: EncodeOptions = {}): Promise<number[][]> {
    const tokenizer = this.#tokenizer;
    return tokenizer.encode_batch?.(texts, options) ?? texts.map((text) => tokenizer.encode(text, options));
  }

  async #render(messages: readonly ChatMessage[], options: ChatTemplateOptions): Promise<string> {
    try {
      const tokenizer = this.#tokenizer;
      return await (tokenizer.apply_chat_template_async?.(messages, options) ??
        tokenizer.apply_chat_template(messages, options));
    } catch (error) {
      if (error instanceof UnsupportedError) throw new WithoutTemplate(error);
      throw error;
    }
  }

  /** Templates put a line break after the token that ends a turn; nothing is generated after that token, so nothing is learned. */
  #endOfTurn(ids: readonly number[], from: number, to: number): number {
    const { eos_token_ids, eos_token_id } = this.#tokenizer;
    for (let i = to; i > from; i--) {
      const id = ids[i - 1] as number;
      if (id === eos_token_id || eos_token_ids.includes(id)) return i;
    }
    return to;
  }

  /** Appends the end token, if it is not there. */
  #ended(ids: number[]): number[] {
    if (this.#eos !== undefined && ids.at(-1) !== this.#eos) ids.push(this.#eos);
    return ids;
  }
}
