// The methods of str. Those of Markup are the same, with escaped arguments and results that are Markup.
import { spend, spendItems } from "../budget.ts";
import { fail } from "../errors.ts";
import { iterate } from "../values/compare.ts";
import { escapeMarkup } from "../values/markup.ts";
import { repeatText } from "../values/operators.ts";
import { type Kwargs, Markup, Tuple, textOf, typeName, Undefined, type Value } from "../values/types.ts";
import * as u from "../values/unicode.ts";
import { unescapeHtml } from "./filters/html.ts";
import { stripTags } from "./filters/text-tools.ts";
import { bindArguments, type Param, toInt } from "./signature.ts";

export type Method = (self: Value, args: readonly Value[], kwargs: Kwargs) => Value;

function text(value: Value, what: string): string {
  const found = textOf(value);
  if (found === undefined) return fail(`${what} must be str, not ${typeName(value)}`);
  return found;
}

const optionalText = (value: Value, what: string): string | undefined =>
  value === null || value === undefined ? undefined : text(value, what);

/** The UTF-16 range that start and end arguments mean, undefined if start is beyond the text. */
function range(
  self: string,
  start: Value,
  end: Value,
): { from: number; to: number; points: number } | undefined {
  if ((start ?? null) === null && (end ?? null) === null) return { from: 0, to: self.length, points: 0 };
  const size = u.length(self);
  const clamp = (value: Value, otherwise: number): number => {
    if (value === null || value === undefined) return otherwise;
    const index = toInt(value);
    return Math.min(size, index < 0 ? Math.max(0, index + size) : index);
  };
  if (start !== null && start !== undefined && toInt(start) > size) return undefined;
  const [first, last] = [clamp(start, 0), clamp(end, size)];
  if (first > last) return undefined;
  return { from: u.unitIndex(self, first), to: u.unitIndex(self, last), points: first };
}

function find(self: string, part: Value, start: Value, end: Value, last: boolean): number {
  const wanted = text(part, "the argument");
  const within = range(self, start, end);
  if (within === undefined) return -1;
  spend(2 * self.length);
  const inside = self.slice(within.from, within.to);
  const at = last ? inside.lastIndexOf(wanted) : inside.indexOf(wanted);
  return at < 0 ? -1 : within.points + u.pointIndex(inside, at);
}

function affix(
  self: string,
  affixes: Value,
  start: Value,
  end: Value,
  name: "startswith" | "endswith",
): boolean {
  const options = affixes instanceof Tuple ? affixes.items : [affixes];
  const within = range(self, start, end);
  const texts = options.map(
    (one) => textOf(one) ?? fail(`${name} first arg must be str or a tuple of str, not ${typeName(one)}`),
  );
  if (within === undefined) return false;
  const inside = self.slice(within.from, within.to);
  return texts.some((one) => (name === "startswith" ? inside.startsWith(one) : inside.endsWith(one)));
}

/** More parts than this are beyond any budget. */
const MAX_PARTS = 4_000_000;

function split(self: string, separator: Value, most: Value, fromRight: boolean): Value {
  const limit = toInt(most);
  const mark = optionalText(separator, "must be str or None, the separator");
  if (mark === undefined) return u.splitSpace(self, limit, fromRight);
  if (mark === "") fail("empty separator");
  spend(self.length);
  const parts = self.split(mark, MAX_PARTS);
  spendItems(4 * parts.length);
  if (limit < 0 || parts.length - 1 <= limit) return parts;
  if (fromRight)
    return [parts.slice(0, parts.length - limit).join(mark), ...parts.slice(parts.length - limit)];
  return [...parts.slice(0, limit), parts.slice(limit).join(mark)];
}

export function replaceText(self: string, old: string, replacement: string, count: number): string {
  spend(self.length);
  const most = count < 0 ? Number.POSITIVE_INFINITY : count;
  if (most === 0) return self;
  const parts = old === "" ? ["", ...u.characters(self), ""] : self.split(old, MAX_PARTS);
  spendItems(2 * parts.length);
  const used = Math.min(most, parts.length - 1);
  spend(self.length + used * replacement.length);
  spendItems(parts.length);
  if (used === parts.length - 1) return parts.join(replacement);
  return (
    parts.slice(0, used + 1).join(replacement) + (old === "" ? "" : old) + parts.slice(used + 1).join(old)
  );
}

function partition(self: string, separator: Value, last: boolean): Value {
  const mark = text(separator, "the separator");
  if (mark === "") fail("empty separator");
  spend(self.length);
  const at = last ? self.lastIndexOf(mark) : self.indexOf(mark);
  if (at < 0) return new Tuple(last ? ["", "", self] : [self, "", ""]);
  return new Tuple([self.slice(0, at), mark, self.slice(at + mark.length)]);
}

function justify(self: string, width: Value, fill: Value, side: "left" | "right" | "center"): string {
  const mark = text(fill, "The fill character");
  if (u.length(mark) !== 1) fail("The fill character must be exactly one character long");
  const size = toInt(width);
  const missing = size - u.length(self);
  if (missing <= 0) return self;
  if (side === "left") return self + repeatText(mark, missing);
  if (side === "right") return repeatText(mark, missing) + self;
  // CPython: an odd space goes to the left if the width is odd.
  const left = Math.floor(missing / 2) + (missing & size & 1);
  return repeatText(mark, left) + self + repeatText(mark, missing - left);
}

export function centerText(self: string, width: number): string {
  return justify(self, width, " ", "center");
}

function count(self: string, part: Value, start: Value, end: Value): number {
  const wanted = text(part, "the argument");
  const within = range(self, start, end);
  if (within === undefined) return 0;
  const inside = self.slice(within.from, within.to);
  spend(4 * inside.length);
  return wanted === "" ? u.length(inside) + 1 : inside.split(wanted, MAX_PARTS).length - 1;
}

function expandTabs(self: string, size: number): string {
  spend(self.length);
  let column = 0;
  let out = "";
  for (const c of self) {
    if (c === "\t") {
      const spaces = size > 0 ? size - (column % size) : 0;
      out += repeatText(" ", spaces);
      column += spaces;
    } else {
      out += c;
      column = c === "\n" || c === "\r" ? 0 : column + 1;
    }
  }
  return out;
}

function zfill(self: string, width: number): string {
  const missing = width - u.length(self);
  if (missing <= 0) return self;
  const sign = /^[-+]/.exec(self)?.[0] ?? "";
  return sign + repeatText("0", missing) + self.slice(sign.length);
}

/** Whether a text is not empty and all its characters pass. */
function all(self: string, test: (c: string) => boolean): boolean {
  return self !== "" && u.characters(self).every(test);
}

/** islower() and isupper(): some cased characters, and none of the other case. */
export function hasCase(self: string, is: (c: string) => boolean, isNot: (c: string) => boolean): boolean {
  const found = u.characters(self);
  return found.some(is) && !found.some((c) => isNot(c) || u.isTitle(c));
}

function isTitle(self: string): boolean {
  let inWord = false;
  let cased = false;
  for (const c of u.characters(self)) {
    const upper = u.isUpper(c) || u.isTitle(c);
    const lower = u.isLower(c);
    if ((upper && inWord) || (lower && !inWord)) return false;
    inWord = upper || lower;
    cased ||= inWord;
  }
  return cased;
}

function swapCase(self: string): string {
  return u
    .characters(self)
    .map((c) => (u.isUpper(c) ? c.toLowerCase() : u.isLower(c) ? c.toUpperCase() : c))
    .join("");
}

export function joinText(separator: string, items: Value, convert: (item: Value) => string): string {
  const parts: string[] = [];
  let size = 0;
  for (const item of iterate(items)) {
    const part = convert(item);
    size = part.length + separator.length;
    spend(size + 8);
    parts.push(part);
  }
  return parts.join(separator);
}

function strictItem(item: Value, index: number): string {
  const found = textOf(item);
  return found ?? fail(`sequence item ${index}: expected str instance, ${typeName(item)} found`);
}

/** Names of methods that need more than the engine has. */
const REFUSED = ["encode", "maketrans", "translate"];

const END: readonly Param[] = [
  ["/start", null],
  ["/end", null],
];
const FILL: readonly Param[] = ["/width", ["/fill", " "]];

// biome-ignore lint/suspicious/noExplicitAny: the parameters are those of each signature
type Run = (self: string, ...args: any[]) => Value;

const METHODS: Record<string, readonly [readonly Param[], Run]> = {
  capitalize: [[], (s) => u.capitalize(s)],
  casefold: [[], (s) => u.casefold(s)],
  center: [FILL, (s, width, fill) => justify(s, width, fill, "center")],
  count: [["/sub", ...END], count],
  endswith: [["/suffix", ...END], (s, x, start, end) => affix(s, x, start, end, "endswith")],
  expandtabs: [[["tabsize", 8]], (s, size) => expandTabs(s, toInt(size))],
  find: [["/sub", ...END], (s, part, start, end) => find(s, part, start, end, false)],
  index: [["/sub", ...END], (s, part, start, end) => found(find(s, part, start, end, false))],
  isalnum: [[], (s) => all(s, u.isAlnum)],
  isalpha: [[], (s) => all(s, u.isAlpha)],
  isascii: [[], (s) => !/[^\0-\x7f]/.test(s)],
  isdecimal: [[], (s) => all(s, u.isDecimal)],
  isdigit: [[], (s) => all(s, u.isDigit)],
  isidentifier: [[], (s) => /^[\p{XIDS}_]\p{XIDC}*$/u.test(s)],
  islower: [[], (s) => hasCase(s, u.isLower, u.isUpper)],
  isnumeric: [[], (s) => all(s, u.isNumeric)],
  isprintable: [[], (s) => u.characters(s).every(u.isPrintable)],
  isspace: [[], (s) => all(s, u.isSpace)],
  istitle: [[], isTitle],
  isupper: [[], (s) => hasCase(s, u.isUpper, u.isLower)],
  join: [["/iterable"], joinStrict],
  ljust: [FILL, (s, width, fill) => justify(s, width, fill, "left")],
  lower: [[], (s) => lower(s)],
  lstrip: [[["/chars", null]], (s, chars) => u.strip(s, optionalText(chars, "chars"), "left")],
  partition: [["/sep"], (s, mark) => partition(s, mark, false)],
  removeprefix: [["/prefix"], (s, x) => (s.startsWith(text(x, "prefix")) ? s.slice(text(x, "").length) : s)],
  removesuffix: [["/suffix"], removeSuffix],
  replace: [["/old", "/new", ["/count", -1]], replace],
  rfind: [["/sub", ...END], (s, part, start, end) => find(s, part, start, end, true)],
  rindex: [["/sub", ...END], (s, part, start, end) => found(find(s, part, start, end, true))],
  rjust: [FILL, (s, width, fill) => justify(s, width, fill, "right")],
  rpartition: [["/sep"], (s, mark) => partition(s, mark, true)],
  rsplit: [
    [
      ["sep", null],
      ["maxsplit", -1],
    ],
    (s, mark, most) => split(s, mark, most, true),
  ],
  rstrip: [[["/chars", null]], (s, chars) => u.strip(s, optionalText(chars, "chars"), "right")],
  split: [
    [
      ["sep", null],
      ["maxsplit", -1],
    ],
    (s, mark, most) => split(s, mark, most, false),
  ],
  splitlines: [[["keepends", false]], (s, keep) => u.splitLines(s, keep === true || Number(keep) !== 0)],
  startswith: [["/prefix", ...END], (s, x, start, end) => affix(s, x, start, end, "startswith")],
  strip: [[["/chars", null]], (s, chars) => u.strip(s, optionalText(chars, "chars"), "both")],
  swapcase: [[], swapCase],
  title: [[], (s) => u.title(s)],
  upper: [[], (s) => upper(s)],
  zfill: [["/width"], (s, width) => zfill(s, toInt(width))],
};

export function lower(self: string): string {
  spend(self.length);
  return self.toLowerCase();
}

export function upper(self: string): string {
  spend(2 * self.length);
  return self.toUpperCase();
}

function found(index: number): number {
  return index < 0 ? fail("substring not found") : index;
}

function joinStrict(self: string, items: Value): string {
  let index = 0;
  return joinText(self, items, (item) => strictItem(item, index++));
}

function removeSuffix(self: string, suffix: Value): string {
  const end = text(suffix, "suffix");
  return end !== "" && self.endsWith(end) ? self.slice(0, -end.length) : self;
}

function replace(self: string, old: Value, replacement: Value, most: Value): string {
  return replaceText(
    self,
    text(old, "replace() argument 1"),
    text(replacement, "replace() argument 2"),
    toInt(most),
  );
}

/** A method of str by name: undefined if there is none of that name. format and format_map are elsewhere. */
export const STR_METHODS: ReadonlyMap<string, Method> = new Map([
  ...Object.entries(METHODS).map(([name, [params, run]]): [string, Method] => [
    name,
    (self, args, kwargs) => {
      const bound = bindArguments(name, params, args, kwargs);
      if (!(self instanceof Markup)) return run(self as string, ...bound);
      return markup(run(self.text, ...escapeArguments(name, bound)));
    },
  ]),
  ...REFUSED.map((name): [string, Method] => [
    name,
    () => fail(`the method ${name} of str is not supported in templates`),
  ]),
]);

function escapeArguments(name: string, args: (Value | undefined)[]): (Value | undefined)[] {
  const escaped = [...args];
  if (name === "join") {
    const items: Value[] = [];
    for (const item of iterate(args[0] as Value)) items.push(escapeMarkup(item));
    return [items];
  }
  if (name === "replace") escaped[1] = escapeMarkup(args[1] as Value);
  if (name === "ljust" || name === "rjust" || name === "center") escaped[1] = escapeMarkup(args[1] as Value);
  return escaped;
}

function markup(value: Value): Value {
  if (typeof value === "string") return new Markup(value);
  if (Array.isArray(value)) return value.map(markup);
  return value instanceof Tuple ? new Tuple(value.items.map(markup)) : value;
}

/** What Markup has beyond str. */
export const MARKUP_METHODS: ReadonlyMap<string, Method> = new Map<string, Method>([
  ["unescape", (self) => unescapeHtml((self as Markup).text)],
  ["striptags", (self) => new Markup(stripTags((self as Markup).text))],
  ["escape", (_self, args) => escapeMarkup(args[0] ?? new Undefined(""))],
]);
