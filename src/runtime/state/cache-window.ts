// What changes in a graph of single new tokens from one step to the next: the cache rows that are written and how many
// are read. Moving them on is much cheaper than building the graph again; the arithmetic is the same.
import { dataOf, setData, setViewRows } from "../../backend/ggml/header-fields.ts";
import type { Tensor } from "../../backend/ggml/tensor.ts";
import { type ChunkPart, visibleRows } from "../step/chunks.ts";

export class CacheWindow {
  readonly #stores: { tensor: Tensor; part: number; start: bigint }[] = [];
  readonly #reads: { view: Tensor; part: number; window: number | undefined; start: bigint }[] = [];

  /** Enters the result of a copy of new keys or values into the cache: [width, 1]. */
  stores(copy: Tensor, part: number, { past }: ChunkPart): void {
    this.#stores.push({ tensor: copy, part, start: dataOf(copy) - BigInt(past * copy.nb[1]) });
  }

  /** Enters a view of all keys or values that a part sees, of the last `window` where there is one: [head_dim, rows, kv_heads]. */
  reads(view: Tensor, part: number, of: ChunkPart, window?: number): void {
    const start = window ? dataOf(view) - BigInt(visibleRows(of, window).first * view.nb[1]) : 0n;
    this.#reads.push({ view, part, window, start });
  }

  /**
   * Makes the graph that of the same sequences with other tokens before the new ones. Only for a graph that is still
   * there and not being computed, whose parts have one token each.
   */
  move(parts: readonly ChunkPart[]): void {
    const past = (part: number) => (parts[part] as ChunkPart).past;
    for (const { tensor, part, start } of this.#stores) {
      setData(tensor, start + BigInt(past(part) * tensor.nb[1]));
    }
    for (const { view, part, window, start } of this.#reads) {
      const { first, count } = visibleRows(parts[part] as ChunkPart, window);
      setViewRows(view, count);
      if (window) setData(view, start + BigInt(first * view.nb[1]));
    }
  }
}
