// Keeps a disk busy in both directions: cuts transfers into chunks and has a bounded number of them in flight, turn by
// turn. The counterpart of ReadQueue for files that are also written; it knows lengths, not files.
import { AbortError, ConfigError } from "../../errors.ts";
import { ALIGNMENT } from "../direct-io.ts";
import { defaultDepth } from "../read-queue.ts";

/** Moves bytes [from, from + length) of a transfer. */
export type MoveChunk = (from: number, length: number) => Promise<void>;

export interface TransferQueueOptions {
  /** Chunks in flight at once, of all transfers together; as many as reads of a ReadQueue if absent. */
  readonly depth?: number | undefined;
  /** Bytes of a chunk, a multiple of 4096; 4 MiB if absent. */
  readonly chunkBytes?: number | undefined;
}

const DEFAULT_CHUNK = 4 * 2 ** 20;

export class TransferQueue {
  readonly depth: number;
  readonly chunkBytes: number;
  #inFlight = 0;
  readonly #waiting: (() => void)[] = [];

  /** Throws {@link ConfigError} for a depth or a chunk size that cannot be used. */
  constructor({ depth = defaultDepth(), chunkBytes = DEFAULT_CHUNK }: TransferQueueOptions = {}) {
    if (!Number.isSafeInteger(depth) || depth < 1) {
      throw new ConfigError(`transfer queue: depth ${depth} is not a whole number of at least 1`);
    }
    if (!Number.isSafeInteger(chunkBytes) || chunkBytes < ALIGNMENT || chunkBytes % ALIGNMENT !== 0) {
      throw new ConfigError(
        `transfer queue: chunks of ${chunkBytes} bytes are not a multiple of ${ALIGNMENT}`,
      );
    }
    this.depth = depth;
    this.chunkBytes = chunkBytes;
  }

  /**
   * Moves `length` bytes chunk by chunk. Rejects with the first error of a chunk, or AbortError; chunks not yet begun are
   * then dropped. Settles only when none of its chunks is in flight.
   */
  async submit(length: number, move: MoveChunk, signal?: AbortSignal): Promise<void> {
    let next = 0;
    let failure: { readonly error: unknown } | undefined;
    const mover = async () => {
      while (next < length && !failure) {
        await this.#enter();
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
          this.#leave();
        }
      }
    };
    const movers = Math.min(this.depth, Math.ceil(length / this.chunkBytes));
    await Promise.all(Array.from({ length: movers }, mover));
    if (failure) throw (failure as { readonly error: unknown }).error;
  }

  async #enter(): Promise<void> {
    if (this.#inFlight < this.depth) this.#inFlight++;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  /** The place goes to whoever has waited longest. */
  #leave(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#inFlight--;
  }
}
