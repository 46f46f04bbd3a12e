// The tojson filter as transformers sets it up: json.dumps, without escapes for HTML.
import { MAX_NESTING, spend, tooDeep } from "../budget.ts";
import { fail } from "../errors.ts";
import { iterate, sorted, truthy } from "../values/compare.ts";
import { intOf } from "../values/numbers.ts";
import { repeatText } from "../values/operators.ts";
import { bigintText, floatText } from "../values/text.ts";
import { Dict, Float, itemsOf, Tuple, textOf, typeName, type Value } from "../values/types.ts";

interface Style {
  readonly ascii: boolean;
  /** Undefined for everything on one line. */
  readonly indent: string | undefined;
  readonly itemSeparator: string;
  readonly keySeparator: string;
  readonly sortKeys: boolean;
}

export function toJson(
  value: Value,
  ascii: Value,
  indent: Value,
  separators: Value,
  sortKeys: Value,
): string {
  const one = indent === null ? undefined : indentOf(indent);
  let [item, key] = [one === undefined ? ", " : ",", ": "];
  if (separators !== null) {
    const pair = [...iterate(separators)].map((part) => textOf(part));
    if (pair.length !== 2 || pair[0] === undefined || pair[1] === undefined) {
      return fail("separators must be a pair of texts, for items and for keys");
    }
    [item, key] = [pair[0], pair[1]];
  }
  const style: Style = {
    ascii: truthy(ascii),
    indent: one,
    itemSeparator: item,
    keySeparator: key,
    sortKeys: truthy(sortKeys),
  };
  return dump(value, style, 0);
}

function indentOf(indent: Value): string {
  const text = textOf(indent);
  if (text !== undefined) return text;
  const count = intOf(indent);
  return count === undefined
    ? fail(`indent must be an int or a str, not ${typeName(indent)}`)
    : repeatText(" ", Number(count));
}

function dump(value: Value, style: Style, depth: number): string {
  const text = textOf(value);
  if (text !== undefined) return jsonString(text, style.ascii);
  const scalar = scalarText(value);
  if (scalar !== undefined) return scalar;
  if (depth > MAX_NESTING) tooDeep();
  const items = itemsOf(value);
  if (items !== undefined) {
    return enclosed(
      "[",
      "]",
      items.map((item) => dump(item, style, depth + 1)),
      style,
      depth,
    );
  }
  if (!(value instanceof Dict)) return fail(`Object of type ${typeName(value)} is not JSON serializable`);
  let entries = [...value.entries()];
  if (style.sortKeys) {
    const pairs = sorted(
      entries.map(([key, item]) => new Tuple([key, item])),
      (pair) => (pair as Tuple).items[0] as Value,
      false,
    );
    entries = pairs.map((pair) => (pair as Tuple).items as unknown as [Value, Value]);
  }
  const parts = entries.map(
    ([key, item]) =>
      jsonString(keyText(key), style.ascii) + style.keySeparator + dump(item, style, depth + 1),
  );
  return enclosed("{", "}", parts, style, depth);
}

function enclosed(open: string, close: string, parts: string[], style: Style, depth: number): string {
  if (parts.length === 0) return open + close;
  let separator = style.itemSeparator;
  let [before, after] = ["", ""];
  if (style.indent !== undefined) {
    const inner = `\n${repeatText(style.indent, depth + 1)}`;
    separator += inner;
    before = inner;
    after = `\n${repeatText(style.indent, depth)}`;
  }
  let size = before.length + after.length + 2;
  for (const part of parts) size += part.length + separator.length;
  spend(size);
  return open + before + parts.join(separator) + after + close;
}

function scalarText(value: Value): string | undefined {
  if (value === null) return "null";
  switch (typeof value) {
    case "boolean":
      return value ? "true" : "false";
    case "number":
      return String(value);
    case "bigint":
      return bigintText(value);
  }
  if (!(value instanceof Float)) return undefined;
  if (Number.isNaN(value.value)) return "NaN";
  if (!Number.isFinite(value.value)) return value.value > 0 ? "Infinity" : "-Infinity";
  return floatText(value.value);
}

function keyText(key: Value): string {
  return (
    textOf(key) ?? scalarText(key) ?? fail(`keys must be str, int, float, bool or None, not ${typeName(key)}`)
  );
}

const SHORT: Record<string, string> = {
  '"': '\\"',
  "\\": "\\\\",
  "\n": "\\n",
  "\r": "\\r",
  "\t": "\\t",
  "\b": "\\b",
  "\f": "\\f",
};

function jsonString(text: string, ascii: boolean): string {
  spend(text.length + 2);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what JSON escapes
  const escaped = text.replace(ascii ? /["\\\0-\x1f]|[^\x20-\x7e]/g : /["\\\0-\x1f]/g, (c) => {
    const short = SHORT[c];
    return short ?? `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });
  spend(escaped.length - text.length);
  return `"${escaped}"`;
}
