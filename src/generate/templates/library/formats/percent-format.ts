// text % values: printf-style formatting as Python does it.
import { spend } from "../../budget.ts";
import { fail } from "../../errors.ts";
import { escapeMarkup } from "../../values/markup.ts";
import { type Int, intFromNumber, intOf } from "../../values/numbers.ts";
import { ascii, repr, str } from "../../values/text.ts";
import {
  Dict,
  Float,
  Markup,
  PyObject,
  Tuple,
  textOf,
  typeName,
  Undefined,
  type Value,
} from "../../values/types.ts";
import { length, substring } from "../../values/unicode.ts";
import { checkPlaces, floatDigits, intDigits } from "./number-format.ts";

const DIRECTIVE = /%(?:\(((?:[^()]|\([^()]*\))*)\))?([-+ #0]*)(\*|\d+)?(?:\.(\*|\d*))?[hlL]?(.)?/gsu;

interface Spec {
  readonly flags: string;
  readonly width: number;
  readonly precision: number | undefined;
}

/** The values, one after the other. */
class Arguments {
  readonly #values: Value;
  readonly #items: readonly Value[];
  #next = 0;
  #byName = false;
  constructor(values: Value) {
    this.#values = values;
    this.#items = values instanceof Tuple ? values.items : [values];
  }
  next(): Value {
    if (this.#byName) fail("not enough arguments for format string");
    const value = this.#items[this.#next++];
    return value === undefined ? fail("not enough arguments for format string") : value;
  }
  named(key: string): Value {
    if (!(this.#values instanceof Dict)) return fail("format requires a mapping");
    this.#byName = true;
    const value = this.#values.get(key);
    return value === undefined ? fail(`'${key}'`) : value;
  }
  size(): number {
    const int = intOf(this.next());
    return int === undefined ? fail("* wants int") : Number(int);
  }
  done(): void {
    if (this.#byName || this.#isMapping() || this.#next >= this.#items.length) return;
    fail("not all arguments converted during string formatting");
  }
  /** A single value that could be subscripted need not be used. */
  #isMapping(): boolean {
    const value = this.#values;
    if (Array.isArray(value)) return true;
    if (!(value instanceof PyObject)) return false;
    return !(value instanceof Tuple || value instanceof Markup || value instanceof Float);
  }
}

/** @throws TemplateError as Python's % does */
export function formatPercent(template: Value, values: Value): Value {
  const text = textOf(template) as string;
  const escaping = template instanceof Markup;
  spend(text.length);
  const args = new Arguments(values);
  let total = 0;
  const formatted = text.replace(DIRECTIVE, (_whole, key, flags, width, precision, type) => {
    const part = directive(args, { key, flags, width, precision, type }, escaping);
    total += part.length;
    spend(total > text.length ? part.length : 0);
    return part;
  });
  args.done();
  return escaping ? new Markup(formatted) : formatted;
}

interface Directive {
  readonly key: string | undefined;
  readonly flags: string;
  readonly width: string | undefined;
  readonly precision: string | undefined;
  readonly type: string | undefined;
}

function directive(args: Arguments, given: Directive, escaping: boolean): string {
  const named = given.key === undefined ? undefined : args.named(given.key);
  let { flags } = given;
  let width = given.width === "*" ? args.size() : Number(given.width ?? 0);
  if (width < 0) {
    flags += "-";
    width = -width;
  }
  const precision =
    given.precision === undefined
      ? undefined
      : given.precision === "*"
        ? Math.max(0, args.size())
        : Number(given.precision || 0);
  const { type } = given;
  if (type === undefined) return fail("incomplete format");
  if (type === "%") return "%";
  const value = named === undefined ? args.next() : named;
  return convert(value, type, { flags, width, precision }, escaping);
}

function convert(value: Value, type: string, spec: Spec, escaping: boolean): string {
  switch (type) {
    case "s":
      return pad(cut(escaping ? escapeMarkup(value).text : str(value), spec.precision), spec);
    case "r":
      return pad(cut(escaping ? escapeMarkup(repr(value)).text : repr(value), spec.precision), spec);
    case "a":
      return pad(cut(ascii(value), spec.precision), spec);
    case "c":
      return pad(character(value), spec);
    case "d":
    case "i":
    case "u":
      return integer(decimalOf(value, type), 10, "", spec, false);
    case "x":
    case "X":
      return integer(wholeOf(value, type), 16, `0${type}`, spec, type === "X");
    case "o":
      return integer(wholeOf(value, type), 8, "0o", spec, false);
    case "e":
    case "E":
    case "f":
    case "F":
    case "g":
    case "G":
      return float(value, type, spec);
  }
  const code = type.codePointAt(0) as number;
  return fail(`unsupported format character '${type}' (0x${code.toString(16)})`);
}

function cut(text: string, precision: number | undefined): string {
  return precision === undefined ? text : substring(text, 0, precision);
}

function pad(text: string, { flags, width }: Spec): string {
  const missing = width - length(text);
  if (missing <= 0) return text;
  spend(width);
  return flags.includes("-") ? text + " ".repeat(missing) : " ".repeat(missing) + text;
}

function character(value: Value): string {
  const text = textOf(value);
  if (text !== undefined && length(text) === 1) return text;
  const int = intOf(value);
  if (int === undefined) return fail("%c requires int or char");
  if (int < 0 || int > 0x10ffff) fail("%c arg not in range(0x110000)");
  return String.fromCodePoint(Number(int));
}

function decimalOf(value: Value, type: string): Int {
  if (value instanceof Undefined) value.use();
  if (value instanceof Float) return intFromNumber(value.value);
  const int = intOf(value);
  return int ?? fail(`%${type} format: a real number is required, not ${typeName(value)}`);
}

function wholeOf(value: Value, type: string): Int {
  return intOf(value) ?? fail(`%${type} format: an integer is required, not ${typeName(value)}`);
}

function integer(value: Int, base: 8 | 10 | 16, prefix: string, spec: Spec, upper: boolean): string {
  let digits = intDigits(value, base);
  if (upper) digits = digits.toUpperCase();
  if (spec.precision !== undefined) {
    checkPlaces(spec.precision);
    digits = digits.padStart(spec.precision, "0");
  }
  return signed(value < 0, digits, spec.flags.includes("#") ? prefix : "", spec);
}

function float(value: Value, type: string, spec: Spec): string {
  if (value instanceof Undefined) value.use();
  const int = intOf(value);
  const number = value instanceof Float ? value.value : int === undefined ? undefined : Number(int);
  if (number === undefined) return fail(`must be real number, not ${typeName(value)}`);
  if (!(value instanceof Float) && !Number.isFinite(number)) fail("int too large to convert to float");
  const digits = floatDigits(number, {
    type: type.toLowerCase() as "e" | "f" | "g",
    places: spec.precision ?? 6,
    upper: type < "a",
    alternate: spec.flags.includes("#"),
  });
  return signed(number < 0 || Object.is(number, -0), digits, "", spec);
}

function signed(negative: boolean, digits: string, prefix: string, spec: Spec): string {
  const { flags, width } = spec;
  const sign = negative ? "-" : flags.includes("+") ? "+" : flags.includes(" ") ? " " : "";
  const lead = sign + prefix;
  if (!flags.includes("0") || flags.includes("-")) return pad(lead + digits, spec);
  if (width > lead.length + digits.length) spend(width);
  return lead + digits.padStart(width - lead.length, "0");
}
