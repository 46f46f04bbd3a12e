// What one optimizer step is given: sequences in micro-batches, and how many targets they have together.

import type { Cursor } from "./cursor.ts";
import { countTargets } from "./example.ts";
import type { Sequence } from "./pack.ts";

/** Sequences that go through the model together. Rows differ in length; nothing is padded. */
export interface MicroBatch {
  /** [sequences][tokens], like the others. */
  readonly input_ids: number[][];
  /** Not shifted; -100 where no loss is computed. */
  readonly labels: number[][];
  /** From 0 in each document. */
  readonly positions: number[][];
  /** Tokens attend only to those of the same document of their sequence. */
  readonly document_ids: number[][];
  /** [sequences][documents] Tokens of each document. */
  readonly lengths: number[][];
  /** Labels that are learned from. */
  readonly target_tokens: number;
}

/** One optimizer step: the gradients of its micro-batches are added up. */
export interface Batch {
  readonly micro_batches: readonly MicroBatch[];
  /**
   * Labels that are learned from, in all micro-batches. The loss of the step is the sum over all of them divided by this:
   * means of micro-batches would weigh a token by how few others happen to be with it.
   */
  readonly target_tokens: number;
  /** Tokens in all micro-batches. */
  readonly tokens: number;
  readonly epoch: number;
  /** Number of this batch, from 0, through all epochs. */
  readonly index: number;
  /** Where the next batch begins. */
  readonly cursor: Cursor;
}

export function microBatchOf(sequences: readonly Sequence[]): MicroBatch {
  return {
    input_ids: sequences.map((s) => s.input_ids),
    labels: sequences.map((s) => s.labels),
    positions: sequences.map((s) => s.positions),
    document_ids: sequences.map((s) => s.document_ids),
    lengths: sequences.map((s) => s.lengths),
    target_tokens: sequences.reduce((sum, { labels }) => sum + countTargets(labels), 0),
  };
}

/** Cuts the sequences of a step into micro-batches of `size`; the last may have fewer. */
export function batchOf(
  sequences: readonly Sequence[],
  size: number,
  at: Pick<Batch, "epoch" | "index" | "cursor">,
): Batch {
  const micro_batches: MicroBatch[] = [];
  for (let i = 0; i < sequences.length; i += size)
    micro_batches.push(microBatchOf(sequences.slice(i, i + size)));
  return {
    micro_batches,
    target_tokens: micro_batches.reduce((sum, { target_tokens }) => sum + target_tokens, 0),
    tokens: sequences.reduce((sum, { input_ids }) => sum + input_ids.length, 0),
    ...at,
  };
}
