// Renders a conversation into the text a model was trained on, with the checkpoint's Jinja chat template.
// Not a general template engine: it offers what transformers offers to templates, and bounds what they can do.
import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";
import { ConfigError, UnsupportedError } from "../errors.ts";

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

/** The limit of Jinja's own sandbox (jinja2.sandbox.MAX_RANGE). */
const MAX_RANGE = 100_000;

/** The template itself called raise_exception: it does not accept these messages. */
class Refusal extends Error {}

/** A parsed template. The library's declarations do not resolve under NodeNext, so what is used of it is typed here. */
type Program = NonNullable<unknown>;
interface Scope {
  set(name: string, value: unknown): void;
}
interface TemplateRunner {
  run(program: Program): { value: unknown };
}

/** The chat templates of one checkpoint, by name; a single one is called "default". */
export class ChatTemplates {
  readonly #templates: ReadonlyMap<string, string>;
  readonly #specialTokens: Readonly<Record<string, unknown>>;
  readonly #parsed = new Map<string, Program>();

  /**
   * @param templates template texts by name
   * @param specialTokens variables such as bos_token, by name
   */
  constructor(templates: ReadonlyMap<string, string>, specialTokens: Readonly<Record<string, unknown>>) {
    this.#templates = templates;
    this.#specialTokens = specialTokens;
  }

  /**
   * The conversation as text.
   * @throws UnsupportedError if there is no template or it cannot be parsed; ConfigError if it refuses the messages
   */
  render(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
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
    const program = this.#parse(this.#choose(chat_template, tools !== null));
    const scope = {
      true: true,
      True: true,
      false: false,
      False: false,
      none: null,
      None: null,
      range,
      raise_exception: (message: unknown) => {
        throw new Refusal(String(message));
      },
      strftime_now: (format: unknown) => strftime(new Date(), String(format)),
      ...this.#specialTokens,
      ...variables,
      messages,
      add_generation_prompt,
      tools,
      documents,
    };
    try {
      const environment: Scope = new Environment();
      for (const [name, value] of Object.entries(scope)) environment.set(name, value);
      const runner: TemplateRunner = new Interpreter(environment);
      return String(runner.run(program).value);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      const what = error instanceof Refusal ? "does not accept these messages" : "failed on these messages";
      throw new ConfigError(`the chat template ${what}: ${reason}`, { cause: error });
    }
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

  #parse(template: string): Program {
    const known = this.#parsed.get(template);
    if (known !== undefined) return known;
    try {
      const program: Program = parse(tokenize(template, { lstrip_blocks: true, trim_blocks: true }));
      // Only the checkpoint's own are kept: callers may bring any number of others.
      if ([...this.#templates.values()].includes(template)) this.#parsed.set(template, program);
      return program;
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new UnsupportedError(`the chat template cannot be parsed: ${reason}`, { cause: error });
    }
  }
}

/** Python's range(), bounded as in Jinja's sandbox so that a template cannot exhaust memory. */
function range(first: number, second?: number | null, step: number | null = 1): number[] {
  const [start, stop] = second === undefined || second === null ? [0, first] : [first, second];
  const by = step ?? 1;
  if (by === 0) throw new Error("range() step must not be zero");
  const length = Math.max(0, Math.ceil((stop - start) / by));
  if (!(length <= MAX_RANGE))
    throw new Error(`range() of ${length} numbers, at most ${MAX_RANGE} are allowed`);
  return Array.from({ length }, (_, i) => start + i * by);
}

/** Python's strftime in the C locale, local time: a prompt must not depend on the machine's language. */
export function strftime(date: Date, format: string): string {
  const pad = (value: number, width = 2) => String(value).padStart(width, "0");
  const name = (options: Intl.DateTimeFormatOptions) =>
    new Intl.DateTimeFormat("en-US", options).format(date);
  const fields: Record<string, () => string> = {
    Y: () => String(date.getFullYear()),
    y: () => pad(date.getFullYear() % 100),
    m: () => pad(date.getMonth() + 1),
    B: () => name({ month: "long" }),
    b: () => name({ month: "short" }),
    d: () => pad(date.getDate()),
    A: () => name({ weekday: "long" }),
    a: () => name({ weekday: "short" }),
    H: () => pad(date.getHours()),
    I: () => pad(date.getHours() % 12 || 12),
    M: () => pad(date.getMinutes()),
    S: () => pad(date.getSeconds()),
    p: () => (date.getHours() < 12 ? "AM" : "PM"),
    "%": () => "%",
  };
  return format.replace(/%(.)/gs, (directive, letter: string) => fields[letter]?.() ?? directive);
}
