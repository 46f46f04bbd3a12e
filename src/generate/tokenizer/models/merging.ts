// Byte-pair merging of one word's symbols: the pair of lowest rank first, the leftmost of equals. No vocabulary, no text.
import type { PairTable } from "./pair-table.ts";

/** Up to this many symbols, looking through all of them for each merge is faster than a heap. */
const SHORT = 32;
/** A heap entry is rank * POSITIONS + position, both exact in a double. */
const POSITIONS = 2 ** 31;

/**
 * Merges `count` symbols in place and returns how many are left.
 * @param merges pairs of symbols to rank and merged symbol
 */
export function mergeSymbols(symbols: Int32Array, count: number, merges: PairTable): number {
  if (count < 2) return count;
  return count <= SHORT ? mergeShort(symbols, count, merges) : mergeLong(symbols, count, merges);
}

const shortRanks = new Int32Array(SHORT);
const shortMerged = new Int32Array(SHORT);
const NO_RANK = 0x7fff_ffff;

function mergeShort(symbols: Int32Array, count: number, merges: PairTable): number {
  const ranks = shortRanks;
  const mergedInto = shortMerged;
  const look = (i: number) => {
    const at = merges.find(symbols[i]!, symbols[i + 1]!);
    ranks[i] = at < 0 ? NO_RANK : merges.first(at);
    if (at >= 0) mergedInto[i] = merges.second(at);
  };
  for (let i = 0; i + 1 < count; i++) look(i);
  for (;;) {
    let best = NO_RANK;
    let where = -1;
    for (let i = 0; i + 1 < count; i++) {
      if (ranks[i]! < best) {
        best = ranks[i]!;
        where = i;
      }
    }
    if (where < 0) return count;
    symbols[where] = mergedInto[where]!;
    count--;
    symbols.copyWithin(where + 1, where + 2, count + 1);
    ranks.copyWithin(where + 1, where + 2, count);
    mergedInto.copyWithin(where + 1, where + 2, count);
    if (where + 1 < count) look(where);
    if (where > 0) look(where - 1);
  }
}

function mergeLong(symbols: Int32Array, count: number, merges: PairTable): number {
  const next = new Int32Array(count);
  const previous = new Int32Array(count);
  const heap = new MinHeap(count);
  const push = (i: number) => {
    const at = merges.find(symbols[i]!, symbols[next[i]!]!);
    if (at >= 0) heap.push(merges.first(at) * POSITIONS + i);
  };
  for (let i = 0; i < count; i++) {
    next[i] = i + 1 < count ? i + 1 : -1;
    previous[i] = i - 1;
  }
  for (let i = 0; i + 1 < count; i++) push(i);
  /** A symbol that has become part of the one before it. */
  const gone = -1;
  for (let top = heap.pop(); top >= 0; top = heap.pop()) {
    const rank = Math.floor(top / POSITIONS);
    const i = top - rank * POSITIONS;
    const right = next[i]!;
    if (symbols[i] === gone || right < 0) continue;
    const at = merges.find(symbols[i]!, symbols[right]!);
    // The pair may have changed since it was pushed.
    if (at < 0 || merges.first(at) !== rank) continue;
    symbols[i] = merges.second(at);
    symbols[right] = gone;
    const after = next[right]!;
    next[i] = after;
    if (after >= 0) {
      previous[after] = i;
      push(i);
    }
    if (previous[i]! >= 0) push(previous[i]!);
  }
  let left = 0;
  for (let i = 0; i >= 0; i = next[i]!) symbols[left++] = symbols[i]!;
  return left;
}

/** A binary heap of doubles, the smallest first. Empty gives -1. */
class MinHeap {
  #values: Float64Array;
  #size = 0;

  constructor(capacity: number) {
    this.#values = new Float64Array(capacity + 16);
  }

  push(value: number): void {
    if (this.#size === this.#values.length) {
      const larger = new Float64Array(this.#size * 2);
      larger.set(this.#values);
      this.#values = larger;
    }
    const values = this.#values;
    let i = this.#size++;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (values[parent]! <= value) break;
      values[i] = values[parent]!;
      i = parent;
    }
    values[i] = value;
  }

  pop(): number {
    if (this.#size === 0) return -1;
    const values = this.#values;
    const top = values[0]!;
    const last = values[--this.#size]!;
    const size = this.#size;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= size) break;
      if (child + 1 < size && values[child + 1]! < values[child]!) child++;
      if (values[child]! >= last) break;
      values[i] = values[child]!;
      i = child;
    }
    values[i] = last;
    return top;
  }
}
