// Renders Jinja templates as jinja2 3.1 does under transformers: the sandbox without changes to values, trim_blocks,
// lstrip_blocks, break and continue, the generation tag, tojson without escapes. Synchronous, and with no way out: a
// template sees only the values it is given, runs no code of JavaScript, and has a limit on time and memory.
import { type TemplateLimits, withBudget } from "./budget.ts";
import { Runtime } from "./compile/runtime.ts";
import { type CompiledTemplate, compileTemplate } from "./compile/statements.ts";
import { TemplateError } from "./errors.ts";
import { FILTERS } from "./library/filters/filters-values.ts";
import { globals } from "./library/globals.ts";
import { TESTS } from "./library/tests.ts";
import { parseTemplate } from "./syntax/parser.ts";
import { fromVariables } from "./values/convert.ts";

export type { TemplateLimits } from "./budget.ts";
export { TemplateError, type TemplateErrorKind } from "./errors.ts";
export { strftime } from "./library/formats/strftime.ts";

const LIBRARY = { filters: FILTERS, tests: TESTS };

/** Templates compiled last, the least recently used first: a chat renders the same one again and again. */
const compiled = new Map<string, CompiledTemplate>();
const MAX_COMPILED = 16;

/**
 * The text of a template with these variables, which may hold only data: text, numbers, booleans, null, lists and plain
 * objects. Numbers that are whole and safe integers are ints, others floats; undefined fields are absent.
 * @throws TemplateError, and nothing else
 */
export function renderTemplate(
  source: string,
  variables: Readonly<Record<string, unknown>>,
  limits: TemplateLimits = {},
): string {
  return withBudget(limits, () => {
    const template = guarded(() => compile(source));
    let runtime: Runtime | undefined;
    return guarded(
      () => {
        const known = globals(limits.now ?? new Date());
        for (const [name, value] of fromVariables(variables)) known.set(name, value);
        runtime = new Runtime(known, LIBRARY);
        return template(runtime);
      },
      () => runtime?.line,
    );
  });
}

/**
 * Parses a template without rendering it.
 * @throws TemplateError of kind syntax, with the line
 */
export function checkTemplate(source: string): void {
  withBudget({}, () => guarded(() => compile(source)));
}

function compile(source: string): CompiledTemplate {
  let template = compiled.get(source);
  if (template === undefined) {
    template = compileTemplate(parseTemplate(source), LIBRARY);
    if (compiled.size >= MAX_COMPILED) compiled.delete(compiled.keys().next().value as string);
  } else compiled.delete(source);
  compiled.set(source, template);
  return template;
}

/** Everything that goes wrong as a TemplateError. */
function guarded<T>(run: () => T, line?: () => number | undefined): T {
  try {
    return run();
  } catch (error) {
    if (error instanceof TemplateError) {
      throw located(error, error.line ?? line?.());
    }
    // The stack ended, or V8 refused a size: both are what a template does, not what the engine does.
    if (error instanceof RangeError) {
      const message = "the template nests too deeply or makes too long a text";
      throw located(new TemplateError("failed", message, undefined, { cause: error }), line?.());
    }
    throw error;
  }
}

/** An error with its line, in its message too; what the template itself says stays as it is. */
function located(error: TemplateError, line: number | undefined): TemplateError {
  if (line === undefined || error.kind === "refused") return error;
  return new TemplateError(error.kind, `${error.message} (line ${line})`, line, { cause: error.cause });
}
