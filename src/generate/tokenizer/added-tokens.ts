// The tokens that are added to a model's vocabulary: found in texts before anything else is done with them.
import { lazy } from "../../base/lazy.ts";
import type { Fields } from "./fields.ts";
import { checkGrowth, checkWords } from "./limits.ts";
import type { Model } from "./models/model.ts";
import type { Normalize } from "./parts/normalizers.ts";
import { isWhiteSpace } from "./parts/normalizers.ts";

export interface AddedToken {
  readonly content: string;
  readonly single_word: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  /** Looked for in normalized text, with its own text normalized too. */
  readonly normalized: boolean;
  readonly special: boolean;
}

/** A token as a file has it. What is not given is false; `normalized` is true unless the token is special. */
export function readAddedToken(fields: Fields, special = fields.flag("special", false)): AddedToken {
  return {
    content: fields.text("content"),
    single_word: fields.flag("single_word", false),
    lstrip: fields.flag("lstrip", false),
    rstrip: fields.flag("rstrip", false),
    normalized: fields.flag("normalized", !special),
    special,
  };
}

/** A part of a text: an added token's id, or text between such tokens. `start` is 0 where the text begins. */
export type TextPart = { readonly id: number } | { readonly text: string; readonly start: number };

export class AddedTokens {
  readonly byId = new Map<number, AddedToken>();
  readonly #ids = new Map<string, number>();
  readonly #special = new Set<string>();
  readonly #model: Model;
  readonly #normalize: Normalize | undefined;
  #plain = new Finder();
  #normalized = new Finder();

  constructor(model: Model, normalize: Normalize | undefined) {
    this.#model = model;
    this.#normalize = normalize;
  }

  idOf(token: string): number | undefined {
    return this.#ids.get(token) ?? this.#model.vocabulary.get(token);
  }

  isSpecial(token: string): boolean {
    return this.#special.has(token);
  }

  /** Token texts by id; those of normalized tokens are normalized. */
  textOf(token: AddedToken): string {
    return token.normalized && this.#normalize !== undefined ? this.#normalize(token.content) : token.content;
  }

  /** Adds tokens, or changes those that are there. A token unknown to the model gets the next free id, whatever a file says. */
  add(tokens: readonly AddedToken[]): void {
    let highest = -1;
    for (const id of this.byId.keys()) highest = Math.max(highest, id);
    const { size } = this.#model;
    let next = highest >= size || (size === 0 && highest >= 0) ? highest + 1 : size;
    for (const token of tokens) {
      if (token.content === "") continue;
      const id = this.idOf(token.content) ?? next++;
      this.#ids.set(token.content, id);
      if (token.special) this.#special.add(token.content);
      this.byId.set(id, token);
    }
    this.#plain = new Finder();
    this.#normalized = new Finder();
    for (const [id, token] of this.byId)
      (token.normalized ? this.#normalized : this.#plain).add(this.textOf(token), id);
  }

  /** Whether a token can take white space of any length with it. */
  get takeSpace(): boolean {
    return [...this.byId.values()].some(({ lstrip, rstrip }) => lstrip || rstrip);
  }

  /** Splits a text at the added tokens and normalizes what is between them. */
  split(text: string, splitsSpecial: boolean): TextPart[] {
    const parts: TextPart[] = [];
    let made = 0;
    for (const part of this.#find(text, 0, this.#plain, splitsSpecial)) {
      if ("id" in part) {
        parts.push(part);
        checkWords(parts.length);
        continue;
      }
      const normalized = this.#normalize === undefined ? part.text : this.#normalize(part.text);
      made += normalized.length;
      checkGrowth(made, text.length);
      for (const piece of this.#find(normalized, part.start, this.#normalized, splitsSpecial)) {
        parts.push(piece);
        checkWords(parts.length);
      }
    }
    return parts;
  }

  *#find(text: string, at: number, finder: Finder, splitsSpecial: boolean): Iterable<TextPart> {
    let done = 0;
    for (const { start: found, end: foundEnd, id } of finder.matches(text)) {
      const token = this.byId.get(id)!;
      if (splitsSpecial && this.#special.has(token.content)) continue;
      if (token.single_word && (endsInWord(text, found) || startsWithWord(text, foundEnd))) continue;
      let start = found;
      let end = foundEnd;
      if (token.lstrip) {
        while (start > done && isWhiteSpace(text.charCodeAt(start - 1))) start--;
        // What the token before has taken is not taken again.
        start = Math.max(start, done);
      }
      if (token.rstrip) while (end < text.length && isWhiteSpace(text.charCodeAt(end))) end++;
      if (done < start) yield { text: text.slice(done, start), start: at + done };
      // Nothing is left of a token whose spaces another has taken.
      if (start < end) yield { id };
      done = end;
    }
    if (done < text.length) yield { text: text.slice(done), start: at + done };
  }
}

const wordCharacter = lazy(() => /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d]/u);

function startsWithWord(text: string, at: number): boolean {
  return wordCharacter().test(text.slice(at, at + 2));
}

function endsInWord(text: string, at: number): boolean {
  const pair = at >= 2 && text.codePointAt(at - 2)! > 0xffff;
  return at > 0 && wordCharacter().test(text.slice(pair ? at - 2 : at - 1, at));
}

/** Finds the leftmost of several strings in a text, the longest of those that begin at the same place. */
class Finder {
  readonly #ids = new Map<string, number>();
  /** Lengths of the strings by their first unit, the longest first. */
  readonly #lengths = new Map<number, number[]>();

  add(text: string, id: number): void {
    if (text === "") return;
    this.#ids.set(text, id);
    const first = text.charCodeAt(0);
    const lengths = this.#lengths.get(first) ?? [];
    if (lengths.includes(text.length)) return;
    lengths.push(text.length);
    this.#lengths.set(
      first,
      lengths.sort((a, b) => b - a),
    );
  }

  *matches(text: string): Iterable<{ start: number; end: number; id: number }> {
    if (this.#ids.size === 0) return;
    for (let at = 0; at < text.length; ) {
      const lengths = this.#lengths.get(text.charCodeAt(at));
      let end = at + 1;
      for (const length of lengths ?? []) {
        const id = at + length <= text.length ? this.#ids.get(text.slice(at, at + length)) : undefined;
        if (id === undefined) continue;
        end = at + length;
        yield { start: at, end, id };
        break;
      }
      at = end;
    }
  }
}
