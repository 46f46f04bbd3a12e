// Tokens that are never chosen, or not as the first new one, and values that are no numbers.
import type { LogitsProcessor } from "./processor.ts";

/** The largest finite number of single precision. */
const LARGEST = Math.fround(3.4028234663852886e38);

/** Bans tokens: always, or only while the sequence has `length` tokens. Ids outside the vocabulary stand for none. */
export function suppress(tokens: readonly number[], length?: number): LogitsProcessor {
  return (scores, ids) => {
    if (length !== undefined && ids.length !== length) return;
    for (const id of tokens) if (id >= 0 && id < scores.length) scores[id] = Number.NEGATIVE_INFINITY;
  };
}

/** NaN becomes 0, infinities the largest numbers there are. */
export const removeInvalid: LogitsProcessor = (scores) => {
  for (let id = 0; id < scores.length; id++) {
    const score = scores[id] as number;
    if (Number.isNaN(score)) scores[id] = 0;
    else if (score === Number.POSITIVE_INFINITY) scores[id] = LARGEST;
    else if (score === Number.NEGATIVE_INFINITY) scores[id] = -LARGEST;
  }
};
