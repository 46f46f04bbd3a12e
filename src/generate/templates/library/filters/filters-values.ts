// Filters on numbers and on values of any kind, and the table of all filters.
import type { NativeFunction } from "../../compile/runtime.ts";
import { fail } from "../../errors.ts";
import { truthy } from "../../values/compare.ts";
import { arithmetic, type Int, intFromNumber, intOf, round } from "../../values/numbers.ts";
import { Float, textOf, typeName, Undefined, type Value } from "../../values/types.ts";
import { attribute, missing } from "../access.ts";
import { parseFloatText, parseInteger } from "../formats/number-parse.ts";
import { native, toInt } from "../signature.ts";
import { ITEM_FILTERS } from "./filters-items.ts";
import { TEXT_FILTERS } from "./filters-text.ts";

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

const VALUE_FILTERS: Readonly<Record<string, NativeFunction>> = {
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

export const FILTERS: ReadonlyMap<string, NativeFunction> = new Map(
  Object.entries({ ...TEXT_FILTERS, ...ITEM_FILTERS, ...VALUE_FILTERS }),
);
