// What makes text of tokens: one function for each decoder of tokenizer.json, by its name there. Runs beside everything
// else, token by token, so it holds no regex of a file: those are given by who can bound them.

import { isUtf8 } from "node:buffer";
import { type Fields, TokenizingError } from "../fields.ts";
import { LONGEST_TEXT } from "../limits.ts";
import { fromByteCharacters } from "./byte-level.ts";
import { type CompileRegex, readPattern } from "./pattern.ts";
import { literal, replaced } from "./splitting.ts";

/** Takes the texts of tokens and returns the texts to be joined. */
export type Decode = (tokens: string[]) => string[];

const KINDS: Readonly<Record<string, (fields: Fields, compile: CompileRegex) => Decode>> = {
  BPEDecoder: (fields) => {
    const suffix = literal(fields.text("suffix", "</w>"));
    return (tokens) => tokens.map((token, i) => replaced(token, suffix, i + 1 === tokens.length ? "" : " "));
  },
  ByteLevel: () => byteLevel,
  WordPiece: wordPiece,
  Metaspace: metaspace,
  CTC: ctc,
  Strip: strip,
  Fuse: () => (tokens) => [tokens.join("")],
  ByteFallback: () => byteFallback,
  Replace: (fields, compile) => {
    const matcher = readPattern(fields, "pattern", compile);
    const content = fields.text("content");
    return (tokens) => tokens.map((token) => replaced(token, matcher, content));
  },
  Sequence: (fields, compile) => {
    const parts = fields.objects("decoders").map((part) => readDecoder(part, compile));
    return (tokens) => {
      for (const part of parts) tokens = bounded(part(tokens));
      return tokens;
    };
  },
};

export function readDecoder(fields: Fields, compile: CompileRegex): Decode {
  const kind = fields.text("type");
  const make = Object.hasOwn(KINDS, kind) ? KINDS[kind] : undefined;
  if (make === undefined) return fields.fail("type", `one of the decoders ${Object.keys(KINDS).join(", ")}`);
  return make(fields, compile);
}

function bounded(tokens: string[]): string[] {
  let length = 0;
  for (const token of tokens) length += token.length;
  if (length > LONGEST_TEXT)
    throw new TokenizingError(
      `its decoders make a text of ${length} characters, at most ${LONGEST_TEXT} are allowed`,
    );
  return tokens;
}

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** Tokens of byte characters are their bytes, others their text; broken UTF-8 becomes U+FFFD. */
function byteLevel(tokens: string[]): string[] {
  const parts = tokens.map((token) => fromByteCharacters(token) ?? Buffer.from(token, "utf8"));
  return [utf8.decode(Buffer.concat(parts))];
}

/** Runs of "<0x..>" are UTF-8; if it is broken, every one of them is U+FFFD. */
function byteFallback(tokens: string[]): string[] {
  const result: string[] = [];
  let bytes: number[] = [];
  const flush = () => {
    if (bytes.length === 0) return;
    const buffer = Buffer.from(bytes);
    if (isUtf8(buffer)) result.push(buffer.toString("utf8"));
    else for (const _ of bytes) result.push("\uFFFD");
    bytes = [];
  };
  for (const token of tokens) {
    const byte = fallbackByte(token);
    if (byte !== undefined) bytes.push(byte);
    else {
      flush();
      result.push(token);
    }
  }
  flush();
  return result;
}

/** The byte that a token such as "<0x0A>" stands for. */
export function fallbackByte(token: string): number | undefined {
  const code = token.length === 6 ? /^<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>$/.exec(token)?.[1] : undefined;
  return code === undefined ? undefined : Number.parseInt(code, 16);
}

function wordPiece(fields: Fields): Decode {
  const prefix = fields.text("prefix", "##");
  const cleans = fields.flag("cleanup", true);
  return (tokens) =>
    tokens.map((token, i) => {
      const joined = i === 0 ? token : token.startsWith(prefix) ? token.slice(prefix.length) : ` ${token}`;
      return cleans ? cleanUp(joined) : joined;
    });
}

/** Takes away spaces that tokenizing put before punctuation and contractions. */
function cleanUp(text: string): string {
  return text
    .replaceAll(" .", ".")
    .replaceAll(" ?", "?")
    .replaceAll(" !", "!")
    .replaceAll(" ,", ",")
    .replaceAll(" ' ", "'")
    .replaceAll(" n't", "n't")
    .replaceAll(" 'm", "'m")
    .replaceAll(" do not", " don't")
    .replaceAll(" 's", "'s")
    .replaceAll(" 've", "'ve")
    .replaceAll(" 're", "'re");
}

function metaspace(fields: Fields): Decode {
  const replacement = fields.character("replacement", "▁");
  const scheme = fields.choice("prepend_scheme", ["always", "first", "never"] as const, "always");
  const drops = fields.flag("add_prefix_space", true) && scheme !== "never";
  return (tokens) => tokens.map((token, i) => token.replaceAll(replacement, i === 0 && drops ? "" : " "));
}

function ctc(fields: Fields): Decode {
  const pad = literal(fields.text("pad_token", "<pad>"));
  const delimiter = literal(fields.text("word_delimiter_token", "|"));
  const cleans = fields.flag("cleanup", true);
  return (tokens) =>
    tokens
      .filter((token, i) => i === 0 || token !== tokens[i - 1])
      .map((token) => replaced(token, pad, ""))
      .map((token) => (cleans ? replaced(cleanUp(token), delimiter, " ") : token))
      .filter((token) => token !== "");
}

/** Takes up to so many of a character from the beginning and from the end of each token. */
function strip(fields: Fields): Decode {
  const content = fields.character("content");
  const start = fields.whole("start", 0);
  const stop = fields.whole("stop", 0);
  return (tokens) =>
    tokens.map((token) => {
      let from = 0;
      for (let i = 0; i < start && token.startsWith(content, from); i++) from += content.length;
      let to = token.length;
      for (let i = 0; i < stop && to > from && token.endsWith(content, to); i++) to -= content.length;
      return token.slice(from, to);
    });
}
