// Puts together the logits of a pass, which come in blocks of tokens and, from a large head, of rows of the vocabulary.
import type { Device } from "../../backend/ggml/device.ts";
import { downloadRows } from "../../backend/ggml/transfer.ts";
import type { Ledger } from "../../memory/ledger.ts";
import { enterLogits, type LogitsMemory, type LogitsRows } from "./logits-memory.ts";
import type { HeadResult, Selection } from "./stage-graph.ts";

/**
 * Where logits go: into memory for those of every token, f32 [tokens, vocab], sequences one after another; or to a function
 * that gets one token's at a time: its index in the call and f32 [vocab], which is good during that call alone.
 */
export type LogitsSink = Float32Array | ((token: number, logits: Float32Array) => void);

/** The logits of one pass. */
export interface PassLogits {
  /** Indices within the pass of the tokens whose logits are wanted, ascending. */
  readonly wanted: Int32Array;
  /** Index of the pass's first token in the call. */
  readonly start: number;
  readonly sink: LogitsSink;
}

export interface ReceiverParts {
  readonly vocab: number;
  readonly ledger: Ledger;
  /** RAM for those on their way to a function. */
  readonly memory: LogitsMemory;
  /** Whether all blocks of the head are computed in one graph; otherwise a function's rows are kept until the last one. */
  readonly headWhole: boolean;
  /** Whether a larger budget would stay free: for what an error advises. */
  readonly everythingResident: boolean;
}

export class LogitsReceiver {
  readonly #p: ReceiverParts;
  readonly #pass: PassLogits;
  /** Rows that are not complete yet: f32 [wanted, vocab]. */
  #held: LogitsRows | undefined;

  /** Throws BudgetError where rows have to be kept and there is no room for them. */
  constructor(parts: ReceiverParts, pass: PassLogits) {
    this.#p = parts;
    this.#pass = pass;
    const { vocab, ledger, headWhole, everythingResident } = parts;
    if (headWhole || typeof pass.sink !== "function" || pass.wanted.length === 0) return;
    this.#held = enterLogits(ledger, pass.wanted.length, vocab, everythingResident);
  }

  /** Takes the logits of a selection of the wanted tokens, as a graph of the device gave them. */
  async receive(device: Device, results: readonly HeadResult[], { first, count }: Selection): Promise<void> {
    const { wanted, start, sink } = this.#pass;
    if (this.#held) return this.#copy(device, results, 0, count, this.#held.rows, first);
    if (typeof sink !== "function") {
      // Every token is wanted: they lie side by side there too.
      return this.#copy(device, results, 0, count, sink, start + (wanted[first] as number));
    }
    const memory = this.#p.memory.take(count);
    try {
      for (let from = 0; from < count; from += memory.count) {
        const some = Math.min(memory.count, count - from);
        await this.#copy(device, results, from, some, memory.rows, 0);
        this.#give(memory.rows, first + from, some);
      }
    } finally {
      memory.release();
    }
  }

  /** Rows of the results to row `at` and on of `into`: of each as much of the vocabulary as it is of, in one transfer. */
  async #copy(
    device: Device,
    results: readonly HeadResult[],
    from: number,
    count: number,
    into: Float32Array,
    at: number,
  ): Promise<void> {
    const { vocab } = this.#p;
    for (const { logits, first } of results)
      await downloadRows(device, into, logits, { first: from, count, at: at * vocab + first, stride: vocab });
  }

  /** Gives a function the first rows, which are those of the wanted tokens from `first` on. */
  #give(rows: Float32Array, first: number, count: number): void {
    const { wanted, start, sink } = this.#pass;
    const { vocab } = this.#p;
    if (typeof sink !== "function") return;
    for (let i = 0; i < count; i++)
      sink(start + (wanted[first + i] as number), rows.subarray(i * vocab, (i + 1) * vocab));
  }

  /** Gives away what was kept: every block has been received. */
  finish(): void {
    if (this.#held) this.#give(this.#held.rows, 0, this.#pass.wanted.length);
  }

  /** Safe to call twice. */
  dispose(): void {
    this.#held?.release();
    this.#held = undefined;
  }
}
