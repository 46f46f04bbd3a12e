/**
 * Changes a row in place.
 * @param scores [vocab]
 * @param ids the tokens so far, prompt included
 */
export type LogitsProcessor = (scores: Float32Array, ids: readonly number[]) => void;
