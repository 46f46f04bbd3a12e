// The sequence that was computed last, whose keys and values are still in the cache from its first row on.

export class RememberedSequence {
  #ids: readonly number[] = [];
  /** What was added to the weights when it was computed. */
  #adapter: unknown;

  /** Tokens whose rows are there. */
  get length(): number {
    return this.#ids.length;
  }

  keep(ids: readonly number[], adapter: unknown): void {
    this.#ids = ids;
    this.#adapter = adapter;
  }

  /** Only the first rows are there any more. */
  shorten(rows: number): void {
    this.#ids = this.#ids.slice(0, rows);
  }

  forget(): void {
    this.#ids = [];
    this.#adapter = undefined;
  }

  /** Tokens that a prompt begins with as this sequence does; all but its last at most, which has to be computed. */
  commonPrefix(prompt: readonly number[], adapter: unknown): number {
    if (adapter !== this.#adapter) return 0;
    const most = Math.min(this.#ids.length, prompt.length - 1);
    let common = 0;
    while (common < most && this.#ids[common] === prompt[common]) common++;
    return common;
  }
}
