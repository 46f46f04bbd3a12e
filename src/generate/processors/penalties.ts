// Penalties for tokens that have been there. Arithmetic in single precision, as in the reference.
import { GraphError } from "../../base/errors.ts";
import type { LogitsProcessor } from "./processor.ts";

/**
 * Positive logits of tokens of the context are divided by `penalty`, negative ones multiplied, once per distinct token
 * (CTRL, https://arxiv.org/abs/1909.05858).
 */
export function repetitionPenalty(penalty: number): LogitsProcessor {
  const by = Math.fround(penalty);
  const seen = new Set<number>();
  let counted = 0;
  return (scores, ids) => {
    // A sequence only grows, so each token is entered once.
    if (ids.length < counted) {
      seen.clear();
      counted = 0;
    }
    while (counted < ids.length) seen.add(ids[counted++] as number);
    penalise(scores, seen, by);
  };
}

/** The same for the tokens of the prompt with the inverse: above 1, what the prompt says becomes more likely. */
export function promptPenalty(penalty: number, prompt: readonly number[]): LogitsProcessor {
  const tokens = new Set(prompt);
  const by = Math.fround(1 / penalty);
  return (scores) => penalise(scores, tokens, by);
}

function penalise(scores: Float32Array, tokens: ReadonlySet<number>, by: number): void {
  for (const id of tokens) {
    const logit = scores[id];
    if (logit === undefined)
      throw new GraphError(`context holds token ${id}, the vocabulary is 0 to ${scores.length - 1}`);
    scores[id] = logit < 0 ? logit * by : logit / by;
  }
}
