// The threads that compute on the CPU: measures runs, asks the choice how many the next one gets, and has them ready. One of
// these belongs to a device; whatever else shares its cores (the optimizer's loop, products of another library) asks it too.
import { ThreadChoice, type ThreadUse, type Work } from "./choice.ts";
import type { ThreadPools } from "./pools.ts";

export interface ThreadOptions {
  /** The most threads; all of them for every run unless `adaptive`. */
  readonly threads: number;
  /** As many as the last runs say, up to `threads`. */
  readonly adaptive?: boolean;
}

/** What is not described is computed with all threads and not measured. */
export type OptionalWork = Work | undefined;

export class CpuThreads {
  readonly #choice: ThreadChoice;
  readonly #pools: ThreadPools | undefined;
  readonly #now: () => number;

  /**
   * `pools`: of the backend whose graphs {@link graph} runs. `now`: milliseconds. A fixed number of threads is started at
   * once. Throws LibraryError where the system refuses them.
   */
  constructor(options: ThreadOptions, pools?: ThreadPools, now: () => number = () => performance.now()) {
    this.#choice = new ThreadChoice(options.threads, { fixed: options.adaptive !== true });
    this.#pools = pools;
    this.#now = now;
    if (this.#choice.fixed) pools?.attach(options.threads);
  }

  /** The most threads that a run gets. */
  get most(): number {
    return this.#choice.most;
  }

  /** Runs a graph of the backend with as many threads as are best for it. Nothing else may run on the backend. */
  async graph<T>(work: OptionalWork, run: (threads: number) => Promise<T>): Promise<T> {
    if (!this.#pools) return run(this.most);
    return this.measured(work, (threads) => {
      this.#pools?.attach(threads);
      return run(threads);
    });
  }

  /**
   * Runs something with the number of threads that is best for it. The time until it resolves is what is measured, so it
   * should not have to wait for its turn. What it rejects with is passed on, and the run not counted.
   */
  async measured<T>(work: OptionalWork, run: (threads: number) => Promise<T>): Promise<T> {
    const threads = this.#next(work);
    if (!work) return run(threads);
    const since = this.#now();
    const result = await run(threads);
    this.#choice.record(work, threads, (this.#now() - since) / 1000);
    return result;
  }

  /** What was used so far, by kind of work. */
  uses(): ThreadUse[] {
    return this.#choice.uses();
  }

  dispose(): void {
    this.#pools?.dispose();
  }

  /** A number that the system gives: where it refuses one, there are fewer to choose from. */
  #next(work: OptionalWork): number {
    for (;;) {
      const threads = work ? this.#choice.next(work) : this.#choice.most;
      if (threads === 1 || this.#choice.fixed || !this.#pools || this.#pools.available(threads))
        return threads;
      this.#choice.refuse(threads);
    }
  }
}
