// Finds the assistant's turns in a rendered conversation, whatever the chat template: the text up to a turn is what the
// template makes of the messages up to it. Does not know any template's markers.
import type { ChatMessage, ChatTemplateOptions } from "../../generate/text/chat-template.ts";
import { RowProblem } from "./row-problem.ts";

/** Renders messages with the row's template and options. */
export type Render = (
  messages: readonly ChatMessage[],
  options?: ChatTemplateOptions,
) => string | Promise<string>;

/** Characters [from, to) of the text. */
export type TextSpan = readonly [from: number, to: number];

export interface RenderedChat {
  readonly text: string;
  /** What the assistant says in each of the turns asked for, with what ends the turn. In order. */
  readonly spans: readonly TextSpan[];
}

/**
 * The conversation as text, and where the assistant speaks in the messages numbered in `turns`.
 *
 * A turn begins after what the model is given to begin its answer (the messages before, with `add_generation_prompt`) and
 * ends where the messages up to and including it end. A template may begin an answer with more than a turn of the past
 * has ("<think>"): then the turn begins where the two part, if that is past the messages before it.
 * A {@link RowProblem} if the template renders a message differently once others follow (some drop earlier reasoning):
 * then no text belongs to the turn alone.
 */
export async function renderChat(
  messages: readonly ChatMessage[],
  turns: readonly number[],
  render: Render,
): Promise<RenderedChat | RowProblem> {
  const text = await render(messages);
  const spans: TextSpan[] = [];
  for (const i of turns) {
    const through = i + 1 === messages.length ? text : await render(messages.slice(0, i + 1));
    if (!text.startsWith(through)) return unstable(i, text, through);
    const asked = await render(messages.slice(0, i), { add_generation_prompt: true });
    let from = asked.length;
    if (!text.startsWith(asked)) {
      const before = await render(messages.slice(0, i));
      from = sharedPrefix(text, asked);
      if (!text.startsWith(before) || from < before.length) return unstable(i, text, asked);
    }
    // A template that repeats nothing of an empty turn can end before it began.
    spans.push([Math.min(from, through.length), through.length]);
  }
  return { text, spans };
}

function unstable(turn: number, text: string, prefix: string): RowProblem {
  const at = sharedPrefix(text, prefix);
  const show = (s: string) => JSON.stringify(s.slice(Math.max(0, at - 20), at + 20));
  return new RowProblem(
    `the chat template does not render the messages up to number ${turn} the same way with and without those after them ` +
      `(${show(prefix)} and ${show(text)} at character ${at}), so the assistant's words cannot be told from the rest: ` +
      "end the conversation with that turn, or give a chat_template that renders every turn the same way",
  );
}

/** Length of what two strings, or two lists of ids, have in common at their beginning. */
export function sharedPrefix<T>(a: ArrayLike<T>, b: ArrayLike<T>): number {
  const limit = Math.min(a.length, b.length);
  let i = 0;
  while (i < limit && a[i] === b[i]) i++;
  return i;
}
