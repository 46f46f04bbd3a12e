// Who has which part of a circular buffer: hands out contiguous spans, round and round. Pure bookkeeping of offsets;
// the memory itself, and what is read into it, belong to others.
import { AbortError, BudgetError, ConfigError } from "../base/errors.ts";
import { ALIGNMENT } from "./io/direct-io.ts";
import { formatBudget, formatBytes } from "./sizes.ts";
import type { Tier } from "./tiers.ts";

/** A contiguous part of the arena, held until `release`. */
export interface Span {
  /** Bytes from the start of the arena, a multiple of the alignment asked for. */
  readonly offset: number;
  readonly bytes: number;
  /** Gives the span back. May be called twice. */
  release(): void;
}

/** A span on the circle unrolled to a line: offset 0 of the next lap is `capacity` further on. */
interface Held {
  start: number;
  end: number;
  released: boolean;
}

interface Waiter {
  readonly bytes: number;
  readonly alignment: number;
  readonly resolve: (span: Span) => void;
}

/**
 * A ring of `capacity` bytes. Spans are allocated one after another and start again at 0 where the rest of the buffer
 * is too short for the next one. They may be released in any order; their space is used again in the order of
 * allocation, so a span that is held long holds up those behind it.
 */
export class RingArena {
  /** Bytes. */
  readonly capacity: number;
  readonly #tier: Tier;
  readonly #held: Held[] = [];
  readonly #waiters: Waiter[] = [];
  /** Positions on the line of the oldest byte in use and of the next one to hand out: head - tail bytes are taken. */
  #tail = 0;
  #head = 0;

  /** `tier` is named in errors. Throws {@link ConfigError} if `capacity` is not a whole number of bytes. */
  constructor(capacity: number, { tier = "cpu" }: { tier?: Tier } = {}) {
    if (!Number.isSafeInteger(capacity) || capacity < 0) {
      throw new ConfigError(`streaming buffer: ${capacity} is not a whole number of bytes`);
    }
    this.capacity = capacity;
    this.#tier = tier;
  }

  /** Bytes that cannot be handed out now: spans, gaps between them, and released spans behind held ones. */
  get taken(): number {
    return this.#head - this.#tail;
  }

  /** How many {@link waitFor} are waiting. */
  get waiting(): number {
    return this.#waiters.length;
  }

  /**
   * A span of `bytes`, or undefined where there is no room for it now, or others are already waiting for room.
   * Throws {@link BudgetError} if it would not fit into the empty arena, {@link ConfigError} for a size that is not a
   * positive whole number.
   */
  allocate(bytes: number, alignment = ALIGNMENT): Span | undefined {
    this.#check(bytes, alignment);
    return this.#waiters.length > 0 ? undefined : this.#take(bytes, alignment);
  }

  /**
   * A span of `bytes` as soon as there is room; those who came first are served first. Rejects with AbortError when
   * the signal fires before that, and with what {@link allocate} throws. A span that was handed out is the caller's to
   * release, even if the signal fires right after.
   */
  async waitFor(bytes: number, signal?: AbortSignal, alignment = ALIGNMENT): Promise<Span> {
    if (signal?.aborted) throw new AbortError(signal.reason);
    const span = this.allocate(bytes, alignment);
    if (span) return span;
    return new Promise<Span>((resolve, reject) => {
      const onAbort = () => {
        this.#waiters.splice(this.#waiters.indexOf(waiter), 1);
        reject(new AbortError(signal?.reason));
        // The one that left may have been the large one in front of small ones that fit.
        this.#serve();
      };
      const waiter: Waiter = {
        bytes,
        alignment,
        resolve: (found) => {
          signal?.removeEventListener("abort", onAbort);
          resolve(found);
        },
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#waiters.push(waiter);
    });
  }

  #check(bytes: number, alignment: number): void {
    if (!Number.isSafeInteger(bytes) || bytes < 1 || !Number.isSafeInteger(alignment) || alignment < 1) {
      throw new ConfigError(
        `streaming buffer: a span of ${bytes} bytes aligned to ${alignment} is not possible`,
      );
    }
    if (bytes <= this.capacity) return;
    throw new BudgetError(
      `a span of ${formatBytes(bytes)} does not fit into the streaming buffer of ${formatBytes(this.capacity)} on ` +
        `${this.#tier}; the buffer needs ${formatBudget(bytes)} or more: raise max_memory.${this.#tier} by ` +
        formatBytes(bytes - this.capacity),
      { tier: this.#tier, needed: bytes, budget: this.capacity, smallest: bytes },
    );
  }

  #take(bytes: number, alignment: number): Span | undefined {
    const lap = this.#head - (this.#head % this.capacity);
    let offset = Math.ceil((this.#head - lap) / alignment) * alignment;
    let start = lap + offset;
    if (offset + bytes > this.capacity) {
      start = lap + this.capacity;
      offset = 0;
    }
    if (start + bytes - this.#tail > this.capacity) return undefined;
    const held: Held = { start, end: start + bytes, released: false };
    // In an empty arena the gap before the span is nobody's.
    if (this.#held.push(held) === 1) this.#tail = start;
    this.#head = held.end;
    return { offset, bytes, release: () => this.#release(held) };
  }

  #release(held: Held): void {
    if (held.released) return;
    held.released = true;
    while (this.#held[0]?.released) this.#held.shift();
    const oldest = this.#held[0];
    // Empty: starting again at 0 makes room for a span as large as the arena.
    if (!oldest) this.#tail = this.#head = 0;
    else this.#tail = oldest.start;
    if (this.#tail >= this.capacity) this.#forgetLap();
    this.#serve();
  }

  /** Keeps positions small: a ring that is never empty would count past what numbers can hold within weeks. */
  #forgetLap(): void {
    this.#tail -= this.capacity;
    this.#head -= this.capacity;
    for (const held of this.#held) {
      held.start -= this.capacity;
      held.end -= this.capacity;
    }
  }

  #serve(): void {
    for (let next = this.#waiters[0]; next; next = this.#waiters[0]) {
      const span = this.#take(next.bytes, next.alignment);
      if (!span) return;
      this.#waiters.shift();
      next.resolve(span);
    }
  }
}
