// What changes a text before it is split: one function for each normalizer of tokenizer.json, by its name there.

import type { Fields } from "../fields.ts";
import { checkGrowth } from "../limits.ts";
import { toByteCharacters } from "./byte-level.ts";
import { CharacterMap } from "./charsmap.ts";
import { controls, marks, nonspacingMarks } from "./older-unicode.ts";
import { type CompileRegex, readPattern } from "./pattern.ts";
import { replaced } from "./splitting.ts";

export type Normalize = (text: string) => string;

export interface Normalizer {
  readonly normalize: Normalize;
  /** How many times fewer bytes the normalized text can have; undefined where it can shrink to nothing. */
  readonly shrinks: number | undefined;
}

const KEEPS: Pick<Normalizer, "shrinks"> = { shrinks: 1 };
const FORGETS: Pick<Normalizer, "shrinks"> = { shrinks: undefined };
/** Three letters of three bytes can compose to one of three, and the lower case of a letter can be a byte shorter or three. */
const COMPOSES: Pick<Normalizer, "shrinks"> = { shrinks: 4 };

const KINDS: Readonly<Record<string, (fields: Fields, compile: CompileRegex) => Normalizer>> = {
  BertNormalizer: (fields) => ({ normalize: bert(fields), ...FORGETS }),
  Strip: (fields) => ({ normalize: strip(fields), ...FORGETS }),
  StripAccents: () => ({ normalize: (text) => text.replace(marks(), ""), ...FORGETS }),
  NFC: () => ({ normalize: (text) => text.normalize("NFC"), ...COMPOSES }),
  NFD: () => ({ normalize: (text) => text.normalize("NFD"), ...COMPOSES }),
  NFKC: () => ({ normalize: (text) => text.normalize("NFKC"), ...FORGETS }),
  NFKD: () => ({ normalize: (text) => text.normalize("NFKD"), ...FORGETS }),
  Lowercase: () => ({ normalize: lowercase, ...COMPOSES }),
  Nmt: () => ({ normalize: nmt, ...FORGETS }),
  Precompiled: (fields) => {
    const map = new CharacterMap(fields);
    return { normalize: (text) => map.normalize(text), ...FORGETS };
  },
  Replace: (fields, compile) => {
    const pattern = readPattern(fields, "pattern", compile);
    const content = fields.text("content");
    const needle = fields.object("pattern").raw("String");
    const grows = typeof needle === "string" && Buffer.byteLength(content) >= Buffer.byteLength(needle);
    return { normalize: (text) => replaced(text, pattern, content), ...(grows ? KEEPS : FORGETS) };
  },
  Prepend: (fields) => {
    const prefix = fields.text("prepend");
    return { normalize: (text) => (text === "" ? text : prepended(prefix, text)), ...KEEPS };
  },
  ByteLevel: () => ({ normalize: toByteCharacters, ...KEEPS }),
  Sequence: (fields, compile) =>
    sequence(fields.objects("normalizers").map((part) => readNormalizer(part, compile))),
};

export function readNormalizer(fields: Fields, compile: CompileRegex): Normalizer {
  const kind = fields.text("type");
  const make = Object.hasOwn(KINDS, kind) ? KINDS[kind] : undefined;
  if (make === undefined)
    return fields.fail("type", `one of the normalizers ${Object.keys(KINDS).join(", ")}`);
  return make(fields, compile);
}

function sequence(parts: readonly Normalizer[]): Normalizer {
  const shrinks = parts.reduce<number | undefined>(
    (product, part) =>
      product === undefined || part.shrinks === undefined ? undefined : product * part.shrinks,
    1,
  );
  const normalize = (text: string) => {
    const { length } = text;
    for (const part of parts) {
      text = part.normalize(text);
      checkGrowth(text.length, length);
    }
    return text;
  };
  return { normalize, shrinks };
}

function prepended(prefix: string, text: string): string {
  checkGrowth(prefix.length + text.length, text.length);
  return prefix + text;
}

function strip(fields: Fields): Normalize {
  const left = fields.flag("strip_left", true);
  const right = fields.flag("strip_right", true);
  return (text) => {
    let start = 0;
    let end = text.length;
    if (left) while (start < end && isWhiteSpace(text.charCodeAt(start))) start++;
    if (right) while (end > start && isWhiteSpace(text.charCodeAt(end - 1))) end--;
    return text.slice(start, end);
  };
}

/** Unicode's White_Space, which all lies in the Basic Multilingual Plane. */
export function isWhiteSpace(code: number): boolean {
  return (
    (code >= 9 && code <= 13) ||
    code === 0x20 ||
    code === 0x85 ||
    code === 0xa0 ||
    code === 0x1680 ||
    (code >= 0x2000 && code <= 0x200a) ||
    code === 0x2028 ||
    code === 0x2029 ||
    code === 0x202f ||
    code === 0x205f ||
    code === 0x3000
  );
}

/** Character by character, as Rust does it: a sigma at the end of a word has no form of its own. */
function lowercase(text: string): string {
  return text.includes("Σ") ? text.replaceAll("Σ", "σ").toLowerCase() : text.toLowerCase();
}

const CHINESE =
  /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;

function bert(fields: Fields): Normalize {
  const cleans = fields.flag("clean_text", true);
  const spacesChinese = fields.flag("handle_chinese_chars", true);
  const lowers = fields.flag("lowercase", true);
  const stripsAccents = fields.flag("strip_accents", lowers);
  return (text) => {
    if (cleans) text = text.replace(controls(), "").replace(/[\t\n\r\p{White_Space}]/gu, " ");
    if (spacesChinese) text = text.replace(CHINESE, " $& ");
    if (stripsAccents) text = text.normalize("NFD").replace(nonspacingMarks(), "");
    return lowers ? lowercase(text) : text;
  };
}

/** Control characters that Nmt takes out: all of ASCII's but tab, line feed, form feed and carriage return, and two more. */
function isTakenOut(code: number): boolean {
  const isControl = code <= 0x1f || code === 0x7f || code === 0x8f || code === 0x9f;
  return isControl && ![0, 0x09, 0x0a, 0x0c, 0x0d].includes(code);
}

function nmt(text: string): string {
  return text
    .replace(/\p{Cc}/gu, (character) => (isTakenOut(character.charCodeAt(0)) ? "" : character))
    .replace(/[\t\n\f\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]/g, " ");
}
