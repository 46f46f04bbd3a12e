// Reads values of tokenizer.json with the place they come from, so that a wrong one is named. Knows no tokenizer.
import { shown } from "../../base/shown.ts";

/** A value of a tokenizer's file cannot be used; `key` is its place in the file, such as "model.merges[3]". */
export class FormatError extends Error {
  readonly key: string;
  constructor(key: string, problem: string) {
    super(`${key || "the file"} ${problem}`);
    this.key = key;
  }
}

/** A tokenizer that is well-formed cannot do what was asked of it. */
export class TokenizingError extends Error {}

/** The members of an object, by name. */
export class Fields {
  readonly path: string;
  readonly #members: ReadonlyMap<string, unknown>;

  constructor(value: unknown, path: string) {
    if (typeof value !== "object" || value === null || Array.isArray(value))
      throw new FormatError(path, `must be an object, not ${shown(value)}`);
    this.path = path;
    this.#members = new Map(Object.entries(value));
  }

  /** The place of a member. */
  key(name: string): string {
    return this.path === "" ? name : `${this.path}.${name}`;
  }

  /** The member as it is; null counts as absent. */
  raw(name: string): unknown {
    return this.#members.get(name) ?? undefined;
  }

  fail(name: string, expected: string): never {
    const value = this.raw(name);
    throw new FormatError(
      this.key(name),
      value === undefined ? `is missing; it must be ${expected}` : `must be ${expected}, not ${shown(value)}`,
    );
  }

  text(name: string, otherwise?: string): string {
    const value = this.raw(name) ?? otherwise;
    return typeof value === "string" ? value.toWellFormed() : this.fail(name, "a text");
  }

  /** A single character. */
  character(name: string, otherwise?: string): string {
    const value = this.text(name, otherwise);
    return [...value.slice(0, 3)].length === 1 ? value : this.fail(name, "one character");
  }

  flag(name: string, otherwise: boolean): boolean {
    const value = this.raw(name) ?? otherwise;
    return typeof value === "boolean" ? value : this.fail(name, "true or false");
  }

  whole(name: string, otherwise?: number): number {
    const value = this.raw(name) ?? otherwise;
    return isId(value) ? value : this.fail(name, "a whole number from 0 to 2147483647");
  }

  list(name: string): unknown[] {
    const value = this.raw(name);
    return Array.isArray(value) ? value : this.fail(name, "a list");
  }

  object(name: string): Fields {
    return new Fields(this.raw(name), this.key(name));
  }

  objects(name: string): Fields[] {
    return this.list(name).map((value, i) => new Fields(value, `${this.key(name)}[${i}]`));
  }

  /** One of several words. */
  choice<T extends string>(name: string, words: readonly T[], otherwise?: T): T {
    const value = this.raw(name) ?? otherwise;
    return words.find((word) => word === value) ?? this.fail(name, `one of ${words.join(", ")}`);
  }

  /** Token ids by token. */
  vocabulary(name: string): Map<string, number> {
    const value = this.raw(name);
    if (typeof value !== "object" || value === null || Array.isArray(value))
      return this.fail(name, "an object of ids by token");
    const vocabulary = new Map<string, number>();
    for (const token of Object.keys(value)) {
      const id = (value as Record<string, unknown>)[token];
      if (!isId(id))
        throw new FormatError(
          `${this.key(name)}[${shown(token)}]`,
          `must be a whole number from 0 to 2147483647, not ${shown(id)}`,
        );
      vocabulary.set(token, id);
    }
    return vocabulary;
  }
}

/** Token ids are whole numbers below 2^31: no model has more tokens. */
export function isId(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= 0x7fff_ffff;
}
