// Arguments that may come from plain JavaScript: options whose names are known and whose values are of the right kind. What
// the values mean is decided where they are used.
import { ConfigError } from "./errors.ts";
import { refuseUnknown } from "./options.ts";
import { shown } from "./shown.ts";

export interface Kind {
  readonly accepts: (value: unknown) => boolean;
  /** Completes "dtype must be ...". */
  readonly range: string;
}

export const text: Kind = { accepts: (v) => typeof v === "string", range: "a text" };
export const path: Kind = { accepts: (v) => typeof v === "string" && v !== "", range: "a path" };
export const folder: Kind = { ...path, range: "the path of a folder" };
export const flag: Kind = { accepts: (v) => typeof v === "boolean", range: "true or false" };
export const callback: Kind = { accepts: (v) => typeof v === "function", range: "a function" };
export const number: Kind = { accepts: (v) => typeof v === "number", range: "a number" };
export const object: Kind = {
  accepts: (v) => typeof v === "object" && v !== null && !Array.isArray(v),
  range: "an object",
};
export const list: Kind = { accepts: Array.isArray, range: "a list" };
export const signal: Kind = { accepts: (v) => v instanceof AbortSignal, range: "an AbortSignal" };

/** An object with these methods. A class whose instances can be called will do. */
export function having(methods: readonly string[], range: string): Kind {
  return {
    accepts: (v) =>
      ((typeof v === "object" && v !== null) || typeof v === "function") &&
      methods.every((name) => typeof (v as Record<string, unknown>)[name] === "function"),
    range,
  };
}

/** One of several kinds. */
export function either(range: string, ...kinds: readonly Kind[]): Kind {
  return { accepts: (v) => kinds.some((kind) => kind.accepts(v)), range };
}

/** Throws ConfigError unless `value` is of the kind. */
export function requireKind(value: unknown, kind: Kind, name: string): void {
  if (!kind.accepts(value)) throw new ConfigError(`${name} must be ${kind.range}, got ${shown(value)}`);
}

/**
 * The options that are given, without those that are null or undefined.
 * Throws ConfigError that names one that is unknown, or of another kind.
 * @param where the function, as callers write it
 * @param elsewhere names that people bring from other libraries, and what to write instead
 */
export function checkedOptions<T extends object>(
  options: T,
  kinds: Readonly<Record<keyof T, Kind>>,
  where: string,
  elsewhere: Readonly<Record<string, string>> = {},
): T {
  refuseUnknown(options, Object.keys(kinds), where, elsewhere);
  const given: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || value === null) continue;
    requireKind(value, kinds[name as keyof T], name);
    given[name] = value;
  }
  return given as T;
}
