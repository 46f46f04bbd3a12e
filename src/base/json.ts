// JSON text of strangers: parsed with a limit on nesting, so that no later walk over the value overflows the stack, and with
// messages that hold no more of the text than is needed. Sizes are limited where files are read.
import { printable } from "./shown.ts";

export type JsonObject = Record<string, unknown>;

/** No published file nests deeper than about 20; Python's own parser gives up near 1000. */
export const JSON_DEPTH = 128;

/** The text is not JSON, or nests too deeply. The message says what and where, without the file's name. */
export class JsonSyntaxError extends Error {}

/** The value of a JSON text. Throws JsonSyntaxError: "nests deeper than 128 levels", "Unexpected token ...". */
export function parseJson(text: string, maxDepth: number = JSON_DEPTH): unknown {
  const tooDeep = firstDeeperThan(text, maxDepth);
  if (tooDeep !== -1) {
    throw new JsonSyntaxError(`nests deeper than ${maxDepth} levels at character ${tooDeep}`);
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new JsonSyntaxError(printable(reason, 200), { cause: error });
  }
}

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The position where brackets outside of strings nest deeper than `limit`, or -1. */
function firstDeeperThan(text: string, limit: number): number {
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 0x22) {
      for (i++; i < text.length && text.charCodeAt(i) !== 0x22; i++) if (text.charCodeAt(i) === 0x5c) i++;
    } else if (c === 0x5b || c === 0x7b) {
      if (++depth > limit) return i;
    } else if (c === 0x5d || c === 0x7d) depth--;
  }
  return -1;
}
