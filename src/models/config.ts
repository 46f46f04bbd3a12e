// Reads config.json key by key with errors that name the key, and remembers which keys were asked for. What a key means
// is decided by the families; what becomes of keys nobody asked for, by keys.ts.

import { ConfigError } from "../base/errors.ts";
import { shown } from "../base/shown.ts";

/** Positions and ids are 32-bit numbers. */
export const MAX_SIZE = 2 ** 31 - 1;
/** Far beyond any published model. */
export const MAX_LAYERS = 10_000;
export const MAX_HEAD_DIM = 65_536;

/**
 * What null means where a value is asked for: "absent" takes the default, "refused" is an error, as transformers 5 has it
 * for every key of a model that is not said to be optional. {@link RawConfig.has} is false of null either way.
 */
export type Nulls = "absent" | "refused";

/** A parsed config.json with typed access. */
export class RawConfig {
  readonly #json: Record<string, unknown>;
  readonly #where: string;
  readonly #nulls: Nulls;
  readonly #asked = new Set<string>();
  readonly #defaulted: string[] = [];

  constructor(json: unknown, where = "config.json", nulls: Nulls = "absent") {
    if (typeof json !== "object" || json === null || Array.isArray(json)) {
      throw new ConfigError(`${where}: expected an object`);
    }
    this.#json = json as Record<string, unknown>;
    this.#where = where;
    this.#nulls = nulls;
  }

  /** What messages call it: a path, or a path and a key. */
  get where(): string {
    return this.#where;
  }

  has(key: string): boolean {
    const value = this.raw(key);
    return value !== undefined && value !== null;
  }

  /** Whether the file names the key, be it null. */
  names(key: string): boolean {
    return this.raw(key) !== undefined;
  }

  raw(key: string): unknown {
    this.#asked.add(key);
    return Object.hasOwn(this.#json, key) ? this.#json[key] : undefined;
  }

  /** Keys of the file that nobody has asked for so far, in its order. */
  unasked(): string[] {
    return Object.keys(this.#json).filter((key) => !this.#asked.has(key));
  }

  /** Dimensions that the file does not name, with the defaults taken for them: "hidden_size 4096". */
  get defaulted(): readonly string[] {
    return this.#defaulted;
  }

  /** {@link size} of what shapes of weights follow from: a default that is taken is remembered. */
  dimension(key: string, fallback: number, most = MAX_SIZE): number {
    if (!this.names(key)) this.#defaulted.push(`${key} ${fallback}`);
    return this.size(key, fallback, most);
  }

  /** A positive whole number, at most `most`: what is sized by it must not fill memory before it is compared. */
  size(key: string, fallback?: number, most = MAX_SIZE): number {
    const value = this.#get(key, fallback);
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 1 || value > most)
      this.#bad(key, value, `a whole number from 1 to ${most}`);
    return value as number;
  }

  /** Any whole number. */
  integer(key: string, fallback?: number): number {
    const value = this.#get(key, fallback);
    if (typeof value !== "number" || !Number.isSafeInteger(value)) this.#bad(key, value, "a whole number");
    return value as number;
  }

  number(key: string, fallback?: number): number {
    const value = this.#get(key, fallback);
    if (typeof value !== "number" || !Number.isFinite(value)) this.#bad(key, value, "a number");
    return value as number;
  }

  /** A number above 0. */
  positive(key: string, fallback?: number): number {
    const value = this.number(key, fallback);
    if (value <= 0) this.#bad(key, value, "a number above 0");
    return value;
  }

  boolean(key: string, fallback?: boolean): boolean {
    const value = this.#get(key, fallback);
    if (typeof value !== "boolean") this.#bad(key, value, "true or false");
    return value as boolean;
  }

  string(key: string, fallback?: string): string {
    const value = this.#get(key, fallback);
    if (typeof value !== "string") this.#bad(key, value, "a string");
    return value as string;
  }

  /** A list of `length` numbers above 0. */
  numbers(key: string, length: number): readonly number[] {
    const value = this.#get(key, undefined);
    const fits = (n: unknown) => typeof n === "number" && Number.isFinite(n) && n > 0;
    if (!Array.isArray(value) || value.length !== length || !value.every(fits))
      this.#bad(key, value, `a list of ${length} numbers above 0`);
    return value as number[];
  }

  /** A nested object, or undefined where the key is absent or null. */
  object(key: string): RawConfig | undefined {
    return this.has(key) ? new RawConfig(this.raw(key), `${this.#where}: ${key}`, this.#nulls) : undefined;
  }

  /** The element type of the weights: `dtype` in newer files, `torch_dtype` in older ones. */
  get dtype(): string | undefined {
    const value = this.raw("dtype") ?? this.raw("torch_dtype");
    return typeof value === "string" ? value : undefined;
  }

  fail(key: string, problem: string): never {
    throw new ConfigError(`${this.#where}: ${key}: ${problem}`);
  }

  #get(key: string, fallback: unknown): unknown {
    const given = this.raw(key);
    if (given === null && this.#nulls === "refused") return null;
    const value = given ?? fallback;
    if (value === undefined) throw new ConfigError(`${this.#where}: ${key} is missing`);
    return value;
  }

  #bad(key: string, value: unknown, expected: string): never {
    throw new ConfigError(`${this.#where}: ${key} is ${shown(value)}, expected ${expected}`);
  }
}
