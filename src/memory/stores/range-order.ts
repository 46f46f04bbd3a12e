// Who has to wait for whom: operations on ranges that overlap run in the order of their coming, reads beside each other.
// Knows ranges and promises; what the operations do is their own business.

interface Active {
  readonly from: number;
  readonly to: number;
  readonly writes: boolean;
  /** Never rejects. */
  readonly over: Promise<void>;
}

export class RangeOrder {
  readonly #active = new Set<Active>();
  readonly #granularity: number;

  /** Ranges are widened to multiples of `granularity`: operations that share a block of the disk conflict. */
  constructor(granularity = 1) {
    this.#granularity = granularity;
  }

  /**
   * Runs `task` when the earlier operations it conflicts with are over, whether they succeeded or not. Each waits only
   * for earlier ones, so none waits for ever.
   */
  async run<T>(kind: "read" | "write", from: number, to: number, task: () => Promise<T>): Promise<T> {
    const unit = this.#granularity;
    const wide = { from: Math.floor(from / unit) * unit, to: Math.ceil(to / unit) * unit };
    const writes = kind === "write";
    const earlier: Promise<void>[] = [];
    for (const other of this.#active) {
      const overlap = other.from < wide.to && wide.from < other.to;
      if (overlap && (writes || other.writes)) earlier.push(other.over);
    }
    let finish = () => {};
    const over = new Promise<void>((resolve) => {
      finish = resolve;
    });
    const active: Active = { ...wide, writes, over };
    this.#active.add(active);
    try {
      await Promise.all(earlier);
      return await task();
    } finally {
      this.#active.delete(active);
      finish();
    }
  }

  /** Resolves when the operations of now are over. */
  async idle(): Promise<void> {
    await Promise.all([...this.#active].map((one) => one.over));
  }
}
