// What splits a normalized text into words: one function for each pre-tokenizer of tokenizer.json, by its name there.
import { lazy } from "../../../base/lazy.ts";
import type { Fields } from "../fields.ts";
import { checkWords } from "../limits.ts";
import { toByteCharacters } from "./byte-level.ts";
import { punctuation } from "./older-unicode.ts";
import { type CompileRegex, readPattern } from "./pattern.ts";
import { splitByScript } from "./scripts.ts";
import { BEHAVIORS, type Behavior, literal, type Pattern, regexPattern, splitText } from "./splitting.ts";

/** Words in order, none empty, and whether the first begins where the whole text begins. */
export interface Words {
  list: string[];
  atStart: boolean;
}

export type PreTokenize = (words: Words) => Words;

export interface PreTokenizer {
  readonly split: PreTokenize;
  /** Whether text is lost between the words. */
  readonly drops: boolean;
  /** Words are to be taken as their bytes' characters once all splitting is done. */
  readonly endsInBytes: boolean;
}

const gpt2 = lazy(
  () =>
    /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu,
);
const WORD = String.raw`\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d`;

const KINDS: Readonly<Record<string, (fields: Fields, compile: CompileRegex) => PreTokenizer>> = {
  BertPreTokenizer: () =>
    chain([
      splitter(regexPattern(/\p{White_Space}/gu), "Removed"),
      splitter(regexPattern(punctuation()), "Isolated"),
    ]),
  ByteLevel: byteLevel,
  CharDelimiterSplit: (fields) => splitter(literal(fields.character("delimiter")), "Removed"),
  Metaspace: metaspace,
  Whitespace: () =>
    splitter(regexPattern(new RegExp(`[${WORD}]+|[^${WORD}\\p{White_Space}]+`, "gu")), "Removed", true),
  WhitespaceSplit: () => splitter(regexPattern(/\p{White_Space}+/gu), "Removed"),
  Punctuation: (fields) =>
    splitter(regexPattern(punctuation()), fields.choice("behavior", BEHAVIORS, "Isolated")),
  Digits: (fields) =>
    fields.flag("individual_digits", false)
      ? splitter(regexPattern(/\p{N}/gu), "Isolated")
      : splitter(regexPattern(/\p{N}+/gu), "Isolated"),
  Split: (fields, compile) =>
    splitter(
      readPattern(fields, "pattern", compile),
      fields.choice("behavior", BEHAVIORS),
      fields.flag("invert", false),
    ),
  UnicodeScripts: () => each((text, words) => splitByScript(text, words)),
  FixedLength: fixedLength,
  Sequence: (fields, compile) =>
    chain(fields.objects("pretokenizers").map((part) => readPreTokenizer(part, compile))),
};

export function readPreTokenizer(fields: Fields, compile: CompileRegex): PreTokenizer {
  const kind = fields.text("type");
  const make = Object.hasOwn(KINDS, kind) ? KINDS[kind] : undefined;
  if (make === undefined)
    return fields.fail("type", `one of the pre-tokenizers ${Object.keys(KINDS).join(", ")}`);
  return make(fields, compile);
}

/** Words as the characters of their bytes, for what can only take them so. */
export function inByteCharacters(words: Words): Words {
  return { list: words.list.map(toByteCharacters), atStart: words.atStart };
}

/** One after another. Bytes are written out only where something else follows. */
function chain(parts: readonly PreTokenizer[]): PreTokenizer {
  const split = (words: Words) => {
    for (const [i, part] of parts.entries()) {
      words = part.split(words);
      if (part.endsInBytes && i + 1 < parts.length) words = inByteCharacters(words);
    }
    return words;
  };
  return { split, drops: parts.some(({ drops }) => drops), endsInBytes: parts.at(-1)?.endsInBytes ?? false };
}

/** Splits each word. `one` appends a word's pieces and returns whether the first begins where the word does. */
function each(one: (text: string, pieces: string[]) => boolean, drops = false): PreTokenizer {
  const split = ({ list, atStart }: Words) => {
    const pieces: string[] = [];
    let startsAtStart = false;
    for (let i = 0; i < list.length; i++) {
      const begins = one(list[i]!, pieces);
      checkWords(pieces.length);
      if (i === 0) startsAtStart = atStart && begins;
    }
    return { list: pieces, atStart: startsAtStart };
  };
  return { split, drops, endsInBytes: false };
}

function splitter(pattern: Pattern, behavior: Behavior, invert = false): PreTokenizer {
  return each((text, pieces) => splitText(text, pattern, behavior, invert, pieces), behavior === "Removed");
}

function byteLevel(fields: Fields): PreTokenizer {
  const prefixes = fields.flag("add_prefix_space", true);
  const words = fields.flag("use_regex", true) ? splitter(regexPattern(gpt2()), "Isolated") : undefined;
  const split = ({ list, atStart }: Words) => {
    const prefixed = prefixes ? list.map((text) => (text.startsWith(" ") ? text : ` ${text}`)) : list;
    return words === undefined ? { list: prefixed, atStart } : words.split({ list: prefixed, atStart });
  };
  return { split, drops: false, endsInBytes: true };
}

function metaspace(fields: Fields): PreTokenizer {
  const { replacement, scheme } = readMetaspace(fields);
  const pattern = literal(replacement);
  const splits = fields.flag("split", true);
  const split = ({ list, atStart }: Words) => {
    const replacedList = list.map((word, i) => {
      const text = word.replaceAll(" ", replacement);
      const prefixed = scheme === "always" || (scheme === "first" && i === 0 && atStart);
      return prefixed && !text.startsWith(replacement) ? replacement + text : text;
    });
    if (!splits) return { list: replacedList, atStart };
    const pieces: string[] = [];
    for (const text of replacedList) {
      splitText(text, pattern, "MergedWithNext", false, pieces);
      checkWords(pieces.length);
    }
    return { list: pieces, atStart };
  };
  return { split, drops: false, endsInBytes: false };
}

/** Metaspace's own fields, which its pre-tokenizer and its decoder share. */
export function readMetaspace(fields: Fields): { replacement: string; scheme: "always" | "first" | "never" } {
  const scheme = fields.choice("prepend_scheme", ["always", "first", "never"] as const, "always");
  const prefixes = fields.flag("add_prefix_space", true);
  return { replacement: fields.character("replacement", "▁"), scheme: prefixes ? scheme : "never" };
}

function fixedLength(fields: Fields): PreTokenizer {
  const length = fields.whole("length", 5);
  if (length === 0) fields.fail("length", "at least 1");
  return each((text, pieces) => {
    let start = 0;
    let count = 0;
    for (let i = 0; i < text.length; i += text.codePointAt(i)! > 0xffff ? 2 : 1) {
      if (count === length) {
        pieces.push(text.slice(start, i));
        checkWords(pieces.length);
        start = i;
        count = 0;
      }
      count++;
    }
    pieces.push(text.slice(start));
    return true;
  });
}
