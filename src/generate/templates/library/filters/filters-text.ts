// Filters on text.
import { spend } from "../../budget.ts";
import type { NativeFunction } from "../../compile/runtime.ts";
import { fail } from "../../errors.ts";
import { isIterable, iterate, truthy } from "../../values/compare.ts";
import { escapeMarkup } from "../../values/markup.ts";
import { intOf } from "../../values/numbers.ts";
import { repeatText } from "../../values/operators.ts";
import { repr, str } from "../../values/text.ts";
import { Dict, Float, Markup, Tuple, textOf, typeName, Undefined, type Value } from "../../values/types.ts";
import { capitalize, length, splitLines, strip, substring } from "../../values/unicode.ts";
import { parseFloatText } from "../formats/number-parse.ts";
import { formatPercent } from "../formats/percent-format.ts";
import { toJson } from "../json.ts";
import { native, nativeWithRuntime, toInt } from "../signature.ts";
import { centerText, lower, replaceText, STR_METHODS, upper } from "../str-methods.ts";
import { lengthOf } from "./filters-items.ts";
import { fileSize, indentText, stripTags, titleFilter, urlQuote, wordCount, wrapLine } from "./text-tools.ts";
import { urlizeText } from "./urlize.ts";

/** Applies a function to the text of a value; Markup stays Markup. */
function onText(value: Value, run: (text: string) => string): Value {
  if (value instanceof Markup) return new Markup(run(value.text));
  return run(str(value));
}

/** The text of a value that has to be one already. */
function needText(value: Value, filter: string): string {
  if (value instanceof Undefined) value.use();
  return textOf(value) ?? fail(`the filter ${filter} needs a text, not ${typeName(value)}`);
}

function replace(escaping: boolean, value: Value, old: Value, replacement: Value, count: Value): Value {
  const most = count === null ? -1 : toInt(count);
  if (!escaping) return replaceText(str(value), str(old), str(replacement), most);
  const marked = old instanceof Markup || (replacement instanceof Markup && !(value instanceof Markup));
  const text = marked ? escapeMarkup(value) : value instanceof Markup ? value : str(value);
  const method = STR_METHODS.get("replace");
  const args = [
    textOf(old) === undefined ? str(old) : old,
    textOf(replacement) === undefined ? str(replacement) : replacement,
    most,
  ];
  return method?.(text, args, new Map()) ?? text;
}

function indent(value: Value, width: Value, first: Value, blank: Value): Value {
  const indention = textOf(width) ?? repeatText(" ", toInt(width));
  const text = needText(value, "indent");
  const indented = indentText(text, indention, truthy(first), truthy(blank));
  return value instanceof Markup ? new Markup(indented) : indented;
}

function truncate(value: Value, size: Value, kill: Value, end: Value, leeway: Value): Value {
  const most = toInt(size);
  const mark = needText(end, "truncate");
  const more = leeway === null ? 5 : toInt(leeway);
  if (most < length(mark)) fail(`expected length >= ${length(mark)}, got ${most}`);
  if (more < 0) fail(`expected leeway >= 0, got ${more}`);
  if (lengthOf(value) <= most + more) return value;
  const text = needText(value, "truncate");
  let cut = substring(text, 0, most - length(mark));
  if (!truthy(kill) && cut.includes(" ")) cut = cut.slice(0, cut.lastIndexOf(" "));
  return value instanceof Markup ? new Markup(cut + escapeMarkup(end).text) : cut + mark;
}

function wordWrap(value: Value, width: Value, long: Value, separator: Value, hyphens: Value): Value {
  const text = needText(value, "wordwrap");
  const mark = separator === null ? "\n" : needText(separator, "wordwrap");
  const options = { width: toInt(width), breakLongWords: truthy(long), breakOnHyphens: truthy(hyphens) };
  const lines = splitLines(text).map((line) => wrapLine(line, options).join(mark));
  spend(text.length + lines.length * mark.length);
  return lines.join(mark);
}

function xmlAttributes(escaping: boolean, value: Value, autospace: Value): Value {
  if (value instanceof Undefined) value.use();
  if (!(value instanceof Dict)) return fail(`'${typeName(value)}' object has no attribute 'items'`);
  const parts: string[] = [];
  for (const [key, item] of value.entries()) {
    if (item === null || item instanceof Undefined) continue;
    const name = textOf(key) ?? fail(`expected string or bytes-like object, got '${typeName(key)}'`);
    if (/[ \t\n\r\f\v/>=]/.test(name)) fail(`Invalid character in attribute name: ${repr(key)}`);
    parts.push(`${escapeMarkup(key).text}="${escapeMarkup(item).text}"`);
  }
  const joined = parts.join(" ");
  const text = truthy(autospace) && joined !== "" ? ` ${joined}` : joined;
  return escaping ? new Markup(text) : text;
}

function urlEncode(value: Value): Value {
  if (textOf(value) !== undefined || !isIterable(value)) return urlQuote(str(value), false);
  const pairs =
    value instanceof Dict ? [...value.entries()] : [...iterate(value)].map((pair) => [...iterate(pair)]);
  return pairs
    .map((pair) => {
      const [key, item] = pair;
      if (pair.length !== 2 || key === undefined || item === undefined) {
        return fail(`urlencode needs pairs of a key and a value, got ${pair.length} items`);
      }
      return `${urlQuote(str(key), true)}=${urlQuote(str(item), true)}`;
    })
    .join("&");
}

function urlize(
  escaping: boolean,
  value: Value,
  limit: Value,
  nofollow: Value,
  target: Value,
  rel: Value,
  schemes: Value,
): Value {
  const parts = new Set((rel === null ? "" : str(rel)).split(/\s+/).filter(Boolean));
  if (truthy(nofollow)) parts.add("nofollow");
  parts.add("noopener");
  const extra = schemes === null ? [] : [...iterate(schemes)].map(str);
  for (const scheme of extra) {
    if (!/^[\p{L}\p{N}_.+-]{2,}:\/{0,2}$/u.test(scheme))
      fail(`${repr(scheme)} is not a valid URI scheme prefix.`);
  }
  const text = urlizeText(value, {
    limit: limit === null ? undefined : toInt(limit),
    rel: [...parts].sort().join(" "),
    target: target === null ? undefined : str(target),
    schemes: extra,
  });
  return escaping ? new Markup(text) : text;
}

/** As pprint.pformat, for what fits on a line. */
function prettyPrint(value: Value): Value {
  const text = repr(sortDicts(value));
  return length(text) <= 80 ? text : fail("pprint of more than a line (80 characters) is not supported");
}

function sortDicts(value: Value): Value {
  if (Array.isArray(value)) return value.map(sortDicts);
  if (value instanceof Tuple) return new Tuple(value.items.map(sortDicts));
  if (!(value instanceof Dict)) return value;
  const sorted = new Dict();
  const keys = [...value.keys()];
  if (!keys.every((key) => typeof key === "string")) {
    if (keys.length > 1) fail("pprint of a dict whose keys are not all texts is not supported");
  }
  for (const key of keys.sort()) sorted.set(key, sortDicts(value.get(key) as Value));
  return sorted;
}

function fileSizeFormat(value: Value, binaryUnits: Value): Value {
  const text = textOf(value);
  const number =
    value instanceof Float ? value.value : text === undefined ? intOf(value) : parseFloatText(text);
  if (value instanceof Undefined) value.use();
  if (number === undefined) {
    return text === undefined
      ? fail(`float() argument must be a string or a real number, not '${typeName(value)}'`)
      : fail(`could not convert string to float: ${repr(text)}`);
  }
  return fileSize(Number(number), truthy(binaryUnits));
}

const trim = (value: Value, chars: Value): Value =>
  onText(value, (text) => strip(text, chars === null ? undefined : needText(chars, "trim"), "both"));

const escapeFilter = native("escape", ["/s"], (value: Value) => escapeMarkup(value));

export const TEXT_FILTERS: Readonly<Record<string, NativeFunction>> = {
  capitalize: native("do_capitalize", ["s"], (value: Value) => onText(value, capitalize)),
  center: native("do_center", ["value", ["width", 80]], (value: Value, width: Value) =>
    onText(value, (text) => centerText(text, toInt(width))),
  ),
  e: escapeFilter,
  escape: escapeFilter,
  filesizeformat: native("do_filesizeformat", ["value", ["binary", false]], fileSizeFormat),
  forceescape: native("do_forceescape", ["value"], (value: Value) => escapeMarkup(str(value))),
  format: (_runtime, [value = "", ...args], kwargs) => {
    if (args.length > 0 && kwargs.size > 0) {
      fail("can't handle positional and keyword arguments at the same time");
    }
    const template = textOf(value) === undefined ? str(value) : value;
    if (kwargs.size === 0) return formatPercent(template, new Tuple(args));
    const named = new Dict();
    for (const [key, item] of kwargs) named.set(key, item);
    return formatPercent(template, named);
  },
  indent: native("do_indent", ["s", ["width", 4], ["first", false], ["blank", false]], indent),
  lower: native("do_lower", ["s"], (value: Value) => onText(value, lower)),
  pprint: native("do_pprint", ["value"], prettyPrint),
  replace: nativeWithRuntime("do_replace", ["s", "old", "new", ["count", null]], (runtime, ...args) =>
    replace(runtime.autoescape, ...(args as [Value, Value, Value, Value])),
  ),
  safe: native("do_mark_safe", ["value"], (value: Value) =>
    value instanceof Markup ? value : new Markup(str(value)),
  ),
  string: native("soft_str", ["/s"], (value: Value) => (value instanceof Markup ? value : str(value))),
  striptags: native("do_striptags", ["value"], (value: Value) => stripTags(str(value))),
  title: native("do_title", ["s"], (value: Value) => titleFilter(str(value))),
  tojson: native(
    "tojson",
    ["x", ["ensure_ascii", false], ["indent", null], ["separators", null], ["sort_keys", false]],
    toJson,
  ),
  trim: native("do_trim", ["value", ["chars", null]], trim),
  truncate: native(
    "do_truncate",
    ["s", ["length", 255], ["killwords", false], ["end", "..."], ["leeway", null]],
    truncate,
  ),
  upper: native("do_upper", ["s"], (value: Value) => onText(value, upper)),
  urlencode: native("do_urlencode", ["value"], urlEncode),
  urlize: nativeWithRuntime(
    "do_urlize",
    [
      "value",
      ["trim_url_limit", null],
      ["nofollow", false],
      ["target", null],
      ["rel", null],
      ["extra_schemes", null],
    ],
    (runtime, ...args) => urlize(runtime.autoescape, ...(args as [Value, Value, Value, Value, Value, Value])),
  ),
  wordcount: native("do_wordcount", ["s"], (value: Value) => wordCount(str(value))),
  wordwrap: native(
    "do_wordwrap",
    ["s", ["width", 79], ["break_long_words", true], ["wrapstring", null], ["break_on_hyphens", true]],
    wordWrap,
  ),
  xmlattr: nativeWithRuntime("do_xmlattr", ["d", ["autospace", true]], (runtime, value, autospace) =>
    xmlAttributes(runtime.autoescape, value, autospace),
  ),
};
