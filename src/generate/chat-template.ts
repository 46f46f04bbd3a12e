// Turns a conversation into the text a model was trained on, with the checkpoint's Jinja chat template. Chooses the
// template and its variables; it runs in the sandbox, with limits.
import { ConfigError, SpillwayError, UnsupportedError } from "../errors.ts";
import { type Sandbox, SandboxFailure, sandbox } from "../sandbox/sandbox.ts";

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
  /** JSON schemas of the functions that the model may call. */
  tools?: unknown[] | null;
  documents?: unknown[] | null;
  /** The name of one of the checkpoint's templates, or a template. */
  chat_template?: string;
  [variable: string]: unknown;
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
    const input = this.#input(messages, options);
    try {
      return this.#sandbox.runSync("render", input, { work: workOf(input.variables) });
    } catch (error) {
      throw failed(error);
    }
  }

  /** As {@link render}, without holding up the event loop. Throws AbortError too. */
  async renderAsync(
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions = {},
    signal?: AbortSignal,
  ): Promise<string> {
    const input = this.#input(messages, options);
    try {
      return await this.#sandbox.run("render", input, { work: workOf(input.variables), signal });
    } catch (error) {
      throw failed(error);
    }
  }

  #input(messages: readonly ChatMessage[], options: ChatTemplateOptions) {
    if (!Array.isArray(messages)) {
      throw new ConfigError(`messages must be a list of { role, content }, got ${typeof messages}`);
    }
    const {
      chat_template,
      add_generation_prompt = false,
      tools = null,
      documents = null,
      ...variables
    } = options;
    const template = this.#choose(chat_template, tools !== null);
    return {
      template,
      variables: { ...this.#specialTokens, ...variables, messages, add_generation_prompt, tools, documents },
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

/** More time for longer conversations. Of what is not text, a little is assumed. */
function workOf(variables: Record<string, unknown>): number {
  const { messages } = variables;
  if (!Array.isArray(messages)) return 0;
  return messages.reduce((sum: number, message: ChatMessage | null) => {
    const content = message?.content;
    return sum + (typeof content === "string" ? content.length : 1000);
  }, 0);
}

function failed(error: unknown): unknown {
  if (error instanceof SpillwayError) return error;
  if (!(error instanceof SandboxFailure))
    return new ConfigError(
      `the messages or variables of the chat template are no plain data: ${error instanceof Error ? error.message : error}`,
      { cause: error },
    );
  const { kind, message } = error;
  if (kind === "syntax")
    return new UnsupportedError(`the chat template cannot be parsed: ${message}`, { cause: error });
  const what = kind === "refused" ? "does not accept these messages" : "failed on these messages";
  return new ConfigError(`the chat template ${what}: ${message}`, { cause: error });
}
