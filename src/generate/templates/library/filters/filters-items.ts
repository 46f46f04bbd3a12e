// Filters on sequences and mappings. Those that are generators in jinja2 are lazy and give their items once.
import { spend, spendItems } from "../../budget.ts";
import type { NativeFunction, Runtime } from "../../compile/runtime.ts";
import { fail } from "../../errors.ts";
import {
  collectionSize,
  equals,
  isIterable,
  iterate,
  ordered,
  pyList,
  sorted,
  truthy,
} from "../../values/compare.ts";
import { escapeMarkup } from "../../values/markup.ts";
import { binary } from "../../values/operators.ts";
import { str } from "../../values/text.ts";
import {
  Dict,
  Group,
  hashKey,
  Iter,
  type Kwargs,
  Markup,
  PyRange,
  Tuple,
  textOf,
  typeName,
  Undefined,
  type Value,
  View,
} from "../../values/types.ts";
import { characters, length } from "../../values/unicode.ts";
import { attributeGetter, type Getter, ignoreCase, multiGetter } from "../attributes.ts";
import { native, nativeWithRuntime, toInt } from "../signature.ts";
import { joinText } from "../str-methods.ts";

const generator = (items: Generator<Value>): Iter => new Iter("generator", items);

/** len() of anything that has one. */
export function lengthOf(value: Value): number {
  const text = textOf(value);
  if (text !== undefined) return length(text);
  return collectionSize(value) ?? fail(`object of type '${typeName(value)}' has no len()`);
}

function first(value: Value): Value {
  for (const item of iterate(value)) return item;
  return new Undefined("No first item, sequence was empty.");
}

/** The items in reverse, undefined if Python cannot reverse it. */
function reversedItems(value: Value): Value[] | undefined {
  const text = textOf(value);
  if (text !== undefined) {
    const all = characters(text).reverse();
    return value instanceof Markup ? all.map((c) => new Markup(c)) : all;
  }
  const reversible =
    Array.isArray(value) ||
    value instanceof Tuple ||
    value instanceof PyRange ||
    value instanceof Dict ||
    value instanceof View ||
    value instanceof Undefined;
  return reversible ? pyList(value).reverse() : undefined;
}

function last(value: Value): Value {
  const items = reversedItems(value) ?? fail(`'${typeName(value)}' object is not reversible`);
  return items.length > 0 ? (items[0] as Value) : new Undefined("No last item, sequence was empty.");
}

const REVERSED: Partial<Record<string, string>> = { list: "list_reverseiterator", tuple: "reversed" };

function reverse(value: Value): Value {
  const text = textOf(value);
  if (text !== undefined) {
    const turned = characters(text).reverse().join("");
    return value instanceof Markup ? new Markup(turned) : turned;
  }
  const items = reversedItems(value);
  if (items !== undefined) return new Iter(REVERSED[typeName(value)] ?? "reversed", items[Symbol.iterator]());
  if (!isIterable(value)) fail("argument must be iterable");
  return pyList(value).reverse();
}

function* batch(value: Value, count: Value, fill: Value): Generator<Value> {
  let row: Value[] = [];
  for (const item of iterate(value)) {
    if (equals(row.length, count)) {
      yield row;
      row = [];
    }
    spend(8);
    row.push(item);
  }
  if (row.length === 0) return;
  if (fill !== null && ordered("<", row.length, count)) {
    const missing = toInt(count) - row.length;
    spendItems(missing);
    for (let i = 0; i < missing; i++) row.push(fill);
  }
  yield row;
}

function* slices(value: Value, count: Value, fill: Value): Generator<Value> {
  const items = pyList(value);
  const parts = toInt(count);
  if (parts === 0) fail("integer division or modulo by zero");
  const [each, extra] = [
    Math.floor(items.length / parts),
    items.length - parts * Math.floor(items.length / parts),
  ];
  let offset = 0;
  for (let i = 0; i < parts; i++) {
    const start = offset + i * each;
    if (i < extra) offset++;
    const part = items.slice(start, offset + (i + 1) * each);
    spendItems(part.length + 8);
    if (fill !== null && i >= extra) part.push(fill);
    yield part;
  }
}

function dictSort(value: Value, caseSensitive: Value, by: Value, reversed: Value): Value {
  const position = textOf(by) === "key" ? 0 : textOf(by) === "value" ? 1 : undefined;
  if (position === undefined) return fail('You can only sort by either "key" or "value"');
  if (value instanceof Undefined) value.use();
  if (!(value instanceof Dict)) return fail(`'${typeName(value)}' object has no attribute 'items'`);
  const key: Getter = (pair) => {
    const part = (pair as Tuple).items[position] as Value;
    return truthy(caseSensitive) ? part : ignoreCase(part);
  };
  return sorted(pyList(new View(value, "items")), key, truthy(reversed));
}

const folding = (caseSensitive: Value): Getter | undefined =>
  truthy(caseSensitive) ? undefined : ignoreCase;

function extreme(value: Value, caseSensitive: Value, attribute: Value, better: "<" | ">"): Value {
  const key = attributeGetter(attribute, folding(caseSensitive));
  let best: { item: Value; key: Value } | undefined;
  for (const item of iterate(value)) {
    const own = key(item);
    if (best === undefined || ordered(better, own, best.key)) best = { item, key: own };
  }
  return best === undefined ? new Undefined("No aggregated item, sequence was empty.") : best.item;
}

function groupBy(value: Value, attribute: Value, otherwise: Value, caseSensitive: Value): Value {
  const key = attributeGetter(attribute, folding(caseSensitive), otherwise);
  const shown = attributeGetter(attribute, undefined, otherwise);
  const groups: { key: Value; items: Value[] }[] = [];
  for (const item of sorted(pyList(value), key, false)) {
    const own = key(item);
    const current = groups.at(-1);
    if (current !== undefined && equals(current.key, own)) current.items.push(item);
    else groups.push({ key: own, items: [item] });
    spend(16);
  }
  return groups.map(
    (group) => new Group([truthy(caseSensitive) ? group.key : shown(group.items[0] as Value), group.items]),
  );
}

function* unique(value: Value, caseSensitive: Value, attribute: Value): Generator<Value> {
  const key = attributeGetter(attribute, folding(caseSensitive));
  const seen = new Set<unknown>();
  for (const item of iterate(value)) {
    const hash = hashKey(key(item));
    if (seen.has(hash)) continue;
    spend(16);
    seen.add(hash);
    yield item;
  }
}

function sum(value: Value, attribute: Value, start: Value): Value {
  if (textOf(start) !== undefined) fail("sum() can't sum strings [use ''.join(seq) instead]");
  const get = attributeGetter(attribute);
  let total = start;
  for (const item of iterate(value)) total = binary("+", total, get(item));
  return total;
}

function join(escaping: boolean, value: Value, separator: Value, attribute: Value): Value {
  const get = attributeGetter(attribute);
  if (!escaping) return joinText(str(separator), value, (item) => str(get(item)));
  const items = pyList(value).map(get);
  if (!(separator instanceof Markup) && !items.some((item) => item instanceof Markup)) {
    return joinText(str(separator), items, str);
  }
  const mark = escapeMarkup(separator).text;
  return new Markup(joinText(mark, items, (item) => escapeMarkup(item).text));
}

function* itemsOfMapping(value: Value): Generator<Value> {
  if (value instanceof Undefined) return;
  if (!(value instanceof Dict)) fail("Can only get item pairs from a mapping.");
  yield* new View(value as Dict, "items");
}

function* map(runtime: Runtime, value: Value, args: readonly Value[], kwargs: Kwargs): Generator<Value> {
  if (!truthy(value)) return;
  const apply = mapping(runtime, args, kwargs);
  for (const item of iterate(value)) yield apply(item);
}

function mapping(runtime: Runtime, args: readonly Value[], kwargs: Kwargs): Getter {
  const [name, ...rest] = args;
  if (name !== undefined) return (item) => runtime.callFilter(name, [item, ...rest], kwargs);
  const attribute = kwargs.get("attribute");
  if (attribute === undefined) return fail("map requires a filter argument");
  for (const key of kwargs.keys()) {
    if (key !== "attribute" && key !== "default") fail(`Unexpected keyword argument '${key}'`);
  }
  return attributeGetter(attribute, undefined, kwargs.get("default") ?? null);
}

/** select, reject, selectattr and rejectattr. */
function choosing(wanted: boolean, byAttribute: boolean): NativeFunction {
  function* choose(runtime: Runtime, value: Value, args: readonly Value[], kwargs: Kwargs): Generator<Value> {
    if (!truthy(value)) return;
    const [attribute] = args;
    if (byAttribute && attribute === undefined) fail("Missing parameter for attribute name");
    const get = byAttribute ? attributeGetter(attribute as Value) : (item: Value) => item;
    const [name, ...rest] = byAttribute ? args.slice(1) : args;
    for (const item of iterate(value)) {
      const tested = get(item);
      const passed = name === undefined ? tested : runtime.callTest(name, [tested, ...rest], kwargs);
      if (truthy(passed) === wanted) yield item;
    }
  }
  return (runtime, [value = null, ...args], kwargs) => generator(choose(runtime, value, args, kwargs));
}

const count = native("len", ["/obj"], lengthOf);

export const ITEM_FILTERS: Readonly<Record<string, NativeFunction>> = {
  batch: native("do_batch", ["value", "linecount", ["fill_with", null]], (value, lines, fill) =>
    generator(batch(value, lines, fill)),
  ),
  count,
  dictsort: native(
    "do_dictsort",
    ["value", ["case_sensitive", false], ["by", "key"], ["reverse", false]],
    dictSort,
  ),
  first: native("do_first", ["seq"], first),
  groupby: native(
    "do_groupby",
    ["value", "attribute", ["default", null], ["case_sensitive", false]],
    groupBy,
  ),
  items: native("do_items", ["value"], (value: Value) => generator(itemsOfMapping(value))),
  join: nativeWithRuntime(
    "do_join",
    ["value", ["d", ""], ["attribute", null]],
    (runtime, value, mark, attribute) => join(runtime.autoescape, value, mark, attribute),
  ),
  last: native("do_last", ["seq"], last),
  length: count,
  list: native("do_list", ["value"], pyList),
  map: (runtime, [value = null, ...args], kwargs) => generator(map(runtime, value, args, kwargs)),
  max: native(
    "do_max",
    ["value", ["case_sensitive", false], ["attribute", null]],
    (value, sensitive, attribute) => extreme(value, sensitive, attribute, ">"),
  ),
  min: native(
    "do_min",
    ["value", ["case_sensitive", false], ["attribute", null]],
    (value, sensitive, attribute) => extreme(value, sensitive, attribute, "<"),
  ),
  random: () => fail("the filter random gives another text at every call, which templates may not do"),
  reject: choosing(false, false),
  rejectattr: choosing(false, true),
  reverse: native("do_reverse", ["value"], reverse),
  select: choosing(true, false),
  selectattr: choosing(true, true),
  slice: native("do_slice", ["value", "slices", ["fill_with", null]], (value, parts, fill) =>
    generator(slices(value, parts, fill)),
  ),
  sort: native(
    "do_sort",
    ["value", ["reverse", false], ["case_sensitive", false], ["attribute", null]],
    (value: Value, reversed: Value, sensitive: Value, attribute: Value) =>
      sorted(pyList(value), multiGetter(attribute, folding(sensitive)), truthy(reversed)),
  ),
  sum: native("do_sum", ["iterable", ["attribute", null], ["start", 0]], sum),
  unique: native(
    "do_unique",
    ["value", ["case_sensitive", false], ["attribute", null]],
    (value, sensitive, attribute) => generator(unique(value, sensitive, attribute)),
  ),
};
