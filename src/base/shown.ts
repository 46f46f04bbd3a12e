// Values of files and callers as text for a message, a log or a terminal: nothing that moves a cursor, retitles a window or
// reverses the reading order, nothing without end. What generated text may hold is decided where it is printed, not here.

/**
 * Control characters other than tab and line feed, line and paragraph separators, marks that change the direction of
 * what follows (Unicode TR 9), and halves of surrogate pairs.
 */
const UNPRINTABLE =
  /[\p{Cc}\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/gu;

/** Messages longer than this are cut: nobody reads on, and logs are not to be filled by a file. */
export const MESSAGE_LIMIT = 8192;

/** Deeper values are shown as "…": a message is not a dump, and a deep value must not overflow the stack. */
const SHOWN_DEPTH = 4;

/** Members of a list or an object that are looked at; the rest is "…". */
const SHOWN_MEMBERS = 20;

/**
 * Text without characters that a terminal obeys: they become "\u001b", tabs and line ends stay.
 * Longer text than `limit` characters is cut and says by how much.
 */
export function printable(text: string, limit: number = MESSAGE_LIMIT): string {
  const kept = text.length > limit ? cutAt(text, limit) : text;
  const safe = kept.replace(UNPRINTABLE, (c) => (c === "\n" || c === "\t" ? c : escaped(c)));
  return kept.length < text.length ? `${safe}… (${text.length - kept.length} more characters)` : safe;
}

/**
 * Any value for a message: JSON's spelling where there is one, `limit` characters at most, on one line.
 * Never throws, never runs a getter or toJSON of the value.
 */
export function shown(value: unknown, limit = 80): string {
  const text = describe(value, 0, limit).replace(/[\n\t]/g, (c) => (c === "\n" ? "\\n" : "\\t"));
  return text.length > limit ? `${cutAt(text, limit)}…` : text;
}

function describe(value: unknown, depth: number, limit: number): string {
  switch (typeof value) {
    case "string":
      return `"${printable(value.slice(0, limit + 1), limit + 1).replace(/"/g, '\\"')}"`;
    case "bigint":
      return `${value}n`;
    case "function":
      return "a function";
    case "symbol":
      return printable(String(value), limit);
    case "object":
      return value === null ? "null" : describeObject(value, depth, limit);
    default:
      return String(value);
  }
}

function describeObject(value: object, depth: number, limit: number): string {
  const list = Array.isArray(value);
  if (depth >= SHOWN_DEPTH) return list ? "[…]" : "{…}";
  try {
    if (list) return describeList(value, depth, limit);
    if (!isPlain(value)) return `a value of ${printable(nameOf(value), limit)}`;
    const parts: string[] = [];
    let room = limit;
    let more = false;
    for (const key in value) {
      if (parts.length === SHOWN_MEMBERS || room < 0) {
        more = true;
        break;
      }
      const property = Object.getOwnPropertyDescriptor(value, key);
      if (property === undefined) continue;
      const text = "value" in property ? describe(property.value, depth + 1, limit) : "…";
      const part = `${describe(key, 0, limit)}: ${text}`;
      room -= part.length;
      parts.push(part);
    }
    if (more) parts.push("…");
    return `{${parts.join(", ")}}`;
  } catch {
    return list ? "a list" : "an object"; // a proxy that throws
  }
}

/** By index: listing the keys of a million elements takes seconds. */
function describeList(list: readonly unknown[], depth: number, limit: number): string {
  const parts: string[] = [];
  let room = limit;
  while (parts.length < Math.min(list.length, SHOWN_MEMBERS) && room >= 0) {
    const element = Object.getOwnPropertyDescriptor(list, parts.length);
    const text =
      element === undefined || "value" in element ? describe(element?.value, depth + 1, limit) : "…";
    room -= text.length;
    parts.push(text);
  }
  return `[${parts.join(", ")}${parts.length < list.length ? ", …" : ""}]`;
}

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || prototype === Object.prototype;
}

function nameOf(value: object): string {
  const made = own(Object.getPrototypeOf(value) as object, "constructor");
  const name = typeof made === "function" ? own(made, "name") : undefined;
  return typeof name === "string" && name !== "" ? name : "an unnamed class";
}

function own(holder: object, key: string): unknown {
  return Object.getOwnPropertyDescriptor(holder, key)?.value;
}

/** The first `limit` characters, without half of a pair at the end. */
function cutAt(text: string, limit: number): string {
  const cut = text.slice(0, limit);
  return /[\ud800-\udbff]$/.test(cut) ? cut.slice(0, -1) : cut;
}

/** A character as "\u202e". */
function escaped(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}
