// What a row of a dataset may hold: a text, a prompt with its completion, or a conversation, in the columns people have
// them in. Shapes only; conversations are conversation.ts, where rows come from is source.ts, what becomes of them encode.ts.

import { ConfigError } from "../../base/errors.ts";
import { shown } from "../../base/shown.ts";
import { type ChatRow, parseChat, parsePair } from "./conversation.ts";
import { notString, RowProblem } from "./row-problem.ts";

export type { ChatRow } from "./conversation.ts";
export { RowProblem } from "./row-problem.ts";

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

export type Row = TextRow | CompletionRow | ChatRow;

/** The columns that rows are made of. Others are not read. */
export const ROW_COLUMNS = [
  ...["text", "prompt", "completion", "messages", "tools"],
  ...["conversations", "system", "instruction", "input", "output"],
] as const;

/** Columns of which one set makes a row, for messages. */
export const ROW_KINDS =
  '"text", "prompt" with "completion", "messages", "conversations" or "instruction" with "output"';

/** Whether a file with these columns can have rows. */
export function makesRows(columns: readonly string[]): boolean {
  const has = (...names: string[]) => names.every((name) => columns.includes(name));
  return (
    has("text") ||
    has("messages") ||
    has("conversations") ||
    has("prompt", "completion") ||
    has("instruction", "output")
  );
}

/** The error for a row that cannot be used. `where` is file and line, or file and row. */
export function badRow(where: string, problem: string, cause?: unknown): ConfigError {
  return new ConfigError(`${where}: ${problem}`, cause === undefined ? undefined : { cause });
}

/**
 * The row in a value from a file. A null column counts as absent; of several kinds in one row the first counts of
 * `messages`, `conversations`, `prompt` and `completion`, `instruction` and `output`, `text`.
 */
export function parseRow(value: unknown): Row | RowProblem {
  if (!isObject(value)) return new RowProblem(`is ${shown(value)}, expected an object with ${ROW_KINDS}`);
  const { text, prompt, completion, messages, conversations, instruction, output } = value;
  if (isThere(messages)) return parseChat("messages", messages, value);
  if (isThere(conversations)) return parseChat("conversations", conversations, value);
  if (isThere(prompt) || isThere(completion)) {
    if (Array.isArray(prompt) && Array.isArray(completion)) return parsePair(prompt, completion, value);
    if (typeof prompt !== "string") return notString("prompt", prompt, value, typeof completion);
    if (typeof completion !== "string") return notString("completion", completion, value, typeof prompt);
    return { kind: "completion", prompt, completion };
  }
  if (isThere(instruction) || isThere(output)) return parseInstruction(value);
  if (isThere(text))
    return typeof text === "string" ? { kind: "text", text } : notString("text", text, value);
  const columns = Object.keys(value);
  const empty = columns.find((name) => (ROW_COLUMNS as readonly string[]).includes(name));
  if (empty !== undefined) return new RowProblem(`"${empty}" is null, and there is no other of ${ROW_KINDS}`);
  const found =
    columns.length === 0
      ? "nothing"
      : columns
          .slice(0, 8)
          .map((key) => shown(key))
          .join(", ");
  const pair = "chosen" in value && "rejected" in value ? "; training on preferences is not supported" : "";
  return new RowProblem(`holds ${found}, expected ${ROW_KINDS}${pair}`);
}

const TASK = "Below is an instruction that describes a task";
const ANSWER = "Write a response that appropriately completes the request.";

/** Alpaca's rows, with the prompts its models were trained with (tatsu-lab/stanford_alpaca, train.py). */
function parseInstruction(row: Readonly<Record<string, unknown>>): Row | RowProblem {
  const { instruction, input, output } = row;
  if (typeof instruction !== "string") return notString("instruction", instruction, row);
  if (typeof output !== "string") return notString("output", output, row);
  if (isThere(input) && typeof input !== "string") return notString("input", input, row);
  const prompt =
    typeof input === "string" && input !== ""
      ? `${TASK}, paired with an input that provides further context. ${ANSWER}\n\n` +
        `### Instruction:\n${instruction}\n\n### Input:\n${input}\n\n### Response:`
      : `${TASK}. ${ANSWER}\n\n### Instruction:\n${instruction}\n\n### Response:`;
  return { kind: "completion", prompt, completion: output };
}

function isThere(value: unknown): boolean {
  return value !== undefined && value !== null;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
