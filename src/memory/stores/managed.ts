// What is the same on every tier: checks, the order of overlapping operations, torn ranges, lifetimes. How bytes are
// held and moved is the business of a Backing: native.ts and disk.ts.

import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import { runAll } from "../../base/async/cleanup.ts";
import { ConfigError, DisposedError, IoError, throwIfAborted } from "../../base/errors.ts";
import type { Urgency } from "../io/io-turns.ts";
import { formatBytes } from "../sizes.ts";
import type { Region, Store } from "../store.ts";
import type { Tier } from "../tiers.ts";
import { RangeOrder } from "./range-order.ts";
import { RangeSet } from "./range-set.ts";

/** One region's bytes. Ranges are inside, lengths positive, memory host memory, conflicting operations apart. */
export interface Backing {
  /** Operations that touch one block of this many bytes must not overlap in time. */
  readonly granularity: number;
  readonly buffer?: NativeBuffer;
  readonly file?: NonNullable<Region["file"]>;
  read(target: NativeBuffer, at: number, offset: number, length: number, signal?: AbortSignal): Promise<void>;
  write(
    source: NativeBuffer,
    at: number,
    offset: number,
    length: number,
    signal?: AbortSignal,
  ): Promise<void>;
  /** Called once, with nothing in flight. */
  release(): Promise<void>;
}

class ManagedRegion implements Region {
  readonly tier: Tier;
  readonly what: string;
  readonly bytes: number;
  readonly #backing: Backing;
  readonly #order: RangeOrder;
  readonly #lost = new RangeSet();
  readonly #onFree: (region: ManagedRegion) => void;
  #reason = "";
  #freeing: Promise<void> | undefined;

  constructor(tier: Tier, what: string, bytes: number, backing: Backing, onFree: (r: ManagedRegion) => void) {
    this.tier = tier;
    this.what = what;
    this.bytes = bytes;
    this.#backing = backing;
    this.#order = new RangeOrder(backing.granularity);
    this.#onFree = onFree;
  }

  get buffer(): NativeBuffer | undefined {
    if (this.#freeing) throw new DisposedError(this.#name);
    if (this.#backing.buffer) this.#refuseTorn(0, this.bytes);
    return this.#backing.buffer;
  }

  get file(): Region["file"] {
    if (this.#freeing) throw new DisposedError(this.#name);
    return this.#backing.file;
  }

  get torn(): string | undefined {
    return this.#lost.total > 0 ? this.#reason : undefined;
  }

  markTorn(reason: string): void {
    this.#reason = reason;
    this.#lost.add(0, this.bytes);
  }

  async read(target: NativeBuffer, at: number, offset: number, length: number, signal?: AbortSignal) {
    this.#check("read", target, at, offset, length, signal);
    if (length === 0) return;
    await this.#order.run("read", offset, offset + length, async () => {
      this.#refuseTorn(offset, offset + length);
      throwIfAborted(signal);
      await this.#backing.read(target, at, offset, length, signal);
    });
  }

  async write(source: NativeBuffer, at: number, offset: number, length: number, signal?: AbortSignal) {
    this.#check("write", source, at, offset, length, signal);
    if (length === 0) return;
    await this.#order.run("write", offset, offset + length, async () => {
      throwIfAborted(signal);
      try {
        await this.#backing.write(source, at, offset, length, signal);
      } catch (error) {
        this.#lost.add(offset, offset + length);
        this.#reason = `a write did not complete (${error instanceof Error ? error.message : String(error)})`;
        throw error;
      }
      this.#lost.remove(offset, offset + length);
    });
  }

  free(): Promise<void> {
    this.#freeing ??= this.#order
      .idle()
      .then(() => this.#backing.release())
      .finally(() => this.#onFree(this));
    return this.#freeing;
  }

  get #name(): string {
    return `${this.what} on ${this.tier}`;
  }

  #refuseTorn(from: number, to: number): void {
    if (!this.#lost.overlaps(from, to)) return;
    throw new IoError(
      `${this.#name} cannot be used: ${this.#reason}; write it again in whole, for example from a saved training state`,
    );
  }

  #check(
    doing: "read" | "write",
    memory: NativeBuffer,
    at: number,
    offset: number,
    length: number,
    signal: AbortSignal | undefined,
  ): void {
    if (this.#freeing) throw new DisposedError(this.#name);
    const range = `a ${doing} of ${length} bytes at ${offset}`;
    if (![at, offset, length].every((n) => Number.isSafeInteger(n) && n >= 0)) {
      throw new IoError(`${this.#name}: ${range}, memory at ${at}, is not a range of bytes`);
    }
    if (offset + length > this.bytes) {
      throw new IoError(`${this.#name}: ${range} is outside: it has ${this.bytes} bytes`);
    }
    if (!memory.type.host) {
      throw new IoError(`${this.#name}: ${range} needs host memory, not ${memory.type.name}`);
    }
    if (at + length > memory.size) {
      throw new IoError(`${this.#name}: ${range} does not fit at ${at} of memory of ${memory.size} bytes`);
    }
    throwIfAborted(signal);
  }
}

/** A region over bytes that somebody else holds and frees. */
export function regionOver(tier: Tier, what: string, bytes: number, backing: Backing): Region {
  return new ManagedRegion(tier, what, bytes, backing, () => {});
}

/** The lifetimes of a store and its regions. */
export abstract class ManagedStore implements Store {
  abstract readonly tier: Tier;
  readonly #regions = new Set<ManagedRegion>();
  readonly #pending = new Set<Promise<unknown>>();
  #disposing: Promise<void> | undefined;

  async allocate(bytes: number, what: string, urgency: Urgency = "soon"): Promise<Region> {
    if (this.#disposing) throw new DisposedError(`the store for ${this.tier}`);
    if (!Number.isSafeInteger(bytes) || bytes < 1) {
      throw new ConfigError(`${what}: a region of ${bytes} bytes on ${this.tier} is not possible`);
    }
    const taking = this.take(bytes, what, urgency);
    this.#pending.add(taking);
    try {
      const backing = await taking;
      const region = new ManagedRegion(this.tier, what, bytes, backing, (r) => this.#regions.delete(r));
      this.#regions.add(region);
      if (this.#disposing) throw new DisposedError(`the store for ${this.tier}`); // which frees the region
      return region;
    } finally {
      this.#pending.delete(taking);
    }
  }

  /** Bytes in regions now. */
  get used(): number {
    let sum = 0;
    for (const region of this.#regions) sum += region.bytes;
    return sum;
  }

  dispose(): Promise<void> {
    this.#disposing ??= this.#dispose();
    return this.#disposing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #dispose(): Promise<void> {
    while (this.#pending.size > 0) await Promise.allSettled(this.#pending);
    // One region that cannot be given back must not keep the others, nor the file, from going.
    await runAll([...[...this.#regions].map((region) => () => region.free()), () => this.close()]);
  }

  toString(): string {
    return `${this.tier} store of ${formatBytes(this.used)} in ${this.#regions.size} regions`;
  }

  /** Takes `bytes` zeros. A failure leaves nothing behind. */
  protected abstract take(bytes: number, what: string, urgency: Urgency): Promise<Backing>;

  /** Called once, when every region is free. */
  protected abstract close(): Promise<void>;
}
