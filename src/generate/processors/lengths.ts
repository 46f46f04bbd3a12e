// What depends on how long a sequence is: no end before, a certain token at, an ever likelier end after some length.
import type { LogitsProcessor } from "./processor.ts";

/** No end token while the sequence has fewer tokens than `least`, prompt included. */
export function minLength(least: number, eos: readonly number[]): LogitsProcessor {
  return (scores, ids) => {
    if (ids.length >= least) return;
    for (const id of eos) if (id < scores.length) scores[id] = Number.NEGATIVE_INFINITY;
  };
}

/** One of `tokens` is the only choice when the sequence has `length` tokens. */
export function forced(length: number, tokens: readonly number[]): LogitsProcessor {
  return (scores, ids) => {
    if (ids.length !== length) return;
    scores.fill(Number.NEGATIVE_INFINITY);
    for (const id of tokens) scores[id] = 0;
  };
}

/** Past `start` tokens an end token's logit grows by its size times (factor ^ tokens since) - 1. */
export function exponentialDecay(start: number, factor: number, eos: readonly number[]): LogitsProcessor {
  return (scores, ids) => {
    if (ids.length <= start) return;
    const growth = Math.fround(factor ** (ids.length - start) - 1);
    for (const id of eos) {
      const logit = scores[id];
      if (logit !== undefined) scores[id] = logit + Math.fround(Math.abs(logit) * growth);
    }
  };
}
