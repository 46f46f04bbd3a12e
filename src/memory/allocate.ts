// Native memory that is entered in the ledger before it is taken, and struck from it when it is given back.
import type { BufferType, NativeBuffer, USAGE } from "../ggml/buffer.ts";
import type { Ledger, Reservation } from "./ledger.ts";
import type { Tier } from "./tiers.ts";

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
    type: BufferType,
    bytes: number,
    what: string,
    usage: keyof typeof USAGE = "any",
  ): Allocation {
    const reservation = ledger.reserve(tier, bytes, what);
    try {
      return new Allocation(type.allocate(bytes, usage), reservation);
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
