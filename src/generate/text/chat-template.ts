// Renders a conversation into the text a model was trained on, with the checkpoint's Jinja chat template: chooses the
// template and its variables. What templates are is in templates/, what is done to messages in conversation.ts; they run in
// the sandbox, with limits.
import { ConfigError, SpillwayError, UnsupportedError } from "../../base/errors.ts";
import { shown } from "../../base/shown.ts";
import { SandboxFailure } from "../sandbox/failure.ts";
import { type RunOptions, type Sandbox, sandbox } from "../sandbox/sandbox.ts";
import { firstRefusal } from "../templates/plain-data.ts";
import {
  type ChatMessage,
  type ChatTemplateOptions,
  checkLists,
  type Finish,
  hasParts,
  joinParts,
  openFinalMessage,
  textOptions,
} from "./conversation.ts";

export type { ChatMessage, ChatTemplateOptions } from "./conversation.ts";

/** What a rendering needs, and what is done with its text. */
interface Rendering {
  readonly template: string;
  readonly variables: Record<string, unknown>;
  readonly finish: Finish;
  /** Where content comes in parts: the variables for a template that takes text alone. */
  readonly asText: (() => Record<string, unknown>) | undefined;
}

/** The chat templates of one checkpoint, by name; a single one is called "default". */
export class ChatTemplates {
  readonly #templates: ReadonlyMap<string, string>;
  readonly #specialTokens: Readonly<Record<string, unknown>>;
  readonly #sandbox: Sandbox;

  /**
   * @param templates template texts by name
   * @param specialTokens variables such as bos_token, by name
   */
  constructor(templates: ReadonlyMap<string, string>, specialTokens: Readonly<Record<string, unknown>>) {
    this.#templates = templates;
    this.#specialTokens = specialTokens;
    this.#sandbox = sandbox();
  }

  /**
   * The conversation as text. Waits for the sandbox, at most for the sandbox's limit of time.
   * @throws UnsupportedError if there is no template or it cannot be parsed; ConfigError if it refuses the messages
   */
  render(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    const { template, variables, finish, asText } = this.#prepare(messages, options);
    const attempt = (given: Record<string, unknown>) =>
      finish(this.#sandbox.runSync("render", { template, variables: given }, limitsOf(given)));
    try {
      return attempt(variables);
    } catch (error) {
      if (asText === undefined || !mayTakeText(error)) throw explained(error, variables);
    }
    const text = asText();
    try {
      return attempt(text);
    } catch (error) {
      throw explained(error, text);
    }
  }

  /** As {@link render}, without holding up the event loop. Throws AbortError too. */
  async renderAsync(
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions = {},
    signal?: AbortSignal,
  ): Promise<string> {
    const { template, variables, finish, asText } = this.#prepare(messages, options);
    const attempt = async (given: Record<string, unknown>) =>
      finish(
        await this.#sandbox.run("render", { template, variables: given }, { ...limitsOf(given), signal }),
      );
    try {
      return await attempt(variables);
    } catch (error) {
      if (asText === undefined || !mayTakeText(error)) throw explained(error, variables);
    }
    const text = asText();
    try {
      return await attempt(text);
    } catch (error) {
      throw explained(error, text);
    }
  }

  #prepare(messages: readonly ChatMessage[], options: ChatTemplateOptions): Rendering {
    if (!Array.isArray(messages)) {
      throw new ConfigError(`messages must be a list of { role, content }, got ${shown(messages)}`);
    }
    const {
      chat_template,
      add_generation_prompt = false,
      continue_final_message = false,
      tools = null,
      documents = null,
      ...more
    } = textOptions(options);
    checkLists({ tools, documents });
    if (continue_final_message && add_generation_prompt) {
      throw new ConfigError(
        "continue_final_message and add_generation_prompt exclude one another: " +
          "the first goes on with the final message, the second begins another",
      );
    }
    const template = this.#choose(chat_template ?? undefined, tools !== null);
    const opened = continue_final_message
      ? openFinalMessage(messages, continue_final_message, template)
      : { messages, finish: (rendered: string) => rendered };
    const variables = { ...this.#specialTokens, ...more, add_generation_prompt, tools, documents };
    return {
      template,
      variables: { ...variables, messages: opened.messages },
      finish: opened.finish,
      asText: hasParts(messages) ? () => ({ ...variables, messages: joinParts(opened.messages) }) : undefined,
    };
  }

  #choose(requested: string | undefined, hasTools: boolean): string {
    if (requested !== undefined) {
      const named = this.#templates.get(requested);
      if (named !== undefined || requested.includes("{")) return named ?? requested;
      throw new ConfigError(
        `the checkpoint has no chat template "${requested}", only ${this.#names()}; ` +
          "name one of these, or pass a Jinja template",
      );
    }
    const template = (hasTools && this.#templates.get("tool_use")) || this.#templates.get("default");
    if (template !== undefined) return template;
    if (this.#templates.size > 0) {
      throw new ConfigError(
        `the checkpoint's chat templates are ${this.#names()}, none of them the default; name one in chat_template`,
      );
    }
    throw new UnsupportedError(
      "the checkpoint has no chat template, so it is probably not a chat model: " +
        "encode the text itself, or pass a Jinja template as chat_template",
    );
  }

  #names(): string {
    return [...this.#templates.keys()].map((name) => `"${name}"`).join(", ") || "none";
  }
}

/** As transformers does, a template gets content in parts as it is. One that fails on it takes text. */
function mayTakeText(error: unknown): boolean {
  return error instanceof SandboxFailure && (error.kind === "refused" || error.kind === "failed");
}

/** More time for longer conversations. Of what is not text, a little is assumed. */
function limitsOf({ messages }: Record<string, unknown>): RunOptions {
  if (!Array.isArray(messages)) return {};
  const work = messages.reduce((sum: number, message: ChatMessage | null) => {
    const content = message?.content;
    return sum + (typeof content === "string" ? content.length : 1000);
  }, 0);
  return { work };
}

function explained(error: unknown, variables: Readonly<Record<string, unknown>>): unknown {
  if (error instanceof SpillwayError) return error;
  if (!(error instanceof SandboxFailure))
    return new ConfigError(unclonable(error, variables), { cause: error });
  const { kind, message } = error;
  if (kind === "syntax") {
    return new UnsupportedError(`the chat template cannot be parsed: ${message}`, { cause: error });
  }
  const what = kind === "refused" ? "does not accept these messages" : "failed on these messages";
  return new ConfigError(`the chat template ${what}: ${message}`, { cause: error });
}

/** What cannot be handed to the sandbox, by name. */
function unclonable(error: unknown, variables: Readonly<Record<string, unknown>>): string {
  const refused = firstRefusal(variables);
  if (refused !== undefined) return `the chat template failed on these messages: ${refused}`;
  const reason = error instanceof Error ? error.message : String(error);
  return `the messages or variables of the chat template are no plain data: ${reason}`;
}
