// format(value, spec): the mini-language of str.format.
import { spend } from "../../budget.ts";
import { fail } from "../../errors.ts";
import { type Int, intOf } from "../../values/numbers.ts";
import { floatText, str } from "../../values/text.ts";
import { Float, textOf, typeName, type Value } from "../../values/types.ts";
import { length, substring } from "../../values/unicode.ts";
import { floatDigits, intDigits } from "./number-format.ts";

const SPEC = /^(?:(.)?([<>=^]))?([-+ ])?(z)?(#)?(0)?(\d+)?([,_])?(?:\.(\d+))?(.)?$/su;

interface Spec {
  readonly fill: string;
  readonly align: string | undefined;
  readonly sign: string;
  readonly alternate: boolean;
  readonly width: number;
  readonly grouping: string;
  readonly precision: number | undefined;
  readonly type: string;
}

export function formatValue(value: Value, spec: string): string {
  if (spec === "") return str(value);
  const int = intOf(value);
  const text = textOf(value);
  if (int === undefined && text === undefined && !(value instanceof Float)) {
    return fail(`unsupported format string passed to ${typeName(value)}.__format__`);
  }
  const parsed = parse(spec, typeName(value));
  if (text !== undefined) return formatText(text, parsed);
  if (value instanceof Float) return formatFloat(value.value, parsed, "float");
  return formatInt(int as Int, parsed, typeName(value));
}

function parse(spec: string, type: string): Spec {
  const match = SPEC.exec(spec);
  if (match === null)
    return fail(`Invalid format specifier '${spec.slice(0, 80)}' for object of type '${type}'`);
  const zero = match[6] !== undefined;
  return {
    fill: match[1] ?? (zero ? "0" : " "),
    align: match[2] ?? (zero ? "=" : undefined),
    sign: match[3] ?? "-",
    alternate: match[5] !== undefined,
    width: Number(match[7] ?? 0),
    grouping: match[8] ?? "",
    precision: match[9] === undefined ? undefined : Number(match[9]),
    type: match[10] ?? "",
  };
}

function formatText(text: string, spec: Spec): string {
  if (spec.type !== "" && spec.type !== "s") unknownType(spec.type, "str");
  if (spec.align === "=" && spec.fill !== "0") fail("'=' alignment not allowed in string format specifier");
  if (spec.sign !== "-") fail("Sign not allowed in string format specifier");
  if (spec.alternate) fail("Alternate form (#) not allowed in string format specifier");
  if (spec.grouping !== "") fail(`Cannot specify '${spec.grouping}' with 's'.`);
  const shown = spec.precision === undefined ? text : substring(text, 0, spec.precision);
  return align(shown, spec, spec.align === "=" || spec.align === undefined ? "<" : spec.align);
}

function align(text: string, { fill, width }: Spec, side: string): string {
  const missing = width - length(text);
  if (missing <= 0) return text;
  spend(width * fill.length);
  if (side === "<") return text + fill.repeat(missing);
  if (side === ">") return fill.repeat(missing) + text;
  const left = Math.floor(missing / 2);
  return fill.repeat(left) + text + fill.repeat(missing - left);
}

function unknownType(type: string, of: string): never {
  return fail(`Unknown format code '${type}' for object of type '${of}'`);
}

function formatInt(value: Int, spec: Spec, of: string): string {
  const { type } = spec;
  if ("eEfFgG%".includes(type) && type !== "") {
    const float = Number(value);
    if (!Number.isFinite(float)) fail("int too large to convert to float");
    return formatFloat(float, spec, of);
  }
  if (spec.precision !== undefined) fail("Precision not allowed in integer format specifier");
  if (type === "c") {
    if (value < 0 || value > 0x10ffff) fail("%c arg not in range(0x110000)");
    return align(String.fromCodePoint(Number(value)), spec, spec.align ?? "<");
  }
  const base = ({ "": 10, d: 10, n: 10, b: 2, o: 8, x: 16, X: 16 } as const)[type];
  if (base === undefined) return unknownType(type, of);
  if (spec.grouping === "," && base !== 10) fail(`Cannot specify ',' with '${type}'.`);
  let digits = intDigits(value, base);
  let prefix = spec.alternate && base !== 10 ? `0${type}` : "";
  if (type === "X") {
    digits = digits.toUpperCase();
    prefix = prefix.toUpperCase();
  }
  return numberText(value < 0, prefix, digits, "", spec, base === 10 ? 3 : 4);
}

function formatFloat(value: number, spec: Spec, of: string): string {
  const { type, precision, alternate } = spec;
  const negative = value < 0 || Object.is(value, -0);
  let digits: string;
  if (type === "" && precision === undefined) {
    digits = floatText(Math.abs(value));
  } else if (type === "%") {
    digits = `${floatDigits(value * 100, { type: "f", places: precision ?? 6, upper: false, alternate })}%`;
  } else {
    const style = type === "" || type === "n" ? "g" : type.toLowerCase();
    if (style !== "e" && style !== "f" && style !== "g") return unknownType(type, of);
    const upper = type !== "" && type < "a";
    digits = floatDigits(value, {
      type: style,
      places: precision ?? 6,
      upper,
      alternate,
      pointZero: type === "",
    });
  }
  const whole = /^\d+/.exec(digits)?.[0] ?? "";
  if (whole === "") return numberText(negative, "", digits, "", { ...spec, grouping: "" }, 3);
  return numberText(negative, "", whole, digits.slice(whole.length), spec, 3);
}

/** Sign, prefix, digits in groups, and what follows them, in the width. */
function numberText(
  negative: boolean,
  prefix: string,
  digits: string,
  rest: string,
  spec: Spec,
  groupSize: number,
): string {
  const sign = negative ? "-" : spec.sign === "-" ? "" : spec.sign;
  const lead = sign + prefix;
  const room = spec.width - lead.length - rest.length;
  const grouped = group(digits, spec.grouping, groupSize);
  const side = spec.align ?? ">";
  if (side !== "=") return align(lead + grouped + rest, spec, side);
  if (room <= grouped.length) return lead + grouped + rest;
  spend(2 * spec.width);
  if (spec.fill !== "0" || spec.grouping === "") {
    return lead + spec.fill.repeat(room - grouped.length) + grouped + rest;
  }
  // Zeros are grouped too, and a group mark never comes first.
  const places = Math.ceil((room * groupSize) / (groupSize + 1));
  return lead + group(digits.padStart(places, "0"), spec.grouping, groupSize) + rest;
}

function group(digits: string, mark: string, size: number): string {
  if (mark === "") return digits;
  const groups: string[] = [];
  for (let end = digits.length; end > 0; end -= size)
    groups.unshift(digits.slice(Math.max(0, end - size), end));
  return groups.join(mark);
}
