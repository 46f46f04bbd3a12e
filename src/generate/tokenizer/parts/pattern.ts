// The patterns of tokenizer.json. What makes a regex of a source is given by who can bound how long it runs.
import type { Fields } from "../fields.ts";
import { literal, type Pattern } from "./splitting.ts";

/** Makes a pattern of a regex's source, which is Oniguruma's; `key` is its place in the file. */
export type CompileRegex = (source: string, key: string) => Pattern;

/** A regex that whoever makes the patterns does not make, whether or not it is a right one. */
export class UnknownRegex extends Error {}

/** A pattern in a file: { "String": "..." } or { "Regex": "..." }. */
export function readPattern(fields: Fields, name: string, compile: CompileRegex): Pattern {
  const pattern = fields.object(name);
  if (typeof pattern.raw("String") === "string") return literal(pattern.text("String"));
  if (typeof pattern.raw("Regex") === "string") return compile(pattern.text("Regex"), pattern.key("Regex"));
  return fields.fail(name, 'an object with "String" or "Regex"');
}
