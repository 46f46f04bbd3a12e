// A row as the model learns it: token ids, and for each the label to predict or IGNORE_INDEX.

/** The label of a token that no loss is computed for, as in torch and transformers. */
export const IGNORE_INDEX = -100;

/**
 * Labels are not shifted: label i belongs to token i and the model predicts it from token i - 1. The first token of a
 * document is therefore never predicted, and its label is always {@link IGNORE_INDEX}.
 */
export interface Example {
  readonly input_ids: number[];
  readonly labels: number[];
}

/** An example of which the tokens in `learned` ranges [from, to) have labels. */
export function exampleOf(
  input_ids: number[],
  learned: readonly (readonly [from: number, to: number])[],
): Example {
  const labels = new Array<number>(input_ids.length).fill(IGNORE_INDEX);
  for (const [from, to] of learned) {
    for (let i = Math.max(1, from); i < to; i++) labels[i] = input_ids[i]!;
  }
  return { input_ids, labels };
}

/** Labels that are learned from, among those in [from, to). */
export function countTargets(labels: readonly number[], from = 0, to = labels.length): number {
  let count = 0;
  for (let i = from; i < to; i++) if (labels[i] !== IGNORE_INDEX) count++;
  return count;
}
