// Oniguruma's regexes, translated to JavaScript's. They may run long, so this is used only where a time limit holds.
import { toRegExp } from "oniguruma-to-es";
import { FormatError } from "../fields.ts";
import { type Pattern, regexPattern } from "./splitting.ts";

/** @throws FormatError if it cannot be translated */
export function onigurumaPattern(source: string, key: string): Pattern {
  try {
    return regexPattern(toRegExp(source, { global: true }));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new FormatError(key, `is not a regex that can be used: ${reason.slice(0, 200)}`);
  }
}
