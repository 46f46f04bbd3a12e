// Which parts of a range of bytes are free: first fit, neighbours that are given back grow together. Offsets alone; the
// memory belongs to others.

interface Gap {
  start: number;
  end: number;
}

export class FreeList {
  /** In order, none touching the next. */
  readonly #gaps: Gap[] = [];

  /** The start of the first gap of at least `bytes`, which are taken; undefined where there is none. */
  take(bytes: number): number | undefined {
    const index = this.#gaps.findIndex((gap) => gap.end - gap.start >= bytes);
    const gap = this.#gaps[index];
    if (!gap) return undefined;
    const { start } = gap;
    gap.start += bytes;
    if (gap.start === gap.end) this.#gaps.splice(index, 1);
    return start;
  }

  /** Makes [start, end) free, which must not be free already. */
  give(start: number, end: number): void {
    let index = this.#gaps.findIndex((gap) => gap.start > start);
    if (index < 0) index = this.#gaps.length;
    const [before, after] = [this.#gaps[index - 1], this.#gaps[index]];
    const joins = { before: before?.end === start, after: after?.start === end };
    if (joins.before && joins.after) {
      (before as Gap).end = (after as Gap).end;
      this.#gaps.splice(index, 1);
    } else if (joins.before) {
      (before as Gap).end = end;
    } else if (joins.after) {
      (after as Gap).start = start;
    } else {
      this.#gaps.splice(index, 0, { start, end });
    }
  }

  /** Bytes free at the end of a range of `length`. */
  tail(length: number): number {
    const last = this.#gaps.at(-1);
    return last?.end === length ? length - last.start : 0;
  }
}
