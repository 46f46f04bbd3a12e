// What a row of a dataset may hold: a text, a prompt with its completion, or a conversation. Shapes only; where rows come
// from is source.ts, what becomes of them is encode.ts.
import { ConfigError } from "../../errors.ts";
import type { ChatMessage } from "../../generate/chat-template.ts";

/** Every token is learned. */
export interface TextRow {
  readonly kind: "text";
  readonly text: string;
}

/** The tokens of the completion are learned. */
export interface CompletionRow {
  readonly kind: "completion";
  readonly prompt: string;
  readonly completion: string;
}

/** The tokens of the assistant's turns are learned. */
export interface ChatRow {
  readonly kind: "chat";
  readonly messages: readonly ChatMessage[];
  /** JSON schemas of functions, for the chat template. */
  readonly tools: unknown[] | null;
}

export type Row = TextRow | CompletionRow | ChatRow;

/** The columns that rows are made of. Others are not read. */
export const ROW_COLUMNS = ["text", "prompt", "completion", "messages", "tools"] as const;

const EXPECTED = '"text", "prompt" with "completion", or "messages"';

/** Why a row cannot be used. */
export class RowProblem {
  readonly problem: string;
  constructor(problem: string) {
    this.problem = problem;
  }
}

/** The error for a row that cannot be used. `where` is file and line, or file and row. */
export function badRow(where: string, problem: string, cause?: unknown): ConfigError {
  return new ConfigError(`${where}: ${problem}`, cause === undefined ? undefined : { cause });
}

/**
 * The row in a value from a file. A null column counts as absent; of several kinds in one row `messages` counts first,
 * then `prompt` and `completion`, then `text`.
 */
export function parseRow(value: unknown): Row | RowProblem {
  if (!isObject(value)) return new RowProblem(`is ${show(value)}, expected an object with ${EXPECTED}`);
  const { text, prompt, completion, messages, tools } = value;
  if (isThere(messages)) return parseChat(messages, tools);
  if (isThere(prompt) || isThere(completion)) {
    if (typeof prompt !== "string") return notString("prompt", prompt);
    if (typeof completion !== "string") return notString("completion", completion);
    return { kind: "completion", prompt, completion };
  }
  if (isThere(text)) return typeof text === "string" ? { kind: "text", text } : notString("text", text);
  const keys = Object.keys(value);
  const found =
    keys.length === 0
      ? "nothing"
      : keys
          .slice(0, 8)
          .map((key) => show(key))
          .join(", ");
  return new RowProblem(`holds ${found}, expected ${EXPECTED}`);
}

function parseChat(messages: unknown, tools: unknown): Row | RowProblem {
  if (!Array.isArray(messages) || messages.length === 0) {
    return new RowProblem(`"messages" is ${show(messages)}, expected a list of { role, content }`);
  }
  for (const [i, message] of messages.entries()) {
    if (!isObject(message) || typeof message.role !== "string") {
      return new RowProblem(`"messages"[${i}] is ${show(message)}, expected { role, content }`);
    }
  }
  if (!messages.some(({ role }) => role === "assistant")) {
    return new RowProblem('"messages" has no turn of the role "assistant", so there is nothing to learn');
  }
  if (isThere(tools) && !Array.isArray(tools)) {
    return new RowProblem(`"tools" is ${show(tools)}, expected a list of JSON schemas`);
  }
  return {
    kind: "chat",
    messages: messages as ChatMessage[],
    tools: isThere(tools) ? (tools as unknown[]) : null,
  };
}

function notString(key: string, value: unknown): RowProblem {
  return new RowProblem(
    isThere(value) ? `"${key}" is ${show(value)}, expected a string` : `"${key}" is missing`,
  );
}

function isThere(value: unknown): boolean {
  return value !== undefined && value !== null;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A value in a message: short, whatever it is. */
function show(value: unknown): string {
  const text =
    JSON.stringify(value, (_key, v: unknown) => (typeof v === "bigint" ? Number(v) : v)) ?? "nothing";
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
}
