// The escapes of string literals, as Python's unicode-escape codec reads them. \N{...} is refused: it needs the names of
// all characters.
import { syntaxError } from "../errors.ts";

const SIMPLE: Record<string, string> = {
  "\n": "",
  "\\": "\\",
  "'": "'",
  '"': '"',
  a: "\x07",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
  v: "\v",
};
const DIGITS: Record<string, number> = { x: 2, u: 4, U: 8 };

/** The text of a literal, given without its quotes. */
export function unescapeString(literal: string, line: number): string {
  if (!literal.includes("\\")) return literal;
  return literal.replace(
    /\\(?:([0-7]{1,3})|([xuU])([\da-fA-F]{0,8})|(.))/gsu,
    (whole, octal?: string, width?: string, digits?: string, other?: string) => {
      if (octal !== undefined) return String.fromCharCode(Number.parseInt(octal, 8));
      if (width !== undefined && digits !== undefined) {
        const size = DIGITS[width] as number;
        if (digits.length < size) {
          const form = `\\${width}${"X".repeat(size)}`;
          syntaxError(`a string has a truncated ${form} escape`, line);
        }
        const code = Number.parseInt(digits.slice(0, size), 16);
        if (code > 0x10ffff) syntaxError("a string has an illegal Unicode character", line);
        return String.fromCodePoint(code) + digits.slice(size);
      }
      if (other === "N")
        syntaxError("\\N{...} in a string is not supported: write the character itself", line);
      return SIMPLE[other as string] ?? whole;
    },
  );
}
