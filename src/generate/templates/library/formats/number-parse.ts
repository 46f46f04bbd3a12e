// int(text) and float(text), as Python reads numbers: digits of any script, underscores between them, white space around.
import { type Int, normal } from "../../values/numbers.ts";
import { SPACES, strip } from "../../values/unicode.ts";

/** Decimal digits of any script as ASCII. */
function asciiDigits(text: string): string {
  return text.replace(/(?![0-9])\p{Nd}/gu, (c) => {
    const end = c.codePointAt(0) as number;
    let start = end;
    // The ten digits of a script follow one another, the zero first; where sets of them meet, there are whole sets.
    while (/^\p{Nd}$/u.test(String.fromCodePoint(start - 1))) start--;
    return String((end - start) % 10);
  });
}

/** int(text, base), undefined if it is none. */
export function parseInteger(text: string, base: number): Int | undefined {
  const trimmed = asciiDigits(strip(text, undefined, "both")).toLowerCase();
  const match = /^([-+]?)(0[box])?_?([\da-z]+(?:_[\da-z]+)*)$/.exec(trimmed);
  if (match === null || (base !== 0 && (base < 2 || base > 36))) return undefined;
  const [, sign, prefix, body = ""] = match;
  const prefixed =
    prefix === undefined ? undefined : ({ "0b": 2, "0o": 8, "0x": 16 } as Record<string, number>)[prefix];
  let digits = body.replaceAll("_", "");
  let radix = base;
  if (prefixed !== undefined && (base === 0 || base === prefixed)) radix = prefixed;
  else {
    if (prefix !== undefined) digits = prefix + digits;
    if (/^[-+]?_/.test(trimmed) || (prefix !== undefined && trimmed.includes(`${prefix}_`))) {
      if (/^[-+]?_/.test(trimmed)) return undefined;
    }
    if (base === 0) {
      radix = 10;
      if (/^0\d*[1-9]/.test(digits)) return undefined;
    }
  }
  let value = 0n;
  if (digits.length > 4300 && ![2, 4, 8, 16, 32].includes(radix)) return undefined;
  for (const c of digits) {
    const digit = Number.parseInt(c, 36);
    if (!(digit < radix)) return undefined;
  }
  if (radix === 10 || radix === 16 || radix === 2 || radix === 8) {
    value = BigInt(({ 10: "", 16: "0x", 2: "0b", 8: "0o" } as Record<number, string>)[radix] + digits);
  } else for (const c of digits) value = value * BigInt(radix) + BigInt(Number.parseInt(c, 36));
  return normal(sign === "-" ? -value : value);
}

const FLOAT = new RegExp(
  `^[${SPACES}]*[-+]?(?:(?:\\d+(?:_\\d+)*\\.?(?:\\d+(?:_\\d+)*)?|\\.\\d+(?:_\\d+)*)(?:e[-+]?\\d+(?:_\\d+)*)?|inf(?:inity)?|nan)[${SPACES}]*$`,
  "i",
);

/** float(text), undefined if it is none. */
export function parseFloatText(text: string): number | undefined {
  const ascii = asciiDigits(text);
  if (!FLOAT.test(ascii)) return undefined;
  const clean = strip(ascii, undefined, "both").replaceAll("_", "").toLowerCase();
  if (clean.endsWith("nan")) return Number.NaN;
  if (clean.includes("inf"))
    return clean.startsWith("-") ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
  return Number(clean);
}
