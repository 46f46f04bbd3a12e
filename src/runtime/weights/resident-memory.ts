// Memory for what stays, taken in large blocks before anything is read into it. Taken matrix by matrix while others are
// read, each allocation would wait for the pages the system is just then putting behind those reads; and every view of an
// allocation counts for the garbage collector as memory of its own.

import type { NativeBuffer, USAGE } from "../../backend/ggml/buffer.ts";
import { disposeAll } from "../../base/async/cleanup.ts";
import { inGroups } from "../../base/groups.ts";
import { Allocation, type LimitedSource } from "../../memory/allocate.ts";
import type { Ledger } from "../../memory/ledger.ts";
import type { Tier } from "../../memory/tiers.ts";

/** Bytes of one block, unless one part needs more. */
const BLOCK_BYTES = 2 ** 30;

/** What a block is entered in the ledger as. */
export interface Purpose {
  readonly tier: Exclude<Tier, "disk">;
  readonly what: string;
  readonly usage: keyof typeof USAGE;
}

export class ResidentArena {
  readonly #blocks: Allocation[] = [];

  /**
   * Takes a buffer for each of `sizes`. A part begins where the one before it ends, so sizes have to be multiples of what
   * the parts must be aligned to. Throws what {@link Allocation.take} throws; what was taken until then goes with
   * {@link dispose}.
   */
  take(
    ledger: Ledger,
    memory: LimitedSource,
    { tier, what, usage }: Purpose,
    sizes: readonly number[],
  ): NativeBuffer[] {
    const most = Math.min(BLOCK_BYTES, memory.maxSize);
    return inGroups(sizes, most, (bytes) => bytes).flatMap((block) => {
      const total = block.reduce((sum, bytes) => sum + bytes, 0);
      const whole = Allocation.take(ledger, tier, memory, total, what, usage);
      this.#blocks.push(whole);
      let at = 0;
      return block.map((bytes) => {
        const part = whole.buffer.part(at, bytes);
        at += bytes;
        return part;
      });
    });
  }

  /** Frees all of it. Safe to call twice. */
  dispose(): void {
    disposeAll(this.#blocks.splice(0));
  }
}
