// The one account of bytes: what Spillway holds on each tier, against its budget. Holds numbers, never memory:
// an allocation is entered here before it is made, so that what does not fit is an error and not a killed process.
import { BudgetError, ConfigError, DisposedError, SpillwayError } from "../base/errors.ts";
import { formatBudget, formatBytes } from "./sizes.ts";
import { TIERS, type Tier } from "./tiers.ts";

/** Bytes entered in a {@link Ledger}. They count until `release`. */
export interface Reservation {
  readonly tier: Tier;
  /** Bytes that count now. */
  readonly bytes: number;
  /** What they are for: "weights", "kv cache", "streaming buffer". */
  readonly what: string;
  /** Gives the bytes back. May be called twice. */
  release(): void;
  /**
   * Changes the amount. Throws {@link BudgetError} if it grows past the budget (and then stays as it was),
   * {@link DisposedError} after `release`.
   */
  resize(bytes: number): void;
  [Symbol.dispose](): void;
}

/** Everything held on one tier under one name. */
export interface LedgerEntry {
  readonly tier: Tier;
  readonly what: string;
  readonly bytes: number;
}

/** How many of the largest entries an error shows. */
const SHOWN = 4;

/** Counts bytes per tier and refuses what does not fit. A tier without a budget is counted but not limited. */
export class Ledger {
  readonly #budget: Record<Tier, number>;
  readonly #used: Record<Tier, number> = { gpu: 0, cpu: 0, disk: 0 };
  readonly #peak: Record<Tier, number> = { gpu: 0, cpu: 0, disk: 0 };
  readonly #live = new Set<Reservation>();

  /** `budgets` in bytes. Throws {@link ConfigError} if one is not a whole number of bytes. */
  constructor(budgets: Partial<Record<Tier, number>> = {}) {
    const unlimited = Number.POSITIVE_INFINITY;
    this.#budget = { gpu: unlimited, cpu: unlimited, disk: unlimited };
    for (const tier of TIERS) {
      const budget = budgets[tier];
      if (budget === undefined || budget === unlimited) continue;
      this.#budget[tier] = wholeBytes(budget, `max_memory.${tier}`);
    }
  }

  /**
   * Enters `bytes` on `tier` for `what`. To be called before the memory is allocated.
   * Throws {@link BudgetError} if they do not fit, and then nothing is entered; its `needed` is `bytes`.
   */
  reserve(tier: Tier, bytes: number, what: string): Reservation {
    wholeBytes(bytes, what);
    this.#check(tier, bytes, what, `needs ${formatBytes(bytes)}`);
    const change = (from: number, to: number) => {
      this.#used[tier] += to - from;
      this.#peak[tier] = Math.max(this.#peak[tier], this.#used[tier]);
    };
    let held = bytes;
    let released = false;
    const reservation: Reservation = {
      tier,
      what,
      get bytes() {
        return held;
      },
      release: () => {
        if (released) return;
        released = true;
        this.#live.delete(reservation);
        change(held, 0);
        held = 0;
      },
      resize: (size) => {
        if (released) throw new DisposedError(`the reservation for ${what}`);
        wholeBytes(size, what);
        const more = size - held;
        if (more > 0) {
          const growth = `grows from ${formatBytes(held)} to ${formatBytes(size)}`;
          this.#check(tier, more, what, growth);
        }
        change(held, size);
        held = size;
      },
      [Symbol.dispose]: () => reservation.release(),
    };
    change(0, bytes);
    this.#live.add(reservation);
    return reservation;
  }

  /** Bytes held on `tier` now. */
  used(tier: Tier): number {
    return this.#used[tier];
  }

  /** The most bytes ever held on `tier` at once. */
  peak(tier: Tier): number {
    return this.#peak[tier];
  }

  /** Bytes that may be held on `tier`; Infinity where there is no limit. */
  budget(tier: Tier): number {
    return this.#budget[tier];
  }

  /** Bytes of the budget of `tier` not held now; Infinity where there is no limit. */
  free(tier: Tier): number {
    return this.#budget[tier] - this.#used[tier];
  }

  /** What is held, one row per tier and name, the largest first. */
  entries(tier?: Tier): LedgerEntry[] {
    const rows = new Map<string, { tier: Tier; what: string; bytes: number }>();
    for (const { tier: on, what, bytes } of this.#live) {
      if (tier !== undefined && on !== tier) continue;
      const row = rows.get(`${on} ${what}`);
      if (row) row.bytes += bytes;
      else rows.set(`${on} ${what}`, { tier: on, what, bytes });
    }
    return [...rows.values()].sort((a, b) => b.bytes - a.bytes);
  }

  /** Throws if anything is still reserved, even zero bytes: for tests of lifetimes. */
  assertEmpty(): void {
    if (this.#live.size === 0) return;
    const rows = this.entries().map((row) => `${row.what} ${formatBytes(row.bytes)} on ${row.tier}`);
    throw new SpillwayError(
      "budget",
      `${this.#live.size} reservations were not released: ${rows.join(", ")}`,
    );
  }

  #check(tier: Tier, more: number, what: string, needs: string): void {
    const short = more - this.free(tier);
    if (short <= 0) return;
    const used = this.used(tier);
    const rows = this.entries(tier).map((row) => `${row.what} ${formatBytes(row.bytes)}`);
    const rest = rows.length > SHOWN ? `, ${rows.length - SHOWN} more` : "";
    const held =
      used === 0 ? "" : ` of which ${formatBytes(used)} in use (${rows.slice(0, SHOWN).join(", ")}${rest})`;
    const next = NEXT_STEP[tier];
    throw new BudgetError(
      `${what} ${needs} on ${tier}, budget ${formatBytes(this.budget(tier))}${held}: short by ${formatBytes(short)}; ` +
        `set max_memory.${tier} to ${formatBudget(used + more)} or more, or ${next}`,
      { tier, needed: more, budget: this.budget(tier), smallest: used + more },
    );
  }
}

/** What helps when a tier is full, other than a larger budget. */
const NEXT_STEP: Record<Tier, string> = {
  gpu: "leave more of the model on cpu or disk, or choose a smaller dtype or a shorter context",
  cpu: "leave more of the model on disk, or choose a smaller dtype or a shorter context",
  disk: "free space in offload_folder, or choose a smaller dtype",
};

function wholeBytes(bytes: number, what: string): number {
  if (Number.isSafeInteger(bytes) && bytes >= 0) return bytes;
  throw new ConfigError(`${what}: ${bytes} is not a whole number of bytes`);
}
