// str.format and str.format_map, as jinja2's sandbox runs them: attributes are looked up by the template's own rules.
import { spend } from "../../budget.ts";
import { fail } from "../../errors.ts";
import { escapeMarkup } from "../../values/markup.ts";
import { ascii, repr, str } from "../../values/text.ts";
import { Dict, type Kwargs, Markup, typeName, type Value } from "../../values/types.ts";
import { formatValue } from "./format-spec.ts";

export interface Lookups {
  getAttr(value: Value, name: string): Value;
  getItem(value: Value, key: Value): Value;
}

interface Fields {
  readonly args: readonly Value[];
  readonly named: Kwargs | Dict;
  /** The next number of fields without one; undefined once fields are numbered by hand. */
  next: number | "manual";
}

/** @throws TemplateError as Python's format does */
export function formatBraces(
  text: string,
  args: readonly Value[],
  named: Kwargs | Dict,
  lookups: Lookups,
  escaping: boolean,
): string {
  return format(text, { args, named, next: 0 }, lookups, escaping, 2);
}

function format(text: string, fields: Fields, lookups: Lookups, escaping: boolean, depth: number): string {
  if (depth < 0) fail("Max string recursion exceeded");
  spend(text.length);
  let out = "";
  let at = 0;
  while (at < text.length) {
    const brace = text.slice(at).search(/[{}]/);
    if (brace < 0) return out + text.slice(at);
    out += text.slice(at, at + brace);
    at += brace;
    const doubled = text.charAt(at + 1) === text.charAt(at);
    if (doubled) {
      out += text.charAt(at);
      at += 2;
      continue;
    }
    if (text.charAt(at) === "}") fail("Single '}' encountered in format string");
    const end = fieldEnd(text, at + 1);
    const part = field(text.slice(at + 1, end), fields, lookups, escaping, depth);
    spend(part.length + (text.length - end));
    out += part;
    at = end + 1;
  }
  return out;
}

/** The "}" that ends a field; fields nest, and brackets in a field's name hide braces. */
function fieldEnd(text: string, start: number): number {
  let depth = 1;
  let inBrackets = false;
  for (let at = start; at < text.length; at++) {
    const c = text.charAt(at);
    if (c === "[" && depth === 1) inBrackets = true;
    else if (c === "]") inBrackets = false;
    else if (inBrackets) continue;
    else if (c === "{") depth++;
    else if (c === "}" && --depth === 0) return at;
  }
  return fail(
    start >= text.length ? "Single '{' encountered in format string" : "expected '}' before end of string",
  );
}

function field(source: string, fields: Fields, lookups: Lookups, escaping: boolean, depth: number): string {
  const match = /^((?:\[[^\]]*\]|[^!:[])*)(?:!(.?))?(?::(.*))?$/su.exec(source);
  if (match === null) return fail("expected ':' after conversion specifier");
  const [, path = "", conversion, rawSpec = ""] = match;
  const value = lookUp(path, fields, lookups);
  const spec =
    rawSpec.includes("{") || rawSpec.includes("}")
      ? format(rawSpec, fields, lookups, false, depth - 1)
      : rawSpec;
  let converted = value;
  if (conversion === "r") converted = repr(value);
  else if (conversion === "s") converted = str(value);
  else if (conversion === "a") converted = ascii(value);
  else if (conversion !== undefined) fail(`Unknown conversion specifier '${conversion}'`);
  if (!escaping) return formatValue(converted, spec);
  if (converted instanceof Markup) {
    if (spec !== "") fail("Unsupported format specification for Markup.");
    return converted.text;
  }
  return escapeMarkup(formatValue(converted, spec)).text;
}

function lookUp(path: string, fields: Fields, lookups: Lookups): Value {
  const first = /^[^.[]*/.exec(path)?.[0] ?? "";
  let value = firstValue(first, fields);
  let rest = path.slice(first.length);
  while (rest !== "") {
    const part = /^\.([^.[]*)|^\[([^\]]*)\]/.exec(rest);
    const name = part?.[1] ?? part?.[2];
    if (part === null || name === undefined)
      return fail("Only '.' or '[' may follow ']' in format field specifier");
    if (name === "") fail("Empty attribute in format string");
    value = part[1] !== undefined ? lookups.getAttr(value, name) : lookups.getItem(value, indexOr(name));
    rest = rest.slice(part[0].length);
  }
  return value;
}

const indexOr = (name: string): Value => (/^\d{1,15}$/.test(name) ? Number(name) : name);

function firstValue(name: string, fields: Fields): Value {
  let index: number | undefined;
  if (name === "") {
    if (fields.next === "manual")
      return fail("cannot switch from manual field specification to automatic field numbering");
    index = fields.next++;
  } else if (/^\d+$/.test(name)) {
    if (typeof fields.next === "number" && fields.next > 0) {
      fail("cannot switch from automatic field numbering to manual field specification");
    }
    fields.next = "manual";
    index = Number(name);
  }
  if (index !== undefined) {
    const value = fields.args[index];
    return value === undefined
      ? fail(`Replacement index ${index} out of range for positional args tuple`)
      : value;
  }
  const value = fields.named.get(name);
  return value === undefined ? fail(`'${name}'`) : value;
}

/** The mapping of format_map. */
export function mappingOf(args: readonly Value[], kwargs: Kwargs): Dict {
  if (kwargs.size > 0) fail("format_map() takes no keyword arguments");
  const [mapping] = args;
  if (args.length !== 1 || mapping === undefined) {
    return fail(`format_map() takes exactly one argument (${args.length} given)`);
  }
  return mapping instanceof Dict ? mapping : fail(`format_map() needs a dict, not ${typeName(mapping)}`);
}
