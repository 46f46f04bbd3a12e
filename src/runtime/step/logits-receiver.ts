// Puts together the logits of a pass, which come in blocks of tokens and, from a large head, of rows of the vocabulary.
import { download, downloadNow } from "../../backend/ggml/transfer.ts";
import type { Ledger, Reservation } from "../../memory/ledger.ts";
import { makeLogits, reserveLogits } from "./logits-memory.ts";
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
  /** Whether all blocks of the head are computed in one graph; otherwise a function's rows are kept until the last one. */
  readonly headWhole: boolean;
  /** Whether a larger budget would stay free: for what an error advises. */
  readonly everythingResident: boolean;
}

export class LogitsReceiver {
  readonly #p: ReceiverParts;
  readonly #pass: PassLogits;
  /** Rows that are not complete yet: f32 [wanted, vocab]. */
  #held: { rows: Float32Array; entry: Reservation } | undefined;
  /** One token's on their way to a function: f32 [vocab]. */
  #row: Float32Array | undefined;

  /** Throws BudgetError where rows have to be kept and there is no room for them. */
  constructor(parts: ReceiverParts, pass: PassLogits) {
    this.#p = parts;
    this.#pass = pass;
    const { vocab, ledger, headWhole, everythingResident } = parts;
    if (headWhole || typeof pass.sink !== "function" || pass.wanted.length === 0) return;
    const entry = reserveLogits(ledger, pass.wanted.length, vocab, everythingResident);
    try {
      this.#held = { rows: makeLogits(pass.wanted.length * vocab), entry };
    } catch (error) {
      entry.release();
      throw error;
    }
  }

  /** Takes the logits of a selection of the wanted tokens, as a graph gave them. */
  async receive(results: readonly HeadResult[], { first, count }: Selection): Promise<void> {
    const { wanted, start, sink } = this.#pass;
    const { vocab } = this.#p;
    if (this.#held) return void this.#rowByRow(results, this.#held.rows, first, count);
    if (typeof sink === "function") {
      this.#row ??= new Float32Array(vocab);
      for (let i = 0; i < count; i++) {
        this.#gather(results, i, this.#row);
        sink(start + (wanted[first + i] as number), this.#row);
      }
      return;
    }
    const from = start + (wanted[first] as number); // every token is wanted: they lie side by side there too
    const [only] = results;
    if (only && only.logits.ne[0] === vocab) {
      const into = sink.subarray(from * vocab, (from + count) * vocab);
      await download(into, only.logits, 0, into.byteLength);
    } else this.#rowByRow(results, sink, from, count);
  }

  #rowByRow(results: readonly HeadResult[], into: Float32Array, from: number, count: number): void {
    const { vocab } = this.#p;
    for (let i = 0; i < count; i++) {
      this.#gather(results, i, into.subarray((from + i) * vocab, (from + i + 1) * vocab));
    }
  }

  /** Token i of the results into its row [vocab]: as much of it as they are of. */
  #gather(results: readonly HeadResult[], i: number, row: Float32Array): void {
    for (const { logits, first } of results) {
      const [count] = logits.ne;
      downloadNow(row.subarray(first, first + count), logits, i * count * 4);
    }
  }

  /** Gives away what was kept: every block has been received. */
  finish(): void {
    const { wanted, start, sink } = this.#pass;
    if (!this.#held || typeof sink !== "function") return;
    const { vocab } = this.#p;
    for (const [i, token] of wanted.entries())
      sink(start + token, this.#held.rows.subarray(i * vocab, (i + 1) * vocab));
  }

  /** Safe to call twice. */
  dispose(): void {
    this.#held?.entry.release();
    this.#held = undefined;
  }
}
