// The pieces of a stream on their way from the model to a reader, who may be slower than the model or leave.
import type { FinishReason } from "./decode-loop.ts";

/** A piece of generated text; the last one says why generation ended. */
export interface StreamPiece {
  readonly text: string;
  /** The newest token, or undefined in the last piece. */
  readonly token: number | undefined;
  readonly finish_reason?: FinishReason;
}

/** Pieces that may be unread before generation waits for their reader. */
export const UNREAD_PIECES = 64;

/**
 * Values put by one side, awaited by the other. It holds {@link UNREAD_PIECES} while the side that puts waits for room, and
 * `most` where that cannot wait, because another call wants the model: a stream's own limit of tokens bounds it then, whose
 * keys and values took a thousand times the memory of their pieces.
 */
export class Mailbox<T> implements AsyncIterable<T> {
  readonly #waiting: T[] = [];
  readonly #most: number;
  #over: { error?: unknown } | undefined;
  #wake: (() => void) | undefined;
  #emptied: (() => void) | undefined;

  /** `most`: values that may be unread whatever happens. */
  constructor(most: number) {
    this.#most = most;
  }

  /** Values that are put and not read. */
  get unread(): number {
    return this.#waiting.length;
  }

  put(value: T): void {
    if (this.#waiting.length >= this.#most) throw new Error(`more than ${this.#most} values are unread`);
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
