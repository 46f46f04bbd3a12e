// Where a step's time went that nothing was computed in: seconds waited for each resource.

export interface StallSeconds {
  disk: number;
  copy: number;
  optimizer: number;
}

export class Stalls {
  #seconds: StallSeconds = { disk: 0, copy: 0, optimizer: 0 };

  /** Counts the time until `work` settles as waiting for `what`. */
  async during<T>(what: keyof StallSeconds, work: Promise<T>): Promise<T> {
    const from = performance.now();
    try {
      return await work;
    } finally {
      this.#seconds[what] += (performance.now() - from) / 1000;
    }
  }

  /** Seconds since the last call. */
  take(): StallSeconds {
    const seconds = this.#seconds;
    this.#seconds = { disk: 0, copy: 0, optimizer: 0 };
    return seconds;
  }
}
