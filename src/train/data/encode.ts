// Rows to examples: text to token ids, and which of them are learned. One row at a time; lengths are pack.ts's business.
import { ConfigError, SpillwayError } from "../../errors.ts";
import type { ChatTemplateOptions } from "../../generate/chat-template.ts";
import type { AutoTokenizer } from "../../generate/tokenizer.ts";
import { renderChat, sharedPrefix } from "./chat-spans.ts";
import { type Example, exampleOf } from "./example.ts";
import { type ChatRow, type CompletionRow, type Row, RowProblem } from "./row.ts";

/** What is used of a tokenizer. */
export type RowTokenizer = Pick<AutoTokenizer, "encode" | "apply_chat_template" | "eos_token_ids">;

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
  encode(row: Row): Example | RowProblem {
    try {
      switch (row.kind) {
        case "text": {
          const ids = this.#ended(this.#tokenizer.encode(row.text));
          return exampleOf(ids, [[0, ids.length]]);
        }
        case "completion":
          return this.#completion(row);
        case "chat":
          return this.#chat(row);
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
  #completion({ prompt, completion }: CompletionRow): Example {
    const ids = this.#tokenizer.encode(prompt + completion);
    const given = sharedPrefix(ids, this.#tokenizer.encode(prompt));
    this.#ended(ids);
    return exampleOf(ids, [[given, ids.length]]);
  }

  #chat({ messages, tools }: ChatRow): Example | RowProblem {
    const chat = renderChat(messages, (some, options) =>
      this.#tokenizer.apply_chat_template(some, { ...this.#template, tools, ...options }),
    );
    if (chat instanceof RowProblem) return chat;
    const encode = (text: string) => this.#tokenizer.encode(text, { add_special_tokens: false });
    const ids = encode(chat.text);
    // Tokens do not say which characters they are. Those of a beginning of the text do, as far as they agree with the
    // whole: a token across a boundary belongs to what follows it.
    const tokenAt = (character: number) =>
      character === chat.text.length ? ids.length : sharedPrefix(ids, encode(chat.text.slice(0, character)));
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
