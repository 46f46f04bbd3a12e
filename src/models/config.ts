// Reads config.json key by key with errors that name the key; knows the older and the newer forms of it.
import { ConfigError } from "../errors.ts";

/** Positions and ids are 32-bit numbers. */
const MAX_SIZE = 2 ** 31 - 1;
/** Far beyond any published model. */
export const MAX_LAYERS = 10_000;
export const MAX_HEAD_DIM = 65_536;

/** A parsed config.json with typed access. Keys nobody asks for are ignored, as in transformers. */
export class RawConfig {
  readonly #json: Record<string, unknown>;
  readonly #where: string;

  constructor(json: unknown, where = "config.json") {
    if (typeof json !== "object" || json === null || Array.isArray(json)) {
      throw new ConfigError(`${where}: expected an object`);
    }
    this.#json = json as Record<string, unknown>;
    this.#where = where;
  }

  has(key: string): boolean {
    return this.#json[key] !== undefined && this.#json[key] !== null;
  }

  raw(key: string): unknown {
    return this.#json[key];
  }

  /** A positive whole number, at most `most`: what is sized by it must not fill memory before it is compared. */
  size(key: string, fallback?: number, most = MAX_SIZE): number {
    const value = this.#get(key, fallback);
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 1 || value > most)
      this.#bad(key, value, `a whole number from 1 to ${most}`);
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

  /** A nested object, or undefined where the key is absent or null. */
  object(key: string): RawConfig | undefined {
    return this.has(key) ? new RawConfig(this.#json[key], `${this.#where}: ${key}`) : undefined;
  }

  /** The element type of the weights: `dtype` in newer files, `torch_dtype` in older ones. */
  get dtype(): string | undefined {
    const value = this.#json.dtype ?? this.#json.torch_dtype;
    return typeof value === "string" ? value : undefined;
  }

  fail(key: string, problem: string): never {
    throw new ConfigError(`${this.#where}: ${key}: ${problem}`);
  }

  #get(key: string, fallback: unknown): unknown {
    const value = this.#json[key] ?? fallback;
    if (value === undefined) throw new ConfigError(`${this.#where}: ${key} is missing`);
    return value;
  }

  #bad(key: string, value: unknown, expected: string): never {
    throw new ConfigError(`${this.#where}: ${key} is ${JSON.stringify(value)}, expected ${expected}`);
  }
}
