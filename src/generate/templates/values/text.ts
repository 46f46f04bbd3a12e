// str() and repr() of every value, as Python prints it.
import { MAX_NESTING, spend, tooDeep } from "../budget.ts";
import { fail } from "../errors.ts";
import { Dict, Float, Markup, Tuple, typeName, Undefined, type Value, View } from "./types.ts";
import { isPrintable } from "./unicode.ts";

/** str(value) */
export function str(value: Value): string {
  if (typeof value === "string") return value;
  if (typeof value === "number") return String(value);
  if (value instanceof Undefined) return "";
  if (value instanceof Markup) return value.text;
  return repr(value);
}

/** repr(value) */
export function repr(value: Value, depth = 0): string {
  switch (typeof value) {
    case "string":
      return quote(value);
    case "boolean":
      return value ? "True" : "False";
    case "number":
      return String(value);
    case "bigint":
      return bigintText(value);
  }
  if (value === null) return "None";
  if (value instanceof Float) return floatText(value.value);
  if (depth > MAX_NESTING) tooDeep();
  if (Array.isArray(value)) return `[${list(value, depth)}]`;
  if (value instanceof Tuple) {
    return value.items.length === 1
      ? `(${repr(value.items[0] as Value, depth + 1)},)`
      : `(${list(value.items, depth)})`;
  }
  if (value instanceof Dict) {
    const parts: string[] = [];
    for (const [key, item] of value.entries()) {
      parts.push(spent(`${repr(key, depth + 1)}: ${repr(item, depth + 1)}`));
    }
    return `{${parts.join(", ")}}`;
  }
  if (value instanceof Markup) return `Markup(${quote(value.text)})`;
  if (value instanceof View) return `${value.typeName}([${list(value, depth)}])`;
  const text = value.repr();
  if (text !== undefined) return text;
  const what = typeName(value);
  return fail(`${/^[aeiou]/.test(what) ? "an" : "a"} ${what} has no text that is the same in every run`);
}

function list(items: Iterable<Value>, depth: number): string {
  const parts: string[] = [];
  for (const item of items) parts.push(spent(repr(item, depth + 1)));
  return parts.join(", ");
}

function spent(text: string): string {
  spend(text.length + 2);
  return text;
}

/** Python refuses to print ints of more than 4300 digits. */
export function bigintText(value: bigint): string {
  // 4300 digits are some 14,285 bits.
  if (value.toString(16).length > 3600) fail("Exceeds the limit (4300 digits) for integer string conversion");
  const text = value.toString();
  if (text.length - (value < 0n ? 1 : 0) > 4300) {
    fail("Exceeds the limit (4300 digits) for integer string conversion");
  }
  return text;
}

/** The shortest digits that give the float back, in Python's notation: an exponent below 1e-4 and from 1e16 on. */
export function floatText(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (value === 0) return Object.is(value, -0) ? "-0.0" : "0.0";
  const [mantissa = "", power = "0"] = value.toExponential().split("e");
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 16) {
    const size = String(Math.abs(exponent)).padStart(2, "0");
    return `${mantissa}e${exponent < 0 ? "-" : "+"}${size}`;
  }
  const sign = mantissa.startsWith("-") ? "-" : "";
  const digits = mantissa.replace(/[-.]/g, "");
  if (exponent < 0) return `${sign}0.${"0".repeat(-exponent - 1)}${digits}`;
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, "0");
  return `${sign}${whole}.${digits.slice(exponent + 1) || "0"}`;
}

const PLAIN = /^[\x20-\x26\x28-\x5b\x5d-\x7e]*$/;
const SHORT: Record<string, string> = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** repr() of a str. */
export function quote(text: string): string {
  spend(text.length);
  if (PLAIN.test(text)) return `'${text}'`;
  spend(8 * text.length);
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  let out = "";
  for (const c of text) {
    if (c === mark) out += `\\${c}`;
    else if (SHORT[c] !== undefined) out += SHORT[c];
    else if (c >= " " && c < "\x7f") out += c;
    else if (isPrintable(c)) out += c;
    else out += escapeCode(c.codePointAt(0) as number);
  }
  return mark + out + mark;
}

function escapeCode(code: number): string {
  const hex = code.toString(16);
  if (code < 0x100) return `\\x${hex.padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
}

/** ascii() of a value: its repr with everything beyond ASCII escaped. */
export function ascii(value: Value): string {
  return repr(value).replace(/[^\0-\x7f]/gu, (c) => escapeCode(c.codePointAt(0) as number));
}
