// What has to be undone, in the reverse order of doing it. Knows nothing of what it undoes.

/** Steps that undo what was done, run once, last first. */
export class Cleanup {
  readonly #steps: (() => void | Promise<void>)[] = [];
  add(step: () => void | Promise<void>): void {
    this.#steps.push(step);
  }
  async run(): Promise<void> {
    for (let step = this.#steps.pop(); step; step = this.#steps.pop()) await step();
  }
}
