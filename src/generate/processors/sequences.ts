// What depends on the tokens just before: biases and bans of whole sequences, and n-grams that may not come again.
import type { LogitsProcessor } from "./processor.ts";

/** Adds a bias to the token that would complete a sequence; minus infinity bans it. Sequences are not empty. */
export function sequenceBias(
  biases: readonly (readonly [readonly number[], number])[],
  vocab: number,
): LogitsProcessor {
  // A sequence given twice has its last bias, as keys of a dictionary do.
  const distinct = new Map(biases.map(([ids, bias]) => [ids.join(), { ids, bias: Math.fround(bias) }]));
  const single = new Float32Array(vocab);
  const longer: { ids: readonly number[]; bias: number }[] = [];
  for (const entry of distinct.values()) {
    if (entry.ids.length === 1) single[entry.ids[0] as number] = entry.bias;
    else longer.push(entry);
  }
  const sum = new Float32Array(vocab);
  return (scores, context) => {
    sum.set(single);
    for (const { ids, bias } of longer) {
      const last = ids.length - 1;
      if (last > context.length || !endsWith(context, ids, last)) continue;
      sum[ids[last] as number] = (sum[ids[last] as number] as number) + bias;
    }
    for (let id = 0; id < scores.length; id++) scores[id] = (scores[id] as number) + (sum[id] as number);
  };
}

/** Whether `context` ends with the first `count` of `ids`. */
function endsWith(context: readonly number[], ids: readonly number[], count: number): boolean {
  for (let i = 0; i < count; i++) if (context[context.length - count + i] !== ids[i]) return false;
  return true;
}

/** No n-gram of the sequence, prompt included, comes a second time. */
export function noRepeatNgrams(size: number): LogitsProcessor {
  return (scores, ids) => ban(scores, ids, ids, size);
}

/** No n-gram of the prompt comes in what follows. */
export function promptNgrams(size: number, prompt: readonly number[]): LogitsProcessor {
  return (scores, ids) => ban(scores, prompt, ids, size);
}

/** Bans tokens that would complete an n-gram of `said` after the last n - 1 tokens of `ids`. */
function ban(scores: Float32Array, said: readonly number[], ids: readonly number[], size: number): void {
  const before = size - 1;
  if (ids.length < before) return;
  for (let end = before; end < said.length; end++) {
    let same = true;
    for (let i = 1; i <= before && same; i++) same = said[end - i] === ids[ids.length - i];
    if (same) scores[said[end] as number] = Number.NEGATIVE_INFINITY;
  }
}
