// Gives the sequences of a call their rows of the KV cache, and more as they grow: the planned context is a start, the
// model's positions and the memory budget are the ends. Only places change, never what is computed.
import { BudgetError, LibraryError } from "../base/errors.ts";
import type { Engine } from "../runtime/engine.ts";

/** A sequence as far as the cache goes. */
export interface CachedSequence {
  /** First row; changed when the cache is laid out anew. */
  base: number;
  /** Rows from there on that it may fill; changed likewise. */
  rows: number;
  /** Rows filled. */
  readonly past: number;
  /** The most rows it can ever fill. */
  readonly most: number;
}

/** Rows added at once at least, for each sequence, where there is room: laying out anew copies all rows. */
const SMALLEST_GROWTH = 64;

/** Rows that a sequence should have at least when it starts with so many tokens, for a few more to come. */
export function startingRows(tokens: number): number {
  return tokens + SMALLEST_GROWTH;
}

/**
 * Lays out sequences that have filled nothing yet, or one that goes on from the first row; `needed` rows each for their prompts. They get all they can ever fill
 * where that fits in the planned cache, else equal shares of what the prompts leave.
 * Throws BudgetError where the prompts alone do not fit in the budget.
 */
export async function openRows(
  engine: Engine,
  sequences: readonly CachedSequence[],
  needed: readonly number[],
): Promise<void> {
  const prompts = needed.reduce((sum, rows) => sum + rows, 0);
  const most = sequences.reduce((sum, s) => sum + s.most, 0);
  if (prompts > engine.capacity) {
    // More than the prompts only where their own passes have room beside it.
    const roomy = Math.min(most, prompts + sequences.length * SMALLEST_GROWTH);
    const wanted = roomy <= engine.largestCapacity ? roomy : prompts;
    const [only] = sequences;
    const movable = Math.min(wanted, engine.largestMove);
    const keep = only && only.past > 0 && movable >= prompts;
    if (!keep || !tryMove(engine, movable, only.past)) await engine.ensureCapacity(wanted);
  }
  share(sequences, needed, engine.capacity);
}

/** Makes the cache as large, keeping its first rows; false where the system refused memory, and the rows are gone. */
function tryMove(engine: Engine, capacity: number, rows: number): boolean {
  try {
    engine.moveRows(capacity, [{ from: 0, to: 0, rows }]);
    return true;
  } catch (error) {
    if (error instanceof BudgetError || error instanceof LibraryError) return false;
    throw error;
  }
}

/**
 * Sees to it that each of `live` can fill one more row, and returns those that cannot: there is no memory for them within
 * the budget. The rows of sequences that are not in `live` any more are used again.
 */
export function provideRows<T extends CachedSequence>(engine: Engine, live: readonly T[]): T[] {
  const ended: T[] = [];
  let going = [...live];
  while (going.some((s) => s.past >= s.rows)) {
    const outcome = grow(engine, going);
    if (outcome === "grown") break;
    if (outcome === "lost") return [...live];
    // The longest gives up its rows for the others.
    const longest = going.reduce((a, b) => (b.past > a.past ? b : a));
    ended.push(longest);
    going = going.filter((s) => s !== longest);
  }
  return ended;
}

/**
 * Lays the cache out anew for `live` alone, half as large again where that is possible. "full": there is not one row more
 * for each. "lost": the system refused memory that the budget has, and all rows are gone.
 */
function grow(engine: Engine, live: readonly CachedSequence[]): "grown" | "full" | "lost" {
  const least = live.reduce((sum, s) => sum + s.past + 1, 0);
  const wanted = live.reduce(
    (sum, s) => sum + Math.min(s.most, s.past + Math.max(SMALLEST_GROWTH, Math.ceil(s.past / 2))),
    0,
  );
  const enough = least + live.length * SMALLEST_GROWTH;
  // The prompts have been read: the room their inputs took is free for rows.
  if (engine.largestMove < enough) engine.trimInputs(live.length);
  const largest = engine.largestMove;
  if (largest < least) return "full";
  // Half of what is free is left to whatever else the call may need, until there is hardly anything.
  const modest = engine.capacity + Math.floor((largest - engine.capacity) / 2);
  const capacity = Math.min(Math.max(wanted, engine.capacity), modest >= enough ? modest : largest);
  const kept = live.map((s) => ({ from: s.base, rows: s.past }));
  share(
    live,
    live.map((s) => s.past + 1),
    capacity,
  );
  try {
    engine.moveRows(
      capacity,
      live.map((s, i) => ({ ...(kept[i] as (typeof kept)[number]), to: s.base })),
    );
  } catch (error) {
    if (error instanceof BudgetError || error instanceof LibraryError) return "lost";
    throw error;
  }
  return "grown";
}

/** One after another: what each needs, and equal shares of the rest as far as it can use them. */
export function share(
  sequences: readonly CachedSequence[],
  needed: readonly number[],
  capacity: number,
): void {
  let spare = capacity - needed.reduce((sum, rows) => sum + rows, 0);
  const byHunger = sequences
    .map((sequence, i) => ({ sequence, needed: needed[i] as number }))
    .sort((a, b) => a.sequence.most - a.needed - (b.sequence.most - b.needed));
  for (const [i, { sequence, needed: own }] of byHunger.entries()) {
    const more = Math.min(sequence.most - own, Math.floor(spare / (byHunger.length - i)));
    sequence.rows = own + more;
    spare -= more;
  }
  let base = 0;
  for (const sequence of sequences) {
    sequence.base = base;
    base += sequence.rows;
  }
}
