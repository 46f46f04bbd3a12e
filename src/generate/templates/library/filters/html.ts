// Character references of HTML: the numeric ones, and the names in common use.
import { spend } from "../../budget.ts";
import { fail } from "../../errors.ts";

const NAMED: Record<string, string> = {
  amp: "&",
  AMP: "&",
  lt: "<",
  LT: "<",
  gt: ">",
  GT: ">",
  quot: '"',
  QUOT: '"',
  apos: "'",
  nbsp: "\xa0",
  copy: "\xa9",
  reg: "\xae",
  raquo: "\xbb",
  laquo: "\xab",
  middot: "\xb7",
  hellip: "\u2026",
  mdash: "\u2014",
  ndash: "\u2013",
  lsquo: "\u2018",
  rsquo: "\u2019",
  ldquo: "\u201c",
  rdquo: "\u201d",
  bull: "\u2022",
  euro: "\u20ac",
  trade: "\u2122",
};
/** Those that count without a semicolon too. */
const BARE = /^(?:amp|AMP|lt|LT|gt|GT|quot|QUOT|nbsp|copy|reg|raquo|laquo|middot)/;

/** html.unescape of Python; a name that is not known here is refused rather than left. */
export function unescapeHtml(text: string): string {
  spend(text.length);
  if (!text.includes("&")) return text;
  return text.replace(
    /&(?:#(\d+);?|#[xX]([\da-fA-F]+);?|([a-zA-Z][\da-zA-Z]*)(;?))/g,
    (whole, decimal?: string, hex?: string, name?: string, end?: string) => {
      if (decimal !== undefined) return character(Number(decimal));
      if (hex !== undefined) return character(Number.parseInt(hex, 16));
      const known = NAMED[name ?? ""];
      if (end === ";" && known !== undefined) return known;
      const bare = BARE.exec(name ?? "")?.[0];
      if (bare !== undefined) return NAMED[bare] + whole.slice(bare.length + 1);
      if (end === ";") fail(`the character reference ${whole.slice(0, 40)} is not supported in templates`);
      return whole;
    },
  );
}

/** What browsers make of 0x80 to 0x9f. */
const WINDOWS_1252 =
  "\u20ac\x81\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\x8d\u017d\x8f" +
  "\x90\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\x9d\u017e\u0178";

function character(code: number): string {
  if (code === 0 || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return "\ufffd";
  if (code >= 0x80 && code <= 0x9f) return WINDOWS_1252.charAt(code - 0x80);
  const control = code < 0x20 ? ![9, 10, 12, 13].includes(code) : code === 0x7f;
  const none = (code & 0xfffe) === 0xfffe || (code >= 0xfdd0 && code <= 0xfdef);
  return control || none || code === 0xb ? "" : String.fromCodePoint(code);
}
