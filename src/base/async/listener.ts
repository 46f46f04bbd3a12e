// Callbacks of callers that are told what happens and whose answer does not matter. What they throw, or what a promise of
// theirs comes to, is the caller's own error: it ends the work that told them, unchanged, and never goes unhandled.
import { ConfigError } from "../errors.ts";
import { shown } from "../shown.ts";

/** Throws ConfigError if one of these options was given and is no function. */
export function requireFunctions(options: object, names: readonly string[]): void {
  for (const name of names) {
    const value = (options as Readonly<Record<string, unknown>>)[name];
    if (value === undefined || value === null || typeof value === "function") continue;
    throw new ConfigError(`${name} must be a function, got ${shown(value)}`);
  }
}

/** One such callback, or none. */
export class Listener<A extends readonly unknown[]> {
  readonly #callback: ((...args: A) => unknown) | undefined;
  #answers: Promise<void> | undefined;
  #failure: { readonly error: unknown } | undefined;

  constructor(callback: ((...args: A) => unknown) | null | undefined) {
    this.#callback = callback ?? undefined;
  }

  /** Throws what the callback throws, or what a promise that it gave before was rejected with. */
  tell(...args: A): void {
    if (this.#failure) throw this.#failure.error;
    const answer = this.#callback?.(...args);
    if (!isThenable(answer)) return;
    const before = this.#answers;
    const noted = Promise.resolve(answer).then(
      () => {},
      (error: unknown) => {
        this.#failure ??= { error };
      },
    );
    this.#answers = before ? before.then(() => noted) : noted;
  }

  /** Waits for the promises that the callback gave. Throws what the first that was rejected was rejected with. */
  async settled(): Promise<void> {
    await this.#answers;
    if (this.#failure) throw this.#failure.error;
  }
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === "object" && value !== null && "then" in value && typeof value.then === "function";
}
