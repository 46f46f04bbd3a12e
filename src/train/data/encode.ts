// Rows to examples: text to token ids, and which of them are learned. One row at a time; lengths are pack.ts's business.
import { ConfigError, SpillwayError } from "../../errors.ts";
import type { ChatTemplateOptions } from "../../generate/chat-template.ts";
import type { AutoTokenizer, EncodeOptions } from "../../generate/tokenizer.ts";
import { renderChat, sharedPrefix } from "./chat-spans.ts";
import { type Example, exampleOf } from "./example.ts";
import { type ChatRow, type CompletionRow, type Row, RowProblem } from "./row.ts";

/** What is used of a tokenizer. Where it can work off the event loop, it does. */
export type RowTokenizer = Pick<AutoTokenizer, "encode" | "apply_chat_template" | "eos_token_ids"> &
  Partial<Pick<AutoTokenizer, "encode_batch" | "apply_chat_template_async">>;

export interface EncodeRowOptions {
  /** End texts and completions with the end token, unless the tokenizer does. Default true. Conversations end as their template says. */
  readonly append_eos?: boolean | undefined;
  /** The end token. Default: the first of the tokenizer's. */
  readonly eos_token_id?: number | undefined;
  /** Given to the chat template, such as `chat_template` itself or `date_string`. */
  readonly template_options?: ChatTemplateOptions | undefined;
}

/** Turns rows into examples. */
export class RowEncoder {
  readonly #tokenizer: RowTokenizer;
  readonly #eos: number | undefined;
  readonly #template: ChatTemplateOptions;

  /** Throws ConfigError where an end token is to be appended and the tokenizer names none. */
  constructor(tokenizer: RowTokenizer, options: EncodeRowOptions = {}) {
    const { append_eos = true, eos_token_id = tokenizer.eos_token_ids[0], template_options = {} } = options;
    if (append_eos && eos_token_id === undefined) {
      throw new ConfigError(
        "the tokenizer names no eos_token: give eos_token_id, or set append_eos to false",
      );
    }
    this.#tokenizer = tokenizer;
    this.#eos = append_eos ? eos_token_id : undefined;
    this.#template = template_options;
  }

  /**
   * The example of a row. Its first label, and in unlucky cases all of them, are IGNORE_INDEX.
   * What the tokenizer or the chat template refuses comes back as a {@link RowProblem}, so that the row can be named.
   */
  async encode(row: Row): Promise<Example | RowProblem> {
    try {
      switch (row.kind) {
        case "text": {
          const [first] = await this.#ids([row.text]);
          const ids = this.#ended(first!);
          return exampleOf(ids, [[0, ids.length]]);
        }
        case "completion":
          return await this.#completion(row);
        case "chat":
          return await this.#chat(row);
        default:
          return row satisfies never;
      }
    } catch (error) {
      if (!(error instanceof SpillwayError)) throw error;
      return new RowProblem(error.message);
    }
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

  async #chat({ messages, tools }: ChatRow): Promise<Example | RowProblem> {
    const chat = await renderChat(messages, (some, options) => {
      const given = { ...this.#template, tools, ...options };
      const tokenizer = this.#tokenizer;
      return tokenizer.apply_chat_template_async?.(some, given) ?? tokenizer.apply_chat_template(some, given);
    });
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

  /** Templates put a line break after the token that ends a turn; nothing is generated after that token, so nothing is learned. */
  #endOfTurn(ids: readonly number[], from: number, to: number): number {
    for (let i = to; i > from; i--) if (this.#tokenizer.eos_token_ids.includes(ids[i - 1]!)) return i;
    return to;
  }

  /** Appends the end token, if it is not there. */
  #ended(ids: number[]): number[] {
    if (this.#eos !== undefined && ids.at(-1) !== this.#eos) ids.push(this.#eos);
    return ids;
  }
}
