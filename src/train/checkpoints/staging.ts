// Two pieces of host memory that tensors pass through, so that the next piece is read while the last one is written.

import type { BufferType, NativeBuffer } from "../../backend/ggml/buffer.ts";
import { disposeAll } from "../../base/async/cleanup.ts";
import { Allocation } from "../../memory/allocate.ts";
import type { Ledger } from "../../memory/ledger.ts";

/** Bytes of a piece: what one direct transfer moves. A multiple of 4096. */
export const PIECE = 4 * 2 ** 20;

/** Fill the current piece, `submit` what takes it away, fill the next. Neither memory nor time beyond two pieces. */
export class Staging {
  readonly #pieces: readonly [Allocation, Allocation];
  #turn: 0 | 1 = 0;
  #inFlight: Promise<void> = Promise.resolve();

  /** Throws BudgetError or LibraryError, and then nothing is left behind. */
  constructor(ledger: Ledger, memory: BufferType) {
    const take = () => Allocation.take(ledger, "cpu", memory, PIECE, "checkpoint staging");
    const first = take();
    try {
      this.#pieces = [first, take()];
    } catch (error) {
      first.dispose();
      throw error;
    }
  }

  /** The piece to fill: nothing reads or writes it any more. */
  get current(): NativeBuffer {
    return this.#pieces[this.#turn].buffer;
  }

  /** Begins `move` on the current piece once the move before it is over, whose error this throws. */
  async submit(move: (piece: NativeBuffer) => Promise<void>): Promise<void> {
    await this.#inFlight;
    this.#inFlight = move(this.current);
    // Its error is thrown by whoever waits next; until then it must not count as unhandled.
    this.#inFlight.catch(() => {});
    this.#turn = this.#turn === 0 ? 1 : 0;
  }

  /** Waits for the last move. Throws its error. */
  async drain(): Promise<void> {
    await this.#inFlight;
  }

  /** Waits for what is in flight, whatever becomes of it, and frees the memory. May be called twice. */
  async dispose(): Promise<void> {
    await this.#inFlight.catch(() => {});
    disposeAll(this.#pieces);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}
