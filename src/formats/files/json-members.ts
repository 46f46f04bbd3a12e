// Splits the text of one JSON object into its members without building their values.
// JSON.parse keeps the last of two equal keys without a word and builds whatever a hostile file asks for; this does neither.
// It only delimits values: each one must still go through JSON.parse, which judges what is inside.

/** One member of an object: its key, and the JSON text of its value. */
export interface JsonMember {
  readonly key: string;
  readonly text: string;
}

/** Makes the error to throw. `problem` says what the object does wrong ("has "a" twice"); `key` is the repeated key. */
export type JsonFailure = (problem: string, key?: string) => Error;

/**
 * The members of the JSON object that `text` holds, in order.
 * Throws what `fail` makes when the text is not one object, or when a key (after unescaping) appears twice.
 * Costs no memory beyond the text and the set of keys, however deep or wide the values are.
 */
export function* jsonMembers(text: string, fail: JsonFailure): Generator<JsonMember, void, undefined> {
  const seen = new Set<string>();
  const expect = (position: number, what: string): Error =>
    position < text.length
      ? fail(`has ${JSON.stringify(text[position])} at character ${position} where ${what} was expected`)
      : fail(`ends at character ${text.length} where ${what} was expected`);

  let at = afterSpace(text, 0);
  if (text[at] !== "{") throw expect(at, "an object");
  at = afterSpace(text, at + 1);
  while (text[at] !== "}" || seen.size > 0) {
    if (text[at] !== '"') throw expect(at, "a quoted key");
    const keyEnd = afterString(text, at);
    const key = parseKey(text.slice(at, keyEnd));
    if (key === undefined) throw fail(`has a key at character ${at} that is not a valid string`);
    if (seen.has(key)) throw fail(`has ${JSON.stringify(key)} twice`, key);
    seen.add(key);

    at = afterSpace(text, keyEnd);
    if (text[at] !== ":") throw expect(at, '":"');
    const start = afterSpace(text, at + 1);
    const end = afterValue(text, start);
    if (end === start) throw expect(start, "a value");
    yield { key, text: text.slice(start, end) };

    at = afterSpace(text, end);
    if (text[at] === "}") break;
    if (text[at] !== ",") throw expect(at, '"," or "}"');
    at = afterSpace(text, at + 1);
  }
  at = afterSpace(text, at + 1);
  if (at < text.length) throw expect(at, "the end");
}

function parseKey(quoted: string): string | undefined {
  try {
    const key: unknown = JSON.parse(quoted);
    return typeof key === "string" ? key : undefined;
  } catch {
    return undefined;
  }
}

function afterSpace(text: string, from: number): number {
  let at = from;
  for (;;) {
    const c = text.charCodeAt(at);
    if (c !== 0x20 && c !== 0x0a && c !== 0x0d && c !== 0x09) return at;
    at++;
  }
}

/** The position after the string that opens at `from`, or the end of the text if it never closes. */
function afterString(text: string, from: number): number {
  let quote = text.indexOf('"', from + 1);
  while (quote !== -1) {
    let backslashes = 0;
    while (text[quote - 1 - backslashes] === "\\") backslashes++;
    if (backslashes % 2 === 0) return quote + 1;
    quote = text.indexOf('"', quote + 1);
  }
  return text.length;
}

/** The position after the value that begins at `from`. Brackets are counted, not matched: JSON.parse does that. */
function afterValue(text: string, from: number): number {
  let at = from;
  let depth = 0;
  for (;;) {
    at = find(depth === 0 ? END_OR_BRACKET : BRACKET, text, at);
    const c = text[at];
    if (c === '"') at = afterString(text, at);
    else if (c === "{" || c === "[") {
      depth++;
      at++;
    } else if (c === "}" || c === "]") {
      if (depth === 0) return at; // closes what holds this value
      depth--;
      at++;
    } else return at; // the end of the text or, outside of brackets, of a number or a word
    if (depth === 0 && c !== "{" && c !== "[") return at;
  }
}

const BRACKET = /["{}[\]]/g;
const END_OR_BRACKET = /["{}[\], \n\r\t]/g;

/** The position of the first match from `from` on, or the end of the text. Unlike a loop it is fast the first time. */
function find(pattern: RegExp, text: string, from: number): number {
  pattern.lastIndex = from;
  return pattern.exec(text)?.index ?? text.length;
}
