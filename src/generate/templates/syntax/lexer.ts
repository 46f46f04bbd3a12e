// Splits a template into tokens, as jinja2's lexer does with trim_blocks and lstrip_blocks on: the line end after a
// block tag goes, and so does the white space before one that begins its line.
import { syntaxError } from "../errors.ts";
import { normal } from "../values/numbers.ts";
import type { Value } from "../values/types.ts";
import { Float } from "../values/types.ts";
import { SPACES, strip } from "../values/unicode.ts";
import { unescapeString } from "./escapes.ts";

export type TokenType =
  | "data"
  | "block_begin"
  | "block_end"
  | "variable_begin"
  | "variable_end"
  | "name"
  | "string"
  | "integer"
  | "float"
  | "eof"
  | OperatorType;

const OPERATORS = {
  "**": "pow",
  "//": "floordiv",
  "==": "eq",
  "!=": "ne",
  ">=": "gteq",
  "<=": "lteq",
  "+": "add",
  "-": "sub",
  "/": "div",
  "*": "mul",
  "%": "mod",
  "~": "tilde",
  "[": "lbracket",
  "]": "rbracket",
  "(": "lparen",
  ")": "rparen",
  "{": "lbrace",
  "}": "rbrace",
  ">": "gt",
  "<": "lt",
  "=": "assign",
  ".": "dot",
  ":": "colon",
  "|": "pipe",
  ",": "comma",
  ";": "semicolon",
} as const;
export type OperatorType = (typeof OPERATORS)[keyof typeof OPERATORS];

export interface Token {
  readonly type: TokenType;
  /** The name, the text of data and strings, the source of operators. */
  readonly text: string;
  /** The value of a number. */
  readonly value?: Value;
  readonly line: number;
}

/** How a token is called in messages. */
export function tokenName(token: Pick<Token, "type" | "text">): string {
  if (token.type === "name") return token.text;
  return describeTokenType(token.type);
}

export function describeTokenType(type: string): string {
  for (const [source, name] of Object.entries(OPERATORS)) if (name === type) return source;
  const known: Record<string, string> = {
    block_begin: "begin of statement block",
    block_end: "end of statement block",
    variable_begin: "begin of print statement",
    variable_end: "end of print statement",
    data: "template data / text",
    eof: "end of template",
  };
  return known[type] ?? type;
}

// In JavaScript \s is another set of white space than in Python.
const S = `[${SPACES}]`;
const RAW_BEGIN = new RegExp(`\\{%([-+]?)${S}*raw${S}*(?:-%\\}${S}*|%\\})`, "y");
const RAW_END = new RegExp(`\\{%([-+]?)${S}*endraw${S}*(?:\\+%\\}|-%\\}${S}*|%\\}\\n?)`, "g");
const COMMENT_END = new RegExp(`\\+#\\}|-#\\}${S}*|#\\}\\n?`, "g");
const BLOCK_END = new RegExp(`\\+%\\}|-%\\}${S}*|%\\}\\n?`, "y");
const VARIABLE_END = new RegExp(`-\\}\\}${S}*|\\}\\}`, "y");
const OPENING = /\{[{%#]/g;
const SPACE = new RegExp(`${S}+`, "y");
const FLOAT = /(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?e[+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)/iy;
const INTEGER = /0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|[1-9](?:_?\d)*|0(?:_?0)*/iy;
const NAME = /[\p{L}\p{N}\p{M}\p{Pc}\u00b7\u0387\u1369-\u1371\u19da\u2118\u212e]+/uy;
const IDENTIFIER = /^[\p{XIDS}_]\p{XIDC}*$/u;
const STRING = /'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*"/sy;
const OPERATOR = /\*\*|\/\/|[=!<>]=|[-+/*%~[\](){}<>=.:|,;]/y;
const CLOSING: Record<string, string> = { "(": ")", "[": "]", "{": "}" };

/** The largest chat templates have some 50,000 characters. */
const MAX_SOURCE = 500_000;

/** @throws TemplateError of kind syntax */
export function tokenize(template: string): Token[] {
  if (template.length > MAX_SOURCE) {
    syntaxError(`the template has ${template.length} characters, at most ${MAX_SOURCE} are allowed`, 1);
  }
  const lexer = new Lexer(template);
  lexer.root();
  return lexer.tokens;
}

class Lexer {
  readonly tokens: Token[] = [];
  readonly #source: string;
  #at = 0;
  #line = 1;
  /** Whether what was read last ended a line, so that a tag here begins one. */
  #lineStarts = true;

  constructor(template: string) {
    const source = template.replace(/\r\n?/g, "\n");
    this.#source = source.endsWith("\n") ? source.slice(0, -1) : source;
  }

  root(): void {
    const source = this.#source;
    while (this.#at < source.length) {
      OPENING.lastIndex = this.#at;
      const opening = OPENING.exec(source);
      if (opening === null) {
        this.#data(source.slice(this.#at));
        this.#at = source.length;
        break;
      }
      const at = opening.index;
      const raw = this.#match(RAW_BEGIN, at);
      const sign = raw === undefined ? source.charAt(at + 2) : (raw[1] as string);
      this.#textBefore(at, sign, opening[0] === "{{");
      const signed = sign === "-" || sign === "+";
      const begin = raw?.[0] ?? opening[0] + (signed ? sign : "");
      this.#advance(begin);
      if (raw !== undefined) this.#raw();
      else if (opening[0] === "{#") this.#comment();
      else this.#tag(opening[0] === "{{" ? "variable" : "block");
    }
    this.tokens.push({ type: "eof", text: "", line: this.#line });
  }

  /** The text before a tag at `at`, less what the tag's sign or lstrip_blocks takes of it. */
  #textBefore(at: number, sign: string, variable: boolean): void {
    const text = this.#source.slice(this.#at, at);
    let kept = text;
    if (sign === "-") kept = strip(text, undefined, "right");
    else if (sign !== "+" && !variable) {
      const lineStart = text.lastIndexOf("\n") + 1;
      if ((lineStart > 0 || this.#lineStarts) && strip(text.slice(lineStart), undefined, "left") === "") {
        kept = text.slice(0, lineStart);
      }
    }
    this.#data(kept);
    this.#line += newlines(text);
    this.#at = at;
  }

  #data(text: string): void {
    if (text !== "") this.tokens.push({ type: "data", text, line: this.#line });
  }

  #match(pattern: RegExp, at = this.#at): RegExpExecArray | undefined {
    pattern.lastIndex = at;
    return pattern.exec(this.#source) ?? undefined;
  }

  #advance(text: string): void {
    this.#at += text.length;
    this.#line += newlines(text);
    this.#lineStarts = text.endsWith("\n");
  }

  #comment(): void {
    const end = this.#match(COMMENT_END);
    if (end === undefined) syntaxError("Missing end of comment tag", this.#line);
    this.#advance(this.#source.slice(this.#at, end.index + end[0].length));
  }

  #raw(): void {
    const end = this.#match(RAW_END);
    if (end === undefined) syntaxError("Missing end of raw directive", this.#line);
    this.#lineStarts = this.#source.charAt(this.#at - 1) === "\n";
    this.#textBefore(end.index, end[1] as string, false);
    this.#advance(end[0]);
  }

  /** A block or variable tag, after its opening. */
  #tag(kind: "block" | "variable"): void {
    this.tokens.push({ type: `${kind}_begin`, text: "", line: this.#line });
    const open: string[] = [];
    const end = kind === "block" ? BLOCK_END : VARIABLE_END;
    while (this.#at < this.#source.length) {
      if (open.length === 0) {
        const closing = this.#match(end);
        if (closing !== undefined) {
          this.tokens.push({ type: `${kind}_end`, text: "", line: this.#line });
          this.#advance(closing[0]);
          return;
        }
      }
      const line = this.#line;
      const space = this.#match(SPACE);
      if (space !== undefined) this.#advance(space[0]);
      else {
        const token = this.#token(open, line);
        this.tokens.push(token);
      }
    }
    // The end of the template within a tag: the parser says what was expected.
  }

  #token(open: string[], line: number): Token {
    const afterDot = this.#source.charAt(this.#at - 1) === ".";
    const float = afterDot ? undefined : this.#match(FLOAT);
    if (float !== undefined) {
      this.#advance(float[0]);
      return { type: "float", text: float[0], value: new Float(Number(float[0].replaceAll("_", ""))), line };
    }
    const integer = this.#match(INTEGER);
    if (integer !== undefined) {
      const digits = integer[0].replaceAll("_", "");
      if (digits.length > 4300) syntaxError("an integer has more than 4300 digits", line);
      this.#advance(integer[0]);
      return { type: "integer", text: integer[0], value: normal(BigInt(digits)), line };
    }
    const name = this.#match(NAME);
    if (name !== undefined) {
      if (!IDENTIFIER.test(name[0])) syntaxError("Invalid character in identifier", line);
      this.#advance(name[0]);
      return { type: "name", text: name[0], line };
    }
    const string = this.#match(STRING);
    if (string !== undefined) {
      this.#advance(string[0]);
      return { type: "string", text: unescapeString(string[0].slice(1, -1), line), line };
    }
    const operator = this.#match(OPERATOR);
    if (operator === undefined) {
      const at = String.fromCodePoint(this.#source.codePointAt(this.#at) as number);
      return syntaxError(`unexpected char ${JSON.stringify(at)}`, line);
    }
    const source = operator[0];
    this.#balance(source, open, line);
    this.#advance(source);
    return { type: OPERATORS[source as keyof typeof OPERATORS], text: source, line };
  }

  /** Within brackets the end of the tag is not looked for: `{{ {'a': {}}}}` closes two dicts first. */
  #balance(source: string, open: string[], line: number): void {
    const closing = CLOSING[source];
    if (closing !== undefined) open.push(closing);
    else if (source === ")" || source === "]" || source === "}") {
      const expected = open.pop();
      if (expected === undefined) syntaxError(`unexpected '${source}'`, line);
      if (expected !== source) syntaxError(`unexpected '${source}', expected '${expected}'`, line);
    }
  }
}

function newlines(text: string): number {
  let count = 0;
  for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) count++;
  return count;
}
