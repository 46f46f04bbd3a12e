// A cursor over the tokens of a template, and how deep the parser is within them.
import { syntaxError } from "../errors.ts";
import { describeTokenType, type Token, type TokenType, tokenName } from "./lexer.ts";

/** Expressions and blocks within one another. Python's own compiler gives up at about half of that. */
const MAX_DEPTH = 150;

export class TokenStream {
  readonly #tokens: readonly Token[];
  #at = 0;
  #depth = 0;

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  get current(): Token {
    return this.#tokens[this.#at] as Token;
  }

  look(): Token {
    return this.#tokens[Math.min(this.#at + 1, this.#tokens.length - 1)] as Token;
  }

  next(): Token {
    const token = this.current;
    if (this.#at < this.#tokens.length - 1) this.#at++;
    return token;
  }

  is(type: TokenType): boolean {
    return this.current.type === type;
  }

  isName(...names: readonly string[]): boolean {
    return this.current.type === "name" && names.includes(this.current.text);
  }

  skipIf(type: TokenType): boolean {
    const found = this.is(type);
    if (found) this.next();
    return found;
  }

  skipName(name: string): boolean {
    const found = this.isName(name);
    if (found) this.next();
    return found;
  }

  expect(type: TokenType): Token {
    return this.is(type) ? this.next() : this.#unexpected(describeTokenType(type));
  }

  expectName(name: string): Token {
    return this.isName(name) ? this.next() : this.#unexpected(name);
  }

  #unexpected(expected: string): never {
    const { current } = this;
    if (current.type === "eof") {
      return syntaxError(`unexpected end of template, expected '${expected}'.`, current.line);
    }
    return syntaxError(`expected token '${expected}', got '${tokenName(current)}'`, current.line);
  }

  /** Runs `parse` a level deeper. */
  deeper<T>(parse: () => T): T {
    if (++this.#depth > MAX_DEPTH) {
      syntaxError(`the template nests more than ${MAX_DEPTH} levels deep`, this.current.line);
    }
    const result = parse();
    this.#depth--;
    return result;
  }
}
