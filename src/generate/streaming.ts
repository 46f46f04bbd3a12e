// The pieces of a stream on their way from the model to a reader, who may be slower than the model or leave.
import type { FinishReason } from "./decode-loop.ts";

/** A piece of generated text; the last one says why generation ended. */
export interface StreamPiece {
  readonly text: string;
  /** The newest token, or undefined in the last piece. */
  readonly token: number | undefined;
  readonly finish_reason?: FinishReason;
}

/** Pieces that may be unread before generation waits. */
export const UNREAD_PIECES = 64;

/** Values put by one side, awaited by the other. */
export class Mailbox<T> implements AsyncIterable<T> {
  readonly #waiting: T[] = [];
  #over: { error?: unknown } | undefined;
  #wake: (() => void) | undefined;
  #emptied: (() => void) | undefined;

  put(value: T): void {
    this.#waiting.push(value);
    this.#wake?.();
  }

  /** Whether as much is unread as may be. */
  get full(): boolean {
    return this.#waiting.length >= UNREAD_PIECES && !this.#over;
  }

  /** Resolves when it is full no more, or over. */
  room(): Promise<void> {
    if (!this.full) return Promise.resolve();
    return new Promise((resolve) => {
      this.#emptied = resolve;
    });
  }

  /** Ends a wait for room, whatever is unread. */
  release(): void {
    this.#emptied?.();
  }

  end(outcome: { error?: unknown } = {}): void {
    this.#over ??= outcome;
    this.#wake?.();
    this.#emptied?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    for (;;) {
      while (this.#waiting.length > 0) {
        const value = this.#waiting.shift() as T;
        if (!this.full) this.#emptied?.();
        yield value;
      }
      if (this.#over) {
        if ("error" in this.#over) throw this.#over.error;
        return;
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}
