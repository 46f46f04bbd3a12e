// Truth, equality, order, membership and iteration of values, as Python defines them.
import { MAX_NESTING, spend, step, tooDeep } from "../budget.ts";
import { fail } from "../errors.ts";
import { intOf } from "./numbers.ts";
import {
  Dict,
  Float,
  Iter,
  itemsOf,
  Markup,
  PyObject,
  PyRange,
  Tuple,
  textOf,
  typeName,
  Undefined,
  type Value,
  View,
} from "./types.ts";
import { compareText } from "./unicode.ts";

export function truthy(value: Value): boolean {
  if (typeof value === "boolean") return value;
  if (typeof value === "string") return value !== "";
  if (typeof value === "number") return value !== 0;
  if (value === null) return false;
  if (typeof value === "bigint") return true;
  return Array.isArray(value) ? value.length > 0 : (sizeOf(value) ?? 1) > 0;
}

/** len() of what has one, except texts; undefined otherwise. 0 for a float that is zero, which is as false. */
function sizeOf(value: PyObject): number | undefined {
  if (value instanceof Dict) return value.size;
  if (value instanceof Undefined) return 0;
  if (value instanceof Tuple) return value.items.length;
  if (value instanceof Markup) return value.text.length;
  if (value instanceof PyRange) return value.length;
  if (value instanceof View) return value.dict.size;
  if (value instanceof Float) return value.value === 0 ? 0 : 1;
  return undefined;
}

/** The number of a value for comparisons: bools and floats are numbers too. */
function numeric(value: Value): number | bigint | undefined {
  return value instanceof Float ? value.value : intOf(value);
}

/** a == b */
export function equals(a: Value, b: Value, depth = 0): boolean {
  if (a === b) return true;
  step();
  const x = numeric(a);
  if (x !== undefined) {
    const y = numeric(b);
    // Between a bigint and a number, == is exact.
    // biome-ignore lint/suspicious/noDoubleEquals: two kinds of number are compared by value
    return y !== undefined && x == y;
  }
  const text = textOf(a);
  if (text !== undefined) {
    const other = textOf(b);
    if (other !== undefined && other.length === text.length) spend(text.length >>> 4);
    return text === other;
  }
  if (depth > MAX_NESTING) tooDeep();
  if (Array.isArray(a)) return Array.isArray(b) && sameItems(a, b, depth);
  if (a instanceof Tuple) return b instanceof Tuple && sameItems(a.items, b.items, depth);
  if (a instanceof Dict) {
    if (!(b instanceof Dict) || a.size !== b.size) return false;
    for (const [key, value] of a.entries()) {
      const other = b.get(key);
      if (other === undefined || !equals(value, other, depth + 1)) return false;
    }
    return true;
  }
  if (a instanceof Undefined) return b instanceof Undefined;
  if (a instanceof PyRange && b instanceof PyRange) {
    if (a.length !== b.length || a.length === 0) return a.length === b.length;
    return a.start === b.start && (a.length === 1 || a.step === b.step);
  }
  if (a instanceof View && b instanceof View && a.of === "keys" && b.of === "keys") {
    if (a.dict.size !== b.dict.size) return false;
    for (const key of a) if (!b.dict.has(key)) return false;
    return true;
  }
  return false;
}

function sameItems(a: readonly Value[], b: readonly Value[], depth: number): boolean {
  if (a.length !== b.length) return false;
  return a.every((item, i) => equals(item, b[i] as Value, depth + 1));
}

export type Comparison = "<" | "<=" | ">" | ">=";

/** a < b and its kin. @throws TemplateError if Python does not order the two */
export function ordered(operator: Comparison, a: Value, b: Value, depth = 0): boolean {
  const x = numeric(a);
  const y = numeric(b);
  if (x !== undefined && y !== undefined) {
    if (operator === "<") return x < y;
    if (operator === "<=") return x <= y;
    return operator === ">" ? x > y : x >= y;
  }
  const [s, t] = [textOf(a), textOf(b)];
  if (s !== undefined && t !== undefined) return holds(operator, compareText(s, t));
  if (a instanceof Undefined) a.use();
  if (b instanceof Undefined) b.use();
  if ((Array.isArray(a) && Array.isArray(b)) || (a instanceof Tuple && b instanceof Tuple)) {
    if (depth > MAX_NESTING) tooDeep();
    const [left, right] = [itemsOf(a) as readonly Value[], itemsOf(b) as readonly Value[]];
    const end = Math.min(left.length, right.length);
    for (let i = 0; i < end; i++) {
      const [l, r] = [left[i] as Value, right[i] as Value];
      if (!equals(l, r)) return ordered(operator, l, r, depth + 1);
    }
    return holds(operator, left.length - right.length);
  }
  return fail(`'${operator}' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`);
}

function holds(operator: Comparison, order: number): boolean {
  if (operator === "<") return order < 0;
  if (operator === "<=") return order <= 0;
  return operator === ">" ? order > 0 : order >= 0;
}

/** item in container */
export function contains(container: Value, item: Value): boolean {
  const text = textOf(container);
  if (text !== undefined) {
    const part = textOf(item);
    if (part === undefined) fail(`'in <string>' requires string as left operand, not ${typeName(item)}`);
    spend(text.length);
    return text.includes(part as string);
  }
  if (container instanceof Dict) return container.has(item);
  if (container instanceof View && container.of === "keys") return container.dict.has(item);
  if (container instanceof PyRange) {
    const number = numeric(item);
    return number !== undefined && container.indexOf(Number(number)) >= 0;
  }
  if (!isIterable(container)) fail(`argument of type '${typeName(container)}' is not iterable`);
  for (const one of iterate(container)) if (one === item || equals(one, item)) return true;
  return false;
}

export function isIterable(value: Value): boolean {
  return (
    typeof value === "string" ||
    Array.isArray(value) ||
    value instanceof Tuple ||
    value instanceof Dict ||
    value instanceof Markup ||
    value instanceof PyRange ||
    value instanceof View ||
    value instanceof Iter ||
    value instanceof Undefined
  );
}

/** The items of whatever can be iterated. @throws TemplateError for anything else, before the first item */
export function iterate(value: Value): Iterable<Value> {
  if (Array.isArray(value)) return value;
  if (value instanceof Tuple) return value.items;
  if (typeof value === "string") return value;
  if (value instanceof Dict) return value.keys();
  if (value instanceof Undefined) return [];
  if (value instanceof View) return value;
  if (value instanceof PyRange) return rangeItems(value);
  // The characters of a Markup are plain strings.
  if (value instanceof Markup) return value.text;
  if (value instanceof Iter) return { [Symbol.iterator]: () => onlyNext(value.iterator) };
  return fail(`'${typeName(value)}' object is not iterable`);
}

/** Leaving a loop early must not close the iterator: Python goes on where it was. */
function onlyNext(iterator: Iterator<Value>): Iterator<Value> {
  return { next: () => iterator.next() };
}

function* rangeItems(range: PyRange): Generator<Value> {
  for (let i = 0; i < range.length; i++) yield range.at(i);
}

/** list(value) */
export function pyList(value: Value): Value[] {
  const items: Value[] = [];
  for (const item of iterate(value)) {
    spend(16);
    items.push(item);
  }
  return items;
}

/** len(value) of what is not a text; undefined if it has no length. */
export function collectionSize(value: Value): number | undefined {
  if (Array.isArray(value)) return value.length;
  if (!(value instanceof PyObject) || value instanceof Float || value instanceof Markup) return undefined;
  return sizeOf(value);
}

/** sorted(value, key=..., reverse=...): stable, also in reverse. */
export function sorted(items: Value[], key: (item: Value) => Value, reverse: boolean): Value[] {
  spend(16 * items.length);
  const keyed = items.map((item) => ({ item, key: key(item) }));
  if (reverse) keyed.reverse();
  keyed.sort((a, b) => {
    step();
    if (ordered("<", a.key, b.key)) return -1;
    return ordered("<", b.key, a.key) ? 1 : 0;
  });
  if (reverse) keyed.reverse();
  return keyed.map(({ item }) => item);
}
