// Native memory that is entered in the ledger before it is taken, and struck from it when it is given back.
import type { NativeBuffer, USAGE } from "../backend/ggml/buffer.ts";
import type { Ledger, Reservation } from "./ledger.ts";
import type { Tier } from "./tiers.ts";

/** Where memory comes from: a buffer type of the library, or one of our own. */
export interface MemorySource {
  /** Throws LibraryError when the system refuses. */
  allocate(bytes: number, usage: keyof typeof USAGE): NativeBuffer;
}

/** One that says how much it gives at once. */
export interface LimitedSource extends MemorySource {
  /** Bytes. */
  readonly maxSize: number;
}

/** A buffer and its entry in the ledger. */
export class Allocation {
  readonly buffer: NativeBuffer;
  readonly #reservation: Reservation;

  private constructor(buffer: NativeBuffer, reservation: Reservation) {
    this.buffer = buffer;
    this.#reservation = reservation;
  }

  /** Throws BudgetError before anything is taken, or LibraryError if the system refuses; neither leaves an entry. */
  static take(
    ledger: Ledger,
    tier: Exclude<Tier, "disk">,
    source: MemorySource,
    bytes: number,
    what: string,
    usage: keyof typeof USAGE = "any",
  ): Allocation {
    const reservation = ledger.reserve(tier, bytes, what);
    try {
      return new Allocation(source.allocate(bytes, usage), reservation);
    } catch (error) {
      reservation.release();
      throw error;
    }
  }

  /** Frees the memory. Safe to call twice. */
  dispose(): void {
    this.buffer.dispose();
    this.#reservation.release();
  }
}
