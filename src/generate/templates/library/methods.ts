// The methods and attributes of lists, tuples, dicts, ranges and numbers. Those that would change a value exist, but
// jinja2's sandbox does not hand them out.
import { fail } from "../errors.ts";
import { contains, equals, pyList } from "../values/compare.ts";
import { intOf } from "../values/numbers.ts";
import { repr } from "../values/text.ts";
import { Dict, Float, itemsOf, type PyRange, type Value, View } from "../values/types.ts";
import { bindArguments, type Implementation, type Param, toInt } from "./signature.ts";
import type { Method } from "./str-methods.ts";

function methods(
  table: Record<string, readonly [readonly Param[], Implementation]>,
): ReadonlyMap<string, Method> {
  return new Map(
    Object.entries(table).map(([name, [params, run]]): [string, Method] => [
      name,
      (self, args, kwargs) => run(self, ...bindArguments(name, params, args, kwargs)),
    ]),
  );
}

function indexOf(items: readonly Value[], value: Value, start: Value, stop: Value): number | undefined {
  const clamp = (at: number): number => (at < 0 ? Math.max(0, at + items.length) : at);
  const from = clamp(toInt(start));
  const to = Math.min(items.length, stop === null ? items.length : clamp(toInt(stop)));
  for (let i = from; i < to; i++) if (equals(items[i] as Value, value)) return i;
  return undefined;
}

const countIn = (items: readonly Value[], value: Value): number =>
  items.filter((item) => equals(item, value)).length;

export const LIST_METHODS = methods({
  copy: [[], (self: Value[]) => pyList(self)],
  count: [["/value"], (self: Value[], value: Value) => countIn(self, value)],
  index: [
    ["/value", ["/start", 0], ["/stop", null]],
    (self: Value[], value: Value, start: Value, stop: Value) =>
      indexOf(self, value, start, stop) ?? fail(`${repr(value)} is not in list`),
  ],
});

export const TUPLE_METHODS = methods({
  count: [["/value"], (self: Value, value: Value) => countIn(itemsOf(self) ?? [], value)],
  index: [
    ["/value", ["/start", 0], ["/stop", null]],
    (self: Value, value: Value, start: Value, stop: Value) =>
      indexOf(itemsOf(self) ?? [], value, start, stop) ?? fail("tuple.index(x): x not in tuple"),
  ],
});

export const DICT_METHODS = methods({
  copy: [[], (self: Dict) => copyDict(self)],
  fromkeys: [
    ["/iterable", ["/value", null]],
    (_self: Dict, keys: Value, value: Value) => fromKeys(keys, value),
  ],
  get: [
    ["/key", ["/default", null]],
    (self: Dict, key: Value, otherwise: Value) => (self.has(key) ? (self.get(key) as Value) : otherwise),
  ],
  items: [[], (self: Dict) => new View(self, "items")],
  keys: [[], (self: Dict) => new View(self, "keys")],
  values: [[], (self: Dict) => new View(self, "values")],
});

export const VIEW_METHODS = methods({
  isdisjoint: [
    ["/other"],
    (self: View, other: Value) =>
      self.of === "values"
        ? fail("'dict_values' object has no attribute 'isdisjoint'")
        : !pyList(other).some((item) => contains(self, item)),
  ],
});

export const RANGE_METHODS = methods({
  count: [["/value"], (self: PyRange, value: Value) => (contains(self, value) ? 1 : 0)],
  index: [
    ["/value"],
    (self: PyRange, value: Value) =>
      contains(self, value)
        ? self.indexOf(value instanceof Float ? value.value : Number(value))
        : fail(`${repr(value)} is not in range`),
  ],
});

export const INT_METHODS = methods({
  bit_length: [
    [],
    (self: Value) =>
      BigInt(intOf(self) ?? 0)
        .toString(2)
        .replace(/^-?0?/, "").length,
  ],
  conjugate: [[], (self: Value) => intOf(self) ?? 0],
});

export const FLOAT_METHODS = methods({
  is_integer: [[], (self: Float) => Number.isInteger(self.value)],
  conjugate: [[], (self: Float) => self],
});

/** Attributes of ints and floats that are values. */
export function numberAttribute(value: Value, name: string): Value | undefined {
  if (value instanceof Float) return name === "real" ? value : name === "imag" ? new Float(0) : undefined;
  if (name === "real" || name === "numerator") return intOf(value);
  if (name === "imag") return 0;
  return name === "denominator" ? 1 : undefined;
}

/** What the immutable sandbox keeps from templates. */
const MUTATING = {
  list: ["append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"],
  dict: ["clear", "pop", "popitem", "setdefault", "update"],
};

export function mutates(value: Value, name: string): boolean {
  if (Array.isArray(value)) return MUTATING.list.includes(name);
  return value instanceof Dict && MUTATING.dict.includes(name);
}

export function copyDict(dict: Dict): Dict {
  const copy = new Dict();
  for (const [key, value] of dict.entries()) copy.set(key, value);
  return copy;
}

function fromKeys(keys: Value, value: Value): Dict {
  const dict = new Dict();
  for (const key of pyList(keys)) dict.set(key, value);
  return dict;
}
