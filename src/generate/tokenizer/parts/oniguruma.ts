// Oniguruma's regexes, translated to JavaScript's. They may run long, so this is used only where a time limit holds.
import { toRegExp } from "oniguruma-to-es";
import { FormatError } from "../fields.ts";
import { type Pattern, regexPattern } from "./splitting.ts";

/** The same on every Node: newer ones have more syntax, which the translator would use where it is. */
export function translated(source: string): RegExp {
  return toRegExp(source, { global: true, target: "ES2024" });
}

/** @throws FormatError if it cannot be translated */
export function onigurumaPattern(source: string, key: string): Pattern {
  try {
    return regexPattern(translated(source));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new FormatError(key, `is not a regex that can be used: ${reason.slice(0, 200)}`);
  }
}
