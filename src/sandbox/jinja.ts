// Renders a Jinja template with what transformers offers to templates. Runs in the sandbox: how long it takes and what it
// allocates is bounded there.
import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";

/** The limit of Jinja's own sandbox (jinja2.sandbox.MAX_RANGE). */
const MAX_RANGE = 100_000;
/** Parsed templates are kept, for a chat renders the same one again and again. */
const MOST_PARSED = 16;

/** Why a template gave no text: the template refused the messages, failed on them, or cannot be parsed. */
class TemplateFailure extends Error {
  readonly kind: "refused" | "failed" | "syntax";
  constructor(kind: TemplateFailure["kind"], message: string) {
    super(message);
    this.kind = kind;
  }
}

/** A parsed template. The library's declarations do not resolve under NodeNext, so what is used of it is typed here. */
type Program = NonNullable<unknown>;
interface Scope {
  set(name: string, value: unknown): void;
}
interface TemplateRunner {
  run(program: Program): { value: unknown };
}

const parsed = new Map<string, Program>();

/** The text of a template with these variables. Throws errors whose `kind` is "refused", "failed" or "syntax". */
export function renderTemplate(source: string, variables: Record<string, unknown>): string {
  const program = programOf(source);
  const scope = {
    true: true,
    True: true,
    false: false,
    False: false,
    none: null,
    None: null,
    range,
    raise_exception: (message: unknown) => {
      throw new TemplateFailure("refused", String(message));
    },
    strftime_now: (format: unknown) => strftime(new Date(), String(format)),
    ...variables,
  };
  try {
    const environment: Scope = new Environment();
    for (const [name, value] of Object.entries(scope)) environment.set(name, value);
    const runner: TemplateRunner = new Interpreter(environment);
    return String(runner.run(program).value);
  } catch (error) {
    if (error instanceof TemplateFailure) throw error;
    throw new TemplateFailure("failed", error instanceof Error ? error.message : String(error));
  }
}

function programOf(source: string): Program {
  const known = parsed.get(source);
  if (known !== undefined) return known;
  try {
    const program: Program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
    if (parsed.size >= MOST_PARSED) parsed.clear();
    parsed.set(source, program);
    return program;
  } catch (error) {
    throw new TemplateFailure("syntax", error instanceof Error ? error.message : String(error));
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
