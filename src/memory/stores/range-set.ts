// Ranges of whole numbers as a sorted list of disjoint pieces: what is free in a file, what is lost in a region.

export interface Range {
  readonly from: number;
  /** Exclusive. */
  readonly to: number;
}

export class RangeSet {
  #pieces: Range[] = [];

  /** In ascending order, neither touching nor overlapping. */
  get pieces(): readonly Range[] {
    return this.#pieces;
  }

  /** Numbers in the set. */
  get total(): number {
    return this.#pieces.reduce((sum, { from, to }) => sum + to - from, 0);
  }

  /** Pieces that touch become one. */
  add(from: number, to: number): void {
    if (to <= from) return;
    let merged = { from, to };
    const apart = this.#pieces.filter((piece) => {
      if (piece.to < merged.from || piece.from > merged.to) return true;
      merged = { from: Math.min(piece.from, merged.from), to: Math.max(piece.to, merged.to) };
      return false;
    });
    const at = apart.findIndex((piece) => piece.from > merged.from);
    apart.splice(at < 0 ? apart.length : at, 0, merged);
    this.#pieces = apart;
  }

  remove(from: number, to: number): void {
    if (to <= from) return;
    this.#pieces = this.#pieces.flatMap((piece) =>
      [
        { from: piece.from, to: Math.min(piece.to, from) },
        { from: Math.max(piece.from, to), to: piece.to },
      ].filter((rest) => rest.from < rest.to),
    );
  }

  overlaps(from: number, to: number): boolean {
    return from < to && this.#pieces.some((piece) => piece.from < to && from < piece.to);
  }

  /** The start of the smallest piece of at least `length`, the first of several. */
  bestFit(length: number): number | undefined {
    let best: Range | undefined;
    for (const piece of this.#pieces) {
      const size = piece.to - piece.from;
      if (size >= length && (!best || size < best.to - best.from)) best = piece;
    }
    return best?.from;
  }
}
