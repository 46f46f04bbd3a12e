// Work that must not overlap.

/** Runs tasks one after another, in the order they were asked for. A failure concerns only whoever asked. */
export class OneByOne {
  #last: Promise<unknown> = Promise.resolve();

  run<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#last.then(task);
    this.#last = result.catch(() => {});
    return result;
  }

  /** Resolves when all that was asked for has ended. */
  async idle(): Promise<void> {
    await this.#last;
  }
}
