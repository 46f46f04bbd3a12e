// The text algorithms behind filters: wrapping, indenting, titles, tags, links and quoting, as jinja2 has them.
import { spend } from "../../budget.ts";
import { fail } from "../../errors.ts";
import { length, SPACES, splitLines, splitSpace, strip, substring } from "../../values/unicode.ts";
import { unescapeHtml } from "./html.ts";

/** markupsafe's striptags: comments, then tags, then white space, then character references. */
export function stripTags(text: string): string {
  spend(2 * text.length);
  const bare = cutBetween(cutBetween(text, "<!--", "-->"), "<", ">");
  return unescapeHtml(splitSpace(bare, -1, false).join(" "));
}

/** Without what stands between the marks. As in Python, what a cut brings together is looked at again. */
function cutBetween(source: string, open: string, close: string): string {
  let text = source;
  let from = 0;
  for (;;) {
    const start = text.indexOf(open, from);
    if (start < 0) return text;
    const end = text.indexOf(close, start);
    if (end < 0) return text;
    spend(text.length >>> 3);
    text = text.slice(0, start) + text.slice(end + close.length);
    from = Math.max(0, start - open.length);
  }
}

export interface WrapOptions {
  readonly width: number;
  readonly breakLongWords: boolean;
  readonly breakOnHyphens: boolean;
}

const W = "[\\p{L}\\p{N}_]";
const LETTER = "[\\p{L}\\p{Nl}\\p{No}_]";
const PUNCTUATED = "[\\p{L}\\p{N}_!\"'&.,?]";
const BLANK = "[\\t\\n\\v\\f\\r ]";
const HYPHENATED = new RegExp(
  `(${BLANK}+|(?<=${PUNCTUATED})-{2,}(?=${W})|[^\\t\\n\\v\\f\\r ]+?(?:` +
    `-(?:(?<=${LETTER}{2}-)|(?<=${LETTER}-${PUNCTUATED}-))(?=${LETTER}-?${LETTER})|` +
    `(?=${BLANK}|$)|(?<=${PUNCTUATED})(?=-{2,}${W})))`,
  "u",
);
const WORDS = new RegExp(`(${BLANK}+)`);

/** textwrap.wrap of Python, with white space kept as it is within lines and dropped at their ends. */
export function wrapLine(line: string, { width, breakLongWords, breakOnHyphens }: WrapOptions): string[] {
  if (!(width > 0)) fail(`invalid width ${width} (must be > 0)`);
  spend(96 * line.length);
  const chunks = line
    .split(breakOnHyphens ? HYPHENATED : WORDS)
    .filter((chunk) => chunk !== "" && chunk !== undefined);
  chunks.reverse();
  const lines: string[] = [];
  const blank = (chunk: string | undefined): boolean =>
    chunk !== undefined && strip(chunk, undefined, "both") === "";
  while (chunks.length > 0) {
    const current: string[] = [];
    let size = 0;
    if (lines.length > 0 && blank(chunks.at(-1))) chunks.pop();
    while (chunks.length > 0) {
      const next = length(chunks.at(-1) as string);
      if (size + next > width) break;
      current.push(chunks.pop() as string);
      size += next;
    }
    const long = chunks.at(-1);
    if (long !== undefined && length(long) > width) {
      if (breakLongWords) {
        const end = breakAt(long, width - size, breakOnHyphens);
        spend(end);
        current.push(substring(long, 0, end));
        chunks[chunks.length - 1] = substring(long, end, Number.MAX_SAFE_INTEGER);
        if (chunks.at(-1) === "") chunks.pop();
      } else if (current.length === 0) current.push(chunks.pop() as string);
    }
    if (blank(current.at(-1))) current.pop();
    if (current.length > 0) lines.push(current.join(""));
    spend(32);
  }
  return lines;
}

/** Where a word longer than the line is cut: after its last hyphen, or where the line ends. */
function breakAt(word: string, room: number, onHyphens: boolean): number {
  if (!onHyphens) return room;
  const start = substring(word, 0, room);
  const hyphen = start.lastIndexOf("-");
  return hyphen > 0 && /[^-]/.test(start.slice(0, hyphen)) ? length(start.slice(0, hyphen)) + 1 : room;
}

export function indentText(text: string, indention: string, first: boolean, blank: boolean): string {
  const lines = splitLines(`${text}\n`);
  spend(lines.length * (indention.length + 1) + text.length);
  const rest = lines.slice(1).map((line) => (blank || line !== "" ? indention + line : line));
  const indented = [lines[0] ?? "", ...rest].join("\n");
  return first ? indention + indented : indented;
}

/** The title filter, which is not str.title(): words also begin after brackets and hyphens, but not after apostrophes. */
export function titleFilter(text: string): string {
  spend(16 * text.length);
  return text
    .split(new RegExp(`([-${SPACES}({[<]+)`))
    .map((part) => {
      if (part === "") return "";
      const first = String.fromCodePoint(part.codePointAt(0) as number);
      return first.toUpperCase() + part.slice(first.length).toLowerCase();
    })
    .join("");
}

export function wordCount(text: string): number {
  spend(2 * text.length);
  return text.match(/[\p{L}\p{N}_]+/gu)?.length ?? 0;
}

export function fileSize(bytes: number, binary: boolean): string {
  if (Number.isNaN(bytes) || !Number.isFinite(bytes)) {
    if (bytes < 0) fail("cannot convert float infinity to integer");
    return `${Number.isNaN(bytes) ? "nan" : "inf"} ${binary ? "YiB" : "YB"}`;
  }
  const base = binary ? 1024 : 1000;
  if (bytes === 1) return "1 Byte";
  if (bytes < base) return `${Math.trunc(bytes)} Bytes`;
  const prefixes = [..."KMGTPEZY"];
  let unit = base;
  for (const [i, prefix] of prefixes.entries()) {
    unit = base ** (i + 2);
    if (bytes < unit || i === prefixes.length - 1) {
      const letter = prefix === "K" && !binary ? "k" : prefix;
      return `${oneDecimal((base * bytes) / unit)} ${letter}${binary ? "i" : ""}B`;
    }
  }
  return "";
}

function oneDecimal(value: number): string {
  return value.toFixed(1);
}

/** urllib.parse.quote: everything but letters, digits, "_.-~" and, outside queries, "/". */
export function urlQuote(text: string, forQuery: boolean): string {
  spend(12 * text.length);
  const quoted = percentEncoded(text).replace(
    /[!'()*]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return forQuery ? quoted.replaceAll("%20", "+") : quoted.replaceAll("%2F", "/");
}

function percentEncoded(text: string): string {
  try {
    return encodeURIComponent(text);
  } catch {
    return fail("'utf-8' codec can't encode characters: surrogates not allowed");
  }
}
