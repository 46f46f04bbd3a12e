// Oniguruma's regexes, translated to JavaScript's. They may run long, so this is used only where a time limit holds.
import { toRegExp } from "oniguruma-to-es";
import { type Fields, FormatError } from "./fields.ts";
import { literal, type Pattern, regexPattern } from "./splitting.ts";

/** A pattern in a file: { "String": "..." } or { "Regex": "..." }. */
export function readPattern(fields: Fields, name: string): Pattern {
  const pattern = fields.object(name);
  if (typeof pattern.raw("String") === "string") return literal(pattern.text("String"));
  if (typeof pattern.raw("Regex") === "string")
    return onigurumaPattern(pattern.text("Regex"), pattern.key("Regex"));
  return fields.fail(name, 'an object with "String" or "Regex"');
}

/** @throws FormatError if it cannot be translated */
export function onigurumaPattern(source: string, key: string): Pattern {
  try {
    return regexPattern(toRegExp(source, { global: true }));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new FormatError(key, `is not a regex that can be used: ${reason.slice(0, 200)}`);
  }
}
