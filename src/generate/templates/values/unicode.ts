// Text as Python sees it: strings are sequences of code points, and Python has its own idea of white space, line ends,
// digits and title case.
import { spend } from "../budget.ts";

/** The characters of str.isspace(): not U+FEFF, but U+0085 and U+001C to U+001F. */
export const SPACES = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const SPACE = new RegExp(`^[${SPACES}]$`);
export const isSpace = (character: string): boolean => SPACE.test(character);

const SURROGATE = /[\ud800-\udfff]/;

/** Whether code points and UTF-16 units of a text are not the same thing. */
export function isWide(text: string): boolean {
  if (text.length < 64) {
    for (let i = 0; i < text.length; i++) if ((text.charCodeAt(i) & 0xf800) === 0xd800) return true;
    return false;
  }
  spend(text.length >>> 4);
  return SURROGATE.test(text);
}

/** len() of a str. */
export function length(text: string): number {
  return isWide(text) ? offsets(text, Number.POSITIVE_INFINITY).points : text.length;
}

/** Walks at most `limit` code points: how many there were, and the UTF-16 offset after them. */
function offsets(text: string, limit: number): { points: number; units: number } {
  let points = 0;
  let units = 0;
  while (units < text.length && points < limit) {
    units += (text.codePointAt(units) as number) > 0xffff ? 2 : 1;
    points++;
  }
  spend(2 * points);
  return { points, units };
}

/** text[start:stop] for 0 <= start <= stop, in code points. */
export function substring(text: string, start: number, stop: number): string {
  if (!isWide(text)) return text.slice(start, stop);
  const from = offsets(text, start).units;
  const rest = text.slice(from);
  return rest.slice(0, offsets(rest, stop - start).units);
}

/** The code point index of a UTF-16 offset. */
export function pointIndex(text: string, offset: number): number {
  return offset <= 0 ? offset : length(text.slice(0, offset));
}

/** The UTF-16 offset of a code point index. */
export function unitIndex(text: string, index: number): number {
  return isWide(text) ? offsets(text, index).units : Math.min(index, text.length);
}

/** The code points of a text as strings. */
export function characters(text: string): string[] {
  spend(16 * text.length);
  return Array.from(text);
}

/** -1, 0 or 1 by code points, as Python orders strings. */
export function compareText(a: string, b: string): number {
  spend(Math.min(a.length, b.length) >>> 3);
  if (a === b) return 0;
  if (!isWide(a) && !isWide(b)) return a < b ? -1 : 1;
  const end = Math.min(a.length, b.length);
  let i = 0;
  while (i < end && a.charCodeAt(i) === b.charCodeAt(i)) i++;
  if (i === end) return a.length < b.length ? -1 : 1;
  // In the middle of a pair the pair decides.
  if (i > 0 && (a.charCodeAt(i) & 0xfc00) === 0xdc00 && (a.charCodeAt(i - 1) & 0xfc00) === 0xd800) i--;
  return (a.codePointAt(i) as number) < (b.codePointAt(i) as number) ? -1 : 1;
}

/** str.strip(), of white space or of the characters given, at either end. */
export function strip(text: string, chars: string | undefined, ends: "both" | "left" | "right"): string {
  spend(text.length >>> 4);
  let drop: (character: string) => boolean = isSpace;
  if (chars !== undefined) {
    const set = new Set(characters(chars));
    drop = (character) => set.has(character);
  }
  let from = 0;
  let to = text.length;
  if (ends !== "right") {
    while (from < to) {
      const character = String.fromCodePoint(text.codePointAt(from) as number);
      if (!drop(character)) break;
      from += character.length;
    }
  }
  if (ends !== "left") {
    while (to > from) {
      const low = (text.charCodeAt(to - 1) & 0xfc00) === 0xdc00;
      const wide = low && to - 2 >= from && (text.charCodeAt(to - 2) & 0xfc00) === 0xd800;
      if (!drop(text.slice(to - (wide ? 2 : 1), to))) break;
      to -= wide ? 2 : 1;
    }
  }
  return text.slice(from, to);
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: Python ends lines at them
const LINE_END = /\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/g;

/** str.splitlines() */
export function splitLines(text: string, keepEnds = false): string[] {
  spend(text.length);
  const lines: string[] = [];
  let from = 0;
  for (const match of text.matchAll(LINE_END)) {
    const end = match.index + match[0].length;
    lines.push(text.slice(from, keepEnds ? end : match.index));
    from = end;
    spend(32);
  }
  if (from < text.length) lines.push(text.slice(from));
  return lines;
}

const WORD = new RegExp(`[^${SPACES}]+`, "g");

/** str.split() and str.rsplit() without a separator. The part that is not split keeps the white space at its outer end. */
export function splitSpace(text: string, limit: number, fromRight: boolean): string[] {
  spend(text.length);
  const words: RegExpExecArray[] = [];
  for (const match of text.matchAll(WORD)) {
    spend(64);
    words.push(match);
  }
  const all = words.map((match) => match[0]);
  if (limit < 0 || limit >= words.length) return all;
  if (!fromRight) return [...all.slice(0, limit), text.slice(words[limit]?.index)];
  const last = words[words.length - 1 - limit] as RegExpExecArray;
  return [text.slice(0, last.index + last[0].length), ...all.slice(words.length - limit)];
}

/** Numeric_Type Digit beyond \p{Nd}: superscripts, circled digits and the like. */
const DIGIT =
  /^[\xb2\xb3\xb9\u1369-\u1371\u19da\u2070\u2074-\u2079\u2080-\u2089\u2460-\u2468\u2474-\u247c\u2488-\u2490\u24ea\u24f5-\u24fd\u24ff\u2776-\u277e\u2780-\u2788\u278a-\u2792\u{10a40}-\u{10a43}\u{10e60}-\u{10e68}\u{11052}-\u{1105a}\u{1f100}-\u{1f10a}\p{Nd}]$/u;
/** Ideographs that are numbers. */
const NUMERAL =
  /^[\p{N}\u3405\u3483\u382a\u3b4d一七万三九二五亖亿什仟仨伍佰億兆兩八六十千-卅卌叁-叄四壱壹幺廾-廿弌-弎弐拾捌柒漆玖百肆萬貮貳贰阡陆陌陸零\uf96b\uf973\uf978\uf9b2\uf9d1\uf9d3\uf9fd\u{20001}\u{20064}\u{200e2}\u{20121}\u{2092a}\u{20983}\u{2098c}\u{2099c}\u{20aea}\u{20afd}\u{20b19}\u{22390}\u{22998}\u{23b1b}\u{2626d}\u{2f890}]$/u;

export const isAlpha = (c: string): boolean => /^\p{L}$/u.test(c);
export const isDecimal = (c: string): boolean => /^\p{Nd}$/u.test(c);
export const isDigit = (c: string): boolean => DIGIT.test(c);
export const isNumeric = (c: string): boolean => NUMERAL.test(c);
export const isAlnum = (c: string): boolean => isAlpha(c) || isNumeric(c);
export const isLower = (c: string): boolean => /^\p{Lowercase}$/u.test(c);
export const isUpper = (c: string): boolean => /^\p{Uppercase}$/u.test(c);
export const isTitle = (c: string): boolean => /^\p{Lt}$/u.test(c);
/** Not escaped by repr(). */
export const isPrintable = (c: string): boolean => c === " " || !/^[\p{C}\p{Z}]$/u.test(c);

const DIGRAPHS: Record<string, string> = {
  Ǆ: "ǅ",
  ǅ: "ǅ",
  ǆ: "ǅ",
  Ǉ: "ǈ",
  ǈ: "ǈ",
  ǉ: "ǈ",
  Ǌ: "ǋ",
  ǋ: "ǋ",
  ǌ: "ǋ",
  Ǳ: "ǲ",
  ǲ: "ǲ",
  ǳ: "ǲ",
};

/** The title case of one character, which is not always its upper case. */
function titleCharacter(c: string): string {
  const code = c.codePointAt(0) as number;
  const digraph = DIGRAPHS[c];
  if (digraph !== undefined) return digraph;
  if ((code >= 0x10d0 && code <= 0x10fa) || (code >= 0x10fd && code <= 0x10ff)) return c;
  if (code === 0x149) return "\u02bcN";
  // Greek with a iota below: it stays below.
  if (code >= 0x1f80 && code <= 0x1faf) return String.fromCodePoint(code | 8);
  if (/^[\u1fb3\u1fbc\u1fc3\u1fcc\u1ff3\u1ffc]$/.test(c)) return String.fromCodePoint((code & ~0xf) | 0xc);
  if (/^[\u1fb7\u1fc7\u1ff7]$/.test(c)) return `${String.fromCodePoint((code & ~0xf) | 0xc)}\u0342`;
  if (/^[\u1fb2\u1fb4\u1fc2\u1fc4\u1ff2\u1ff4]$/.test(c)) return `${c.toUpperCase().slice(0, -1)}\u0345`;
  const [first = "", ...rest] = Array.from(c.toUpperCase());
  return first + rest.join("").toLowerCase();
}

/** str.title() */
export function title(text: string): string {
  let inWord = false;
  let out = "";
  // Lower case depends on the whole text for the Greek sigma.
  const whole = text.toLowerCase();
  const same = whole.length === text.length;
  let at = 0;
  for (const c of characters(text)) {
    const lower = same ? whole.slice(at, at + c.length) : c.toLowerCase();
    out += inWord ? lower : titleCharacter(c);
    inWord = isLower(c) || isUpper(c) || isTitle(c);
    at += c.length;
  }
  return out;
}

/** str.capitalize() */
export function capitalize(text: string): string {
  spend(text.length);
  if (text === "") return "";
  const first = String.fromCodePoint(text.codePointAt(0) as number);
  return (
    titleCharacter(first) +
    `${first}${text.slice(first.length)}`.toLowerCase().slice(first.toLowerCase().length)
  );
}

/** str.casefold() */
export function casefold(text: string): string {
  return characters(text)
    .map((c) => {
      if (c === "\u0131") return c;
      if (c === "\u1e9e") return "ss";
      if (/^[\u13a0-\u13fd\uab70-\uabbf]$/.test(c)) return c.toUpperCase();
      return c.toUpperCase().toLowerCase();
    })
    .join("");
}
