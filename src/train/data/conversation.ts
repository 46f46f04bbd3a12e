// Conversations as datasets have them: OpenAI's and TRL's messages, ShareGPT's turns, prompts and completions that are
// lists of messages. All of them become messages of { role, content }, with a mark for those that are learned.
import { parseJson } from "../../base/json.ts";
import { shown } from "../../base/shown.ts";
import type { ChatMessage } from "../../generate/text/chat-template.ts";
import { RowProblem } from "./row-problem.ts";

/** The tokens of the assistant's turns that are marked are learned. */
export interface ChatRow {
  readonly kind: "chat";
  readonly messages: readonly ChatMessage[];
  /** Numbers of the messages whose tokens are learned. */
  readonly learned: readonly number[];
  /** JSON schemas of functions, for the chat template. */
  readonly tools: unknown[] | null;
}

type Columns = Readonly<Record<string, unknown>>;

/** Who speaks in ShareGPT's rows (https://github.com/lm-sys/FastChat, and what axolotl and LLaMA-Factory read). */
const SPEAKERS: Readonly<Record<string, string>> = {
  ...{ human: "user", user: "user", gpt: "assistant", assistant: "assistant", model: "assistant" },
  ...{ chatgpt: "assistant", bing: "assistant", bard: "assistant", system: "system", tool: "tool" },
  observation: "tool",
};

/** A conversation in one column. */
export function parseChat(column: string, value: unknown, row: Columns): ChatRow | RowProblem {
  const turns = parseTurns(column, value);
  if (turns instanceof RowProblem) return turns;
  // ShareGPT's rows may have the system's words in a column of their own.
  const { system } = row;
  if (column === "conversations" && typeof system === "string" && turns[0]?.message.role !== "system")
    turns.unshift({ message: { role: "system", content: system }, learned: false });
  return chatRow(column, turns, row);
}

/** A conversation whose end is to be learned (TRL's conversational prompt-completion rows). */
export function parsePair(
  prompt: readonly unknown[],
  completion: readonly unknown[],
  row: Columns,
): ChatRow | RowProblem {
  const before = parseTurns("prompt", prompt);
  if (before instanceof RowProblem) return before;
  const after = parseTurns("completion", completion);
  if (after instanceof RowProblem) return after;
  return chatRow(
    "completion",
    [...before.map(({ message }) => ({ message, learned: false })), ...after],
    row,
  );
}

interface Turn {
  readonly message: ChatMessage;
  /** Unless it is not the assistant's. */
  readonly learned: boolean;
}

function chatRow(column: string, turns: readonly Turn[], row: Columns): ChatRow | RowProblem {
  const messages = turns.map(({ message }) => message);
  if (!messages.some(({ role }) => role === "assistant"))
    return new RowProblem(`"${column}" has no turn of the role "assistant", so there is nothing to learn`);
  const tools = parseTools(row.tools);
  if (tools instanceof RowProblem) return tools;
  const learned = [...turns.keys()].filter((i) => turns[i]?.learned && messages[i]?.role === "assistant");
  return { kind: "chat", messages, learned, tools };
}

function parseTurns(column: string, value: unknown): Turn[] | RowProblem {
  if (!Array.isArray(value) || value.length === 0)
    return new RowProblem(`"${column}" is ${shown(value)}, expected a list of { role, content }`);
  const turns: Turn[] = [];
  for (const [i, item] of value.entries()) {
    const turn = parseTurn(`"${column}"[${i}]`, item);
    if (turn instanceof RowProblem) return turn;
    turns.push(turn);
  }
  return turns;
}

/** `weight` is OpenAI's mark of a turn that is not learned, `train` axolotl's. */
function parseTurn(at: string, item: unknown): Turn | RowProblem {
  if (typeof item !== "object" || item === null || Array.isArray(item))
    return new RowProblem(`${at} is ${shown(item)}, expected { role, content }`);
  const { weight, train, ...fields } = item as Record<string, unknown>;
  for (const [name, mark] of Object.entries({ weight, train })) {
    if (mark === undefined || mark === null || isMark(mark)) continue;
    return new RowProblem(
      `${at}: ${name} is ${shown(mark)}, expected 1 to learn the turn or 0 to pass over it`,
    );
  }
  const learned = [weight, train].every((mark) => mark === undefined || mark === null || Number(mark) === 1);
  if (typeof fields.role === "string") return { message: fields as ChatMessage, learned };
  const { from, value, ...others } = fields;
  if (typeof from !== "string") return new RowProblem(`${at} is ${shown(item)}, expected { role, content }`);
  const role = Object.hasOwn(SPEAKERS, from.toLowerCase()) ? SPEAKERS[from.toLowerCase()] : undefined;
  if (role === undefined)
    return new RowProblem(
      `${at}: from is ${shown(from)}, expected one of ${Object.keys(SPEAKERS).join(", ")}; write calls of functions as ` +
        "messages of { role, tool_calls }",
    );
  if (typeof value !== "string") return new RowProblem(`${at}: value is ${shown(value)}, expected a string`);
  return { message: { ...without(others, "role", "content"), role, content: value }, learned };
}

/** A Parquet column of structs has every field in every row, null where it is not set. */
function without(fields: Record<string, unknown>, ...names: string[]): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).filter(([name]) => !names.includes(name)));
}

function isMark(value: unknown): boolean {
  return value === 0 || value === 1 || typeof value === "boolean";
}

/** A list, or the same as JSON in a string, which is how columns of one type have it. */
function parseTools(tools: unknown): unknown[] | null | RowProblem {
  if (tools === undefined || tools === null || tools === "") return null;
  if (Array.isArray(tools)) return tools as unknown[];
  let problem = "";
  if (typeof tools === "string") {
    try {
      const parsed = parseJson(tools);
      if (Array.isArray(parsed)) return parsed as unknown[];
      if (parsed === null) return null;
    } catch (error) {
      problem = ` (${error instanceof Error ? error.message : String(error)})`;
    }
  }
  return new RowProblem(`"tools" is ${shown(tools)}, expected a list of JSON schemas${problem}`);
}
