// In which order an epoch goes through the rows, and which rows are kept for validation. Both are computed from the seed
// and the row's number, not stored, so that any position of any epoch is found again at once.
import { ConfigError } from "../../base/errors.ts";
import { GROUP_CACHE_BYTES } from "./files/parquet.ts";
import { numbered, type RowGroup } from "./files/row-file.ts";

/** 32 bits that depend on every bit of every word: MurmurHash3's mixing and finalizer. Words are 0 to 2^53 - 1. */
export function hash32(...words: readonly number[]): number {
  let h = 0x9747b28c;
  for (const word of words) {
    for (const half of [word >>> 0, Math.floor(word / 2 ** 32)]) {
      let k = Math.imul(half, 0xcc9e2d51);
      k = Math.imul((k << 15) | (k >>> 17), 0x1b873593);
      h ^= k;
      h = (Math.imul((h << 13) | (h >>> 19), 5) + 0xe6546b64) | 0;
    }
  }
  return finalize(h ^ words.length);
}

function finalize(value: number): number {
  let h = value;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** Separates the uses of one seed. */
const PURPOSE = { rows: 1, groups: 2, window: 3, validation: 4 } as const;
const ROUNDS = 8;

/**
 * A permutation of 0 .. size - 1 in constant memory: a Feistel network over the next power of four, walked along its
 * cycle until it is back among the numbers (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
 */
export class Permutation {
  readonly size: number;
  readonly #halfBits: number;
  readonly #keys: readonly number[];

  /** @param size up to 2^52 @param key words that choose the permutation */
  constructor(size: number, key: readonly number[]) {
    this.size = size;
    let bits = 1;
    while (4 ** bits < size) bits++;
    this.#halfBits = bits;
    this.#keys = Array.from({ length: ROUNDS }, (_, round) => hash32(...key, round));
  }

  /** The number at `index`, which must be in range. */
  at(index: number): number {
    const half = 2 ** this.#halfBits;
    let value = index;
    do {
      let left = Math.floor(value / half);
      let right = value % half;
      for (const key of this.#keys) {
        const mixed = finalize(finalize(right ^ key) ^ Math.imul(key, 0x9e3779b1)) >>> (32 - this.#halfBits);
        [left, right] = [right, left ^ mixed];
      }
      value = left * half + right;
    } while (value >= this.size);
    return value;
  }
}

export interface OrderOptions {
  readonly rows: number;
  readonly groups: readonly RowGroup[] | undefined;
  readonly seed: number;
  readonly shuffle: boolean;
}

/** The row at a position, 0 .. rows - 1, of one epoch. */
export type Order = (position: number) => number;

/**
 * The order of an epoch: as in the files, or a permutation of its own for each epoch.
 *
 * Where rows come in groups that must be decoded together, the groups are permuted, cut into windows of as many as are
 * kept decoded (64 MiB), and the rows of each window permuted: each group is then decoded once an epoch.
 */
export function epochOrder({ rows, groups, seed, shuffle }: OrderOptions, epoch: number): Order {
  if (!shuffle) return (position) => position;
  if (groups === undefined) {
    const permutation = new Permutation(rows, [PURPOSE.rows, seed, epoch]);
    return (position) => permutation.at(position);
  }
  return windowedOrder(groups, seed, epoch);
}

interface Window {
  /** Position of the window's first row. */
  readonly start: number;
  rows: number;
  bytes: number;
  readonly groups: { readonly firstRow: number; readonly rows: number }[];
}

function windowedOrder(groups: readonly RowGroup[], seed: number, epoch: number): Order {
  const firstRows = numbered(groups).starts;
  const permutation = new Permutation(groups.length, [PURPOSE.groups, seed, epoch]);
  const windows: Window[] = [];
  for (let i = 0; i < groups.length; i++) {
    const group = permutation.at(i);
    const { rows, bytes } = groups[group]!;
    let window = windows.at(-1);
    if (window === undefined || window.bytes + bytes > GROUP_CACHE_BYTES) {
      window = {
        start: window === undefined ? 0 : window.start + window.rows,
        rows: 0,
        bytes: 0,
        groups: [],
      };
      windows.push(window);
    }
    window.groups.push({ firstRow: firstRows[group]!, rows });
    window.rows += rows;
    window.bytes += bytes;
  }
  let current = -1;
  let within = new Permutation(1, [0]);
  return (position) => {
    // A window whose groups are all empty has no positions; the last that starts here is the one with rows.
    const at = windows.findLastIndex(({ start }) => start <= position);
    const window = windows[at]!;
    if (at !== current) {
      current = at;
      within = new Permutation(window.rows, [PURPOSE.window, seed, epoch, at]);
    }
    let rest = within.at(position - window.start);
    for (const { firstRow, rows } of window.groups) {
      if (rest < rows) return firstRow + rest;
      rest -= rows;
    }
    throw new RangeError(`position ${position} is past the rows`);
  };
}

/** Whether a row is kept for validation. */
export type Membership = (row: number) => boolean;

/**
 * Chooses the rows kept for validation by a hash of seed and row number. `size` below 1 is a share: a row's side then
 * stays the same when rows are added at the end. A whole number is a count: the rows with the smallest hashes.
 * Throws ConfigError for a size that is neither, or that leaves nothing to train on.
 */
export function validationSplit(rows: number, size: number, seed: number): Membership {
  if (!(size >= 0) || (size >= 1 && !Number.isSafeInteger(size))) {
    throw new ConfigError(`validation_size is ${size}, expected a share below 1 or a number of rows`);
  }
  if (size >= rows && size >= 1) {
    throw new ConfigError(
      `validation_size is ${size} and there are ${rows} rows: none would be left to train on`,
    );
  }
  if (size === 0) return () => false;
  const hash = (row: number) => hash32(PURPOSE.validation, seed, row);
  if (size < 1) {
    const below = size * 2 ** 32;
    return (row) => hash(row) < below;
  }
  const { threshold, lastRow } = smallest(rows, size, hash);
  return (row) => {
    const h = hash(row);
    return h < threshold || (h === threshold && row <= lastRow);
  };
}

/** The hash of the `count`th smallest of all rows, and the last row that counts among equals. Memory does not depend on either. */
function smallest(
  rows: number,
  count: number,
  hash: (row: number) => number,
): { threshold: number; lastRow: number } {
  // Two passes narrow 32 bits to 16 and then to one value; a third settles ties.
  let prefix = 0;
  let below = 0;
  for (const pass of [0, 1]) {
    const bins = new Float64Array(2 ** 16);
    for (let row = 0; row < rows; row++) {
      const h = hash(row);
      if (pass === 0) bins[h >>> 16]!++;
      else if (h >>> 16 === prefix) bins[h & 0xffff]!++;
    }
    let bin = 0;
    while (below + bins[bin]! < count) below += bins[bin++]!;
    prefix = pass === 0 ? bin : prefix * 2 ** 16 + bin;
  }
  let left = count - below;
  for (let row = 0; row < rows; row++) {
    if (hash(row) === prefix && --left === 0) return { threshold: prefix, lastRow: row };
  }
  throw new RangeError(`${count} of ${rows} rows cannot be chosen`);
}
