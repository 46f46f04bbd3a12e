// What can go wrong with a template: it refuses its input, it fails on it, or it is not a template at all.

/**
 * - refused: the template itself called raise_exception, with this message
 * - failed: an operation failed, as it does in Python, or a limit was reached
 * - syntax: the source cannot be parsed, or uses a tag, filter or test that does not exist here
 */
export type TemplateErrorKind = "refused" | "failed" | "syntax";

export class TemplateError extends Error {
  readonly kind: TemplateErrorKind;
  /** The line of the template, counted from 1, where it is known. */
  line: number | undefined;

  constructor(kind: TemplateErrorKind, message: string, line?: number, options?: ErrorOptions) {
    super(message, options);
    this.name = "TemplateError";
    this.kind = kind;
    this.line = line;
  }
}

/** An operation that Python would answer with an exception. */
export function fail(message: string): never {
  throw new TemplateError("failed", message);
}

export function syntaxError(message: string, line: number): never {
  throw new TemplateError("syntax", message, line);
}
