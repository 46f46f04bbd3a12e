// What apply_chat_template does around a template: checks messages, tools and options, opens the final message for
// continuation, and joins content given in parts for templates that take text alone. Does not render.
import { ConfigError } from "../../base/errors.ts";
import { listed } from "../../base/notes.ts";
import { shown } from "../../base/shown.ts";

/** One turn. Templates may read further fields, such as tool_calls. */
export interface ChatMessage {
  role: string;
  content?: unknown;
  [field: string]: unknown;
}

/** Options of apply_chat_template; those not named here reach the template as variables of that name. */
export interface ChatTemplateOptions {
  /** End with the beginning of an assistant turn. Default false. */
  add_generation_prompt?: boolean;
  /** Leave the final message open, so that the model goes on with it: true, or the field of the message to continue. */
  continue_final_message?: boolean | string;
  /** JSON schemas of the functions that the model may call. */
  tools?: unknown[] | null;
  documents?: unknown[] | null;
  /** The name of one of the checkpoint's templates, or a template. */
  chat_template?: string | null;
  [variable: string]: unknown;
}

/** Marks the end of the message to continue, as transformers does it. */
const TAG = "CONTINUE_FINAL_MESSAGE_TAG ";

/** Options of transformers that are about tokens, not text. They are no variables of the template. */
const ABOUT_TOKENS = [
  "tokenize",
  "return_dict",
  "return_tensors",
  "return_assistant_tokens_mask",
  "padding",
  "truncation",
  "max_length",
  "tokenizer_kwargs",
];

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** The options that are not about tokens. @throws ConfigError for one that asks for tokens */
export function textOptions(options: ChatTemplateOptions): ChatTemplateOptions {
  const asked = ABOUT_TOKENS.filter((name) => options[name] !== undefined);
  if (asked.length === 0) return options;
  const wanted = asked.filter((name) => options[name] !== false && options[name] !== null);
  if (wanted.length > 0) {
    throw new ConfigError(
      `apply_chat_template gives text, so ${listed(wanted)} cannot be honoured: ` +
        "encode the text, with add_special_tokens: false",
    );
  }
  return Object.fromEntries(Object.entries(options).filter(([name]) => !asked.includes(name)));
}

/** @throws ConfigError for tools and documents that are not lists of objects */
export function checkLists({ tools, documents }: Pick<ChatTemplateOptions, "tools" | "documents">): void {
  checkList("tools", tools, "the JSON schema of a function");
  checkList("documents", documents, "an object with title and text");
}

function checkList(name: string, list: unknown, what: string): void {
  if (list === null || list === undefined) return;
  if (!Array.isArray(list)) throw new ConfigError(`${name} must be a list, got ${shown(list)}`);
  for (const [i, one] of list.entries()) {
    if (!isObject(one)) throw new ConfigError(`${name}[${i}] must be ${what}, got ${shown(one)}`);
  }
}

/** How the text after a rendering becomes that of a message left open. */
export type Finish = (rendered: string) => string;

/**
 * The messages with the final one marked for continuation, and what takes the mark away again.
 * @param field true for "content", or the name of the field to continue, such as "reasoning_content"
 * @throws ConfigError if there is nothing to continue, or the template does not read the field
 */
export function openFinalMessage(
  messages: readonly ChatMessage[],
  field: true | string,
  template: string,
): { messages: readonly ChatMessage[]; finish: Finish } {
  const name = field === true ? "content" : field;
  const last = messages.at(-1);
  const value = isObject(last) ? last[name] : undefined;
  if (last === undefined || value === undefined || value === null) {
    throw new ConfigError(`continue_final_message: the final message has no "${name}" to continue`);
  }
  if (!template.includes(name)) {
    throw new ConfigError(`continue_final_message: the chat template does not read "${name}"`);
  }
  const { text, marked } = markEnd(value, name);
  return {
    messages: [...messages.slice(0, -1), { ...last, [name]: marked }],
    finish: (rendered) => cutAtTag(rendered, text),
  };
}

/** A text with the mark at its end; of a list of parts, the last part that has text. */
function markEnd(value: unknown, name: string): { text: string; marked: unknown } {
  if (typeof value === "string") return { text: value, marked: value + TAG };
  if (!Array.isArray(value)) {
    throw new ConfigError(
      `continue_final_message: "${name}" must be text or a list of parts, got ${shown(value)}`,
    );
  }
  const at = value.findLastIndex((part) => isObject(part) && part.text !== undefined);
  const part: unknown = value[at];
  if (!isObject(part) || typeof part.text !== "string") {
    throw new ConfigError(
      `continue_final_message: the final message's "${name}" has no part with text to continue`,
    );
  }
  return { text: part.text, marked: value.with(at, { ...part, text: part.text + TAG }) };
}

function cutAtTag(rendered: string, text: string): string {
  const mark = TAG.trimEnd();
  const at = rendered.lastIndexOf(mark);
  if (at < 0 || !rendered.includes(stripSpace(text))) {
    throw new ConfigError(
      "continue_final_message: the final message is not in the rendered text as it is, so it cannot be continued. " +
        `The chat template may drop a part of it. The message: ${shown(text)}`,
    );
  }
  const before = rendered.slice(0, at);
  // A template that trims took the space of the mark: then white space before it is to go too.
  return rendered.startsWith(TAG, at) ? before : before.replace(END_SPACE, "");
}

// White space as Python has it.
const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const END_SPACE = new RegExp(`(?<!${SPACE})${SPACE}+$`);
const START_SPACE = new RegExp(`^${SPACE}+`);
const stripSpace = (text: string): string => text.replace(START_SPACE, "").replace(END_SPACE, "");

/** Whether some message's content is a list, as that of models that also see and hear. */
export function hasParts(messages: readonly ChatMessage[]): boolean {
  return messages.some((message) => Array.isArray(message?.content));
}

/**
 * The messages with the text parts of each content joined by a space, as transformers' server does for models that
 * read text alone.
 * @throws ConfigError naming a part that is not text
 */
export function joinParts(messages: readonly ChatMessage[]): ChatMessage[] {
  return messages.map((message, i) => {
    if (!Array.isArray(message?.content)) return message;
    const texts = message.content.map((part: unknown, j) => {
      if (typeof part === "string") return part;
      if (isObject(part) && typeof part.text === "string" && isText(part.type)) return part.text;
      throw new ConfigError(
        `messages[${i}].content[${j}] is ${shown(part)}, and the chat template takes text alone: ` +
          'leave it out, or give its content as { type: "text", text }',
      );
    });
    return { ...message, content: texts.join(" ") };
  });
}

const isText = (type: unknown): boolean =>
  type === undefined || type === "text" || type === "input_text" || type === "output_text";
