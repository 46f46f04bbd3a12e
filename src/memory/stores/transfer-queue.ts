// Keeps a disk busy in both directions: cuts transfers into chunks and has a bounded number of them in flight, turn by
// turn. The counterpart of ReadQueue for files that are also written; it knows lengths, not files.
import { AbortError, ConfigError } from "../../base/errors.ts";
import { ALIGNMENT } from "../io/direct-io.ts";
import { IoTurns, processTurns, type Urgency } from "../io/io-turns.ts";

/** Moves bytes [from, from + length) of a transfer. */
export type MoveChunk = (from: number, length: number) => Promise<void>;

export interface TransferQueueOptions {
  /** Chunks in flight at once, of all transfers together; the places of the process, shared with all else, if absent. */
  readonly depth?: number | undefined;
  /** Bytes of a chunk, a multiple of 4096; 4 MiB if absent. */
  readonly chunkBytes?: number | undefined;
}

const DEFAULT_CHUNK = 4 * 2 ** 20;

export class TransferQueue {
  readonly depth: number;
  readonly chunkBytes: number;
  readonly #turns: IoTurns;

  /** Throws {@link ConfigError} for a depth or a chunk size that cannot be used. */
  constructor({ depth, chunkBytes = DEFAULT_CHUNK }: TransferQueueOptions = {}) {
    this.#turns = depth === undefined ? processTurns() : new IoTurns(depth);
    if (!Number.isSafeInteger(chunkBytes) || chunkBytes < ALIGNMENT || chunkBytes % ALIGNMENT !== 0) {
      throw new ConfigError(
        `transfer queue: chunks of ${chunkBytes} bytes are not a multiple of ${ALIGNMENT}`,
      );
    }
    this.depth = this.#turns.places;
    this.chunkBytes = chunkBytes;
  }

  /**
   * Moves `length` bytes chunk by chunk. Rejects with the first error of a chunk, or AbortError; chunks not yet begun are
   * then dropped. Settles only when none of its chunks is in flight.
   */
  async submit(
    length: number,
    move: MoveChunk,
    { signal, urgency = "soon" }: { signal?: AbortSignal | undefined; urgency?: Urgency } = {},
  ): Promise<void> {
    let next = 0;
    let failure: { readonly error: unknown } | undefined;
    const mover = async () => {
      while (next < length && !failure) {
        await this.#turns.enter(urgency);
        try {
          if (signal?.aborted) throw new AbortError(signal.reason);
          const from = next;
          const part = Math.min(this.chunkBytes, length - from);
          // Another mover of this transfer may have taken the last chunk while this one waited for its turn.
          if (part <= 0 || failure) return;
          next += part;
          await move(from, part);
        } catch (error) {
          failure ??= { error };
        } finally {
          this.#turns.leave();
        }
      }
    };
    const movers = Math.min(this.depth, Math.ceil(length / this.chunkBytes));
    await Promise.all(Array.from({ length: movers }, mover));
    if (failure) throw (failure as { readonly error: unknown }).error;
  }
}
