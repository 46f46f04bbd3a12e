// value.name, value[key] and value[a:b:c], by jinja2's rules: a name is an attribute first and an item second, a key is
// an item first; what begins with "_" or would change a value is not handed out. Nothing of JavaScript is looked at.
import { spendItems, step } from "../budget.ts";
import { fail } from "../errors.ts";
import { intOf } from "../values/numbers.ts";
import { repr } from "../values/text.ts";
import {
  Dict,
  describeType,
  Float,
  type Kwargs,
  Markup,
  PyObject,
  PyRange,
  Tuple,
  textOf,
  typeName,
  Undefined,
  type Value,
  View,
} from "../values/types.ts";
import { characters, length, substring } from "../values/unicode.ts";
import { formatBraces, mappingOf } from "./formats/brace-format.ts";
import * as methods from "./methods.ts";
import { Func, toInt } from "./signature.ts";
import { MARKUP_METHODS, type Method, STR_METHODS } from "./str-methods.ts";

/** Names that every object of Python has, and that the sandbox keeps. */
const DUNDERS = new Set(
  (
    "class delattr dir doc eq format ge getattribute getstate gt hash init init_subclass le lt ne new reduce " +
    "reduce_ex repr setattr sizeof str subclasshook"
  )
    .split(" ")
    .map((name) => `__${name}__`),
);
const CONTAINER_DUNDERS = ["__len__", "__iter__", "__contains__", "__getitem__"];

const formatMethods: ReadonlyMap<string, Method> = new Map<string, Method>([
  ["format", (self, args, kwargs) => formatMethod(self, args, kwargs)],
  ["format_map", (self, args, kwargs) => formatMethod(self, [], mappingOf(args, kwargs))],
]);

function formatMethod(self: Value, args: readonly Value[], named: Kwargs | Dict): Value {
  const escaping = self instanceof Markup;
  const text = formatBraces(textOf(self) ?? "", args, named, { getAttr, getItem }, escaping);
  return escaping ? new Markup(text) : text;
}

function methodOf(value: Value, name: string): Method | undefined {
  switch (typeof value) {
    case "string":
      return STR_METHODS.get(name) ?? formatMethods.get(name);
    case "number":
    case "bigint":
    case "boolean":
      return methods.INT_METHODS.get(name);
  }
  if (value === null) return undefined;
  if (Array.isArray(value)) return methods.LIST_METHODS.get(name);
  if (value instanceof Dict) return methods.DICT_METHODS.get(name);
  if (value instanceof Tuple) return methods.TUPLE_METHODS.get(name);
  if (value instanceof Markup) {
    return MARKUP_METHODS.get(name) ?? STR_METHODS.get(name) ?? formatMethods.get(name);
  }
  if (value instanceof View) return methods.VIEW_METHODS.get(name);
  if (value instanceof PyRange) return methods.RANGE_METHODS.get(name);
  return value instanceof Float ? methods.FLOAT_METHODS.get(name) : undefined;
}

/** An attribute as Python's getattr finds it, undefined if there is none. */
export function attribute(value: Value, name: string): Value | undefined {
  if (name.startsWith("_") && isInternal(value, name)) return unsafe(value, name);
  if (value instanceof Undefined) return value.use();
  const method = methodOf(value, name);
  if (method !== undefined) return new Func((args, kwargs) => method(value, args, kwargs));
  if (methods.mutates(value, name)) return unsafe(value, name);
  if (value instanceof PyObject && !(value instanceof Float)) return value.getAttr(name);
  return value === null || Array.isArray(value) || typeof value === "string"
    ? undefined
    : methods.numberAttribute(value, name);
}

function isInternal(value: Value, name: string): boolean {
  if (DUNDERS.has(name)) return true;
  return CONTAINER_DUNDERS.includes(name) && (Array.isArray(value) || value instanceof Dict);
}

function unsafe(value: Value, name: string): Undefined {
  return new Undefined(`access to attribute '${name}' of '${typeName(value)}' object is unsafe.`);
}

/** value[key], undefined if there is no such item or the value has no items. */
function item(value: Value, key: Value): Value | undefined {
  if (value instanceof Dict) {
    return Array.isArray(key) || key instanceof Dict ? undefined : value.get(key);
  }
  const index = intOf(key);
  if (index === undefined || typeof index === "bigint") return undefined;
  const at = (size: number): number => (index < 0 ? index + size : index);
  if (Array.isArray(value)) return value[at(value.length)];
  if (value instanceof Tuple) return value.items[at(value.items.length)];
  const text = textOf(value);
  if (text !== undefined) {
    const position = at(length(text));
    const found = position < 0 ? "" : substring(text, position, position + 1);
    if (found === "") return undefined;
    return value instanceof Markup ? new Markup(found) : found;
  }
  if (value instanceof PyRange) {
    const position = at(value.length);
    return position >= 0 && position < value.length ? value.at(position) : undefined;
  }
  return undefined;
}

/** value.name */
export function getAttr(value: Value, name: string): Value {
  step();
  // None is a value too: only undefined is "there is none".
  let found = attribute(value, name);
  if (found === undefined) found = item(value, name);
  return found === undefined ? missing(value, name) : found;
}

/** value[key] */
export function getItem(value: Value, key: Value): Value {
  step();
  if (value instanceof Undefined) return value.use();
  let found = item(value, key);
  const name = textOf(key);
  if (found === undefined && name !== undefined) found = attribute(value, name);
  return found === undefined ? missing(value, key) : found;
}

/** What an attribute or item that does not exist is. */
export function missing(value: Value, key: Value): Undefined {
  return new Undefined(() => {
    const type = describeType(value);
    return textOf(key) === undefined
      ? `${type} has no element ${repr(key)}`
      : `'${type}' has no attribute ${repr(key)}`;
  });
}

/** value[start:stop:step] */
export function getSlice(value: Value, start: Value, stop: Value, by: Value): Value {
  step();
  if (value instanceof Undefined) return value.use();
  const text = textOf(value);
  if (text !== undefined) {
    const sliced = sliceText(text, start, stop, by);
    return value instanceof Markup ? new Markup(sliced) : sliced;
  }
  if (value instanceof PyRange) {
    const bounds = sliceBounds(value.length, start, stop, by);
    return new PyRange(value.at(bounds.start), value.at(bounds.stop), value.step * bounds.step);
  }
  if (Array.isArray(value)) return sliceItems(value, start, stop, by);
  if (value instanceof Tuple) return new Tuple(sliceItems(value.items, start, stop, by));
  if (value instanceof Dict) return fail("unhashable type: 'slice'");
  return fail(`'${typeName(value)}' object is not subscriptable`);
}

function sliceText(text: string, start: Value, stop: Value, by: Value): string {
  if (start === null && stop === null && by === null) return text;
  const bounds = sliceBounds(length(text), start, stop, by);
  if (bounds.step === 1) return bounds.stop > bounds.start ? substring(text, bounds.start, bounds.stop) : "";
  return picked(characters(text), bounds).join("");
}

function sliceItems(items: readonly Value[], start: Value, stop: Value, by: Value): Value[] {
  const bounds = sliceBounds(items.length, start, stop, by);
  if (bounds.step !== 1) return picked(items, bounds);
  spendItems(Math.max(0, bounds.stop - bounds.start));
  return items.slice(bounds.start, Math.max(bounds.start, bounds.stop));
}

interface Bounds {
  readonly start: number;
  readonly stop: number;
  readonly step: number;
}

function picked<T>(items: readonly T[], { start, stop, step }: Bounds): T[] {
  const found: T[] = [];
  spendItems(Math.max(0, (stop - start) / step));
  for (let i = start; step > 0 ? i < stop : i > stop; i += step) found.push(items[i] as T);
  return found;
}

/** slice(start, stop, step).indices(size) */
function sliceBounds(size: number, start: Value, stop: Value, by: Value): Bounds {
  const index = (value: Value): number => {
    if (intOf(value) === undefined) {
      if (value instanceof Undefined) value.use();
      fail("slice indices must be integers or None or have an __index__ method");
    }
    return toInt(value);
  };
  const step = by === null ? 1 : index(by);
  if (step === 0) fail("slice step cannot be zero");
  const [low, high] = step > 0 ? [0, size] : [-1, size - 1];
  const clamp = (value: Value, otherwise: number): number => {
    if (value === null) return otherwise;
    const at = index(value);
    return Math.max(low, Math.min(high, at < 0 ? at + size : at));
  };
  return { start: clamp(start, step > 0 ? low : high), stop: clamp(stop, step > 0 ? high : low), step };
}
