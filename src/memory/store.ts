// One contract for a place that keeps bytes, whatever the tier: allocate, read, write, free. Holds no implementation
// (stores/ does) and knows nothing of tensors.
import type { NativeBuffer } from "../backend/ggml/buffer.ts";
import type { DirectFile } from "./io/direct-io.ts";
import type { Urgency } from "./io/io-turns.ts";
import type { Tier } from "./tiers.ts";

/** Memory of one tier. Every region is entered in the ledger before it is taken. */
export interface Store {
  readonly tier: Tier;
  /**
   * A region of `bytes` zeros; `what` is its name in the ledger and in errors. When this resolves the bytes are there:
   * a full disk is an error here, not at a later write. `urgency`: of its reads and writes where they queue; "soon" if
   * absent.
   *
   * Throws BudgetError where it does not fit, IoError or LibraryError if the system refuses, ConfigError for a size that
   * is not a positive whole number, DisposedError after `dispose`; none of them leaves anything behind.
   */
  allocate(bytes: number, what: string, urgency?: Urgency): Promise<Region>;
  /** Waits for what is in flight and frees every region. May be called twice. */
  dispose(): Promise<void>;
}

/**
 * Bytes of one tier, moved from and to host memory. Operations on overlapping ranges take effect in the order of the
 * calls: a read waits for the writes before it. Others overlap in time. All numbers are bytes, and any will do;
 * multiples of 4096 (of the memory's offset too) are the fast ones.
 */
export interface Region {
  readonly tier: Tier;
  readonly what: string;
  readonly bytes: number;
  /**
   * The memory itself, byte 0 first, where the processor can work on it in place: the cpu tier. Those who use it order
   * themselves among each other. Throws as `read` does for a torn or freed region.
   */
  readonly buffer?: NativeBuffer | undefined;
  /**
   * Where the bytes lie in a file that can be read directly, on the disk tier: for weights that stream. Those who read
   * there order themselves after the writes.
   */
  readonly file?: { readonly file: DirectFile; readonly offset: number } | undefined;
  /** Why bytes of this region are lost, if they are: a write failed or was aborted, or {@link markTorn} was called. */
  readonly torn: string | undefined;
  /**
   * Copies bytes [offset, offset + length) to `targetOffset` of host memory. Once this settles, nothing writes there.
   * Throws IoError if the system refuses, the range is outside or torn; AbortError, DisposedError.
   */
  read(
    target: NativeBuffer,
    targetOffset: number,
    offset: number,
    length: number,
    signal?: AbortSignal,
  ): Promise<void>;
  /**
   * Copies host memory to bytes [offset, offset + length). A write that fails or is aborted tears the range: reads of it
   * throw IoError until it has been written again. Throws as `read` does.
   */
  write(
    source: NativeBuffer,
    sourceOffset: number,
    offset: number,
    length: number,
    signal?: AbortSignal,
  ): Promise<void>;
  /** Declares all bytes lost. Each is readable again once it has been written. */
  markTorn(reason: string): void;
  /** Waits for what is in flight, then gives the bytes back. May be called twice; other uses after it throw. */
  free(): Promise<void>;
}
