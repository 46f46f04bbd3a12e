// Filters on numbers and on values of any kind, and the table of all filters.
import type { Native } from "../compile/runtime.ts";
import { fail } from "../errors.ts";
import { truthy } from "../values/compare.ts";
import { arithmetic, type Int, intFromNumber, intOf, normal, round } from "../values/numbers.ts";
import { Float, textOf, typeName, Undefined, type Value } from "../values/types.ts";
import { SPACES, strip } from "../values/unicode.ts";
import { attribute, missing } from "./access.ts";
import { ITEM_FILTERS } from "./filters-items.ts";
import { TEXT_FILTERS } from "./filters-text.ts";
import { native, toInt } from "./signature.ts";

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

/** float(value), undefined where Python has a TypeError or ValueError. */
function toFloat(value: Value): number | undefined {
  if (value instanceof Undefined) value.use();
  if (value instanceof Float) return value.value;
  const text = textOf(value);
  if (text !== undefined) return parseFloatText(text);
  const int = intOf(value);
  if (int === undefined) return undefined;
  const float = Number(int);
  return Number.isFinite(float) ? float : fail("int too large to convert to float");
}

function toInteger(value: Value, otherwise: Value, base: Value): Value {
  const text = textOf(value);
  if (text !== undefined) {
    const radix = toInt(base);
    const parsed = parseInteger(text, radix);
    if (parsed !== undefined) return parsed;
  } else {
    if (value instanceof Undefined) value.use();
    const int = intOf(value);
    if (int !== undefined) return int;
    if (value instanceof Float && !Number.isNaN(value.value)) return intFromNumber(value.value);
  }
  const float = text === undefined ? undefined : parseFloatText(text);
  return float !== undefined && Number.isFinite(float) ? intFromNumber(float) : otherwise;
}

function absolute(value: Value): Value {
  if (value instanceof Float) return new Float(Math.abs(value.value));
  const int = intOf(value);
  if (int === undefined) return fail(`bad operand type for abs(): '${typeName(value)}'`);
  return int < 0 ? arithmetic("-", 0, int) : int;
}

function roundFilter(value: Value, precision: Value, method: Value): Value {
  const how = textOf(method);
  if (how !== "common" && how !== "ceil" && how !== "floor")
    return fail("method must be common, ceil or floor");
  if (value instanceof Undefined && how !== "common") value.use();
  const number = value instanceof Float ? value : intOf(value);
  if (number === undefined) return fail(`type ${typeName(value)} doesn't define __round__ method`);
  const places = toInt(precision);
  if (how === "common") return round(number, places);
  const unit = arithmetic("**", 10, places) as Int | Float;
  const scaled = arithmetic("*", number, unit) as Int | Float;
  const whole =
    scaled instanceof Float
      ? intFromNumber(how === "ceil" ? Math.ceil(scaled.value) : Math.floor(scaled.value))
      : scaled;
  return arithmetic("/", whole, unit);
}

const defaultTo = native(
  "do_default",
  ["value", ["default_value", ""], ["boolean", false]],
  (value: Value, otherwise: Value, boolean: Value) =>
    value instanceof Undefined || (truthy(boolean) && !truthy(value)) ? otherwise : value,
);

function attr(value: Value, name: Value): Value {
  const text = textOf(name) ?? fail(`attribute name must be string, not '${typeName(name)}'`);
  const found = attribute(value, text);
  return found === undefined ? missing(value, text) : found;
}

const VALUE_FILTERS: Readonly<Record<string, Native>> = {
  abs: native("abs", ["/x"], absolute),
  attr: native("do_attr", ["obj", "name"], attr),
  d: defaultTo,
  default: defaultTo,
  float: native("do_float", ["value", ["default", new Float(0)]], (value: Value, otherwise: Value) => {
    const float = toFloat(value);
    return float === undefined ? otherwise : new Float(float);
  }),
  int: native("do_int", ["value", ["default", 0], ["base", 10]], toInteger),
  round: native("do_round", ["value", ["precision", 0], ["method", "common"]], roundFilter),
};

export const FILTERS: ReadonlyMap<string, Native> = new Map(
  Object.entries({ ...TEXT_FILTERS, ...ITEM_FILTERS, ...VALUE_FILTERS }),
);
