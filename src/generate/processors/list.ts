// Logits processors: what changes a row of logits before a token is chosen from it. Names, meanings and order as in
// Hugging Face transformers; each works on one sequence, in place. What only drawing uses is in ../sampling.ts.

import { ConfigError } from "../../base/errors.ts";
import { shown } from "../../base/shown.ts";
import type { GenerationValues } from "../settings/values.ts";
import { exponentialDecay, forced, minLength } from "./lengths.ts";
import { promptPenalty, repetitionPenalty } from "./penalties.ts";
import type { LogitsProcessor } from "./processor.ts";
import { noRepeatNgrams, promptNgrams, sequenceBias } from "./sequences.ts";
import { removeInvalid, suppress } from "./suppress.ts";

/** What processors of one sequence need to know beside their values. */
export interface SequenceContext {
  readonly prompt: readonly number[];
  /** Tokens of prompt and continuation together at most. */
  readonly max_length: number;
  /** Ids that end a text. */
  readonly eos: readonly number[];
  readonly vocab: number;
}

/** The processors that a sequence's settings call for, in the reference's order. Values are checked already. */
export function logitsProcessors(v: GenerationValues, c: SequenceContext): LogitsProcessor[] {
  const list: LogitsProcessor[] = [];
  const start = c.prompt.length;
  const is = (value: number | undefined, neutral: number): value is number =>
    value !== undefined && value !== neutral;
  if (v.sequence_bias) {
    const known = v.sequence_bias.map(
      ([ids, bias]) => [within(ids, c.vocab, "sequence_bias"), bias] as const,
    );
    list.push(sequenceBias(known, c.vocab));
  }
  if (is(v.encoder_repetition_penalty, 1)) list.push(promptPenalty(v.encoder_repetition_penalty, c.prompt));
  if (is(v.repetition_penalty, 1)) list.push(repetitionPenalty(v.repetition_penalty));
  if (is(v.no_repeat_ngram_size, 0)) list.push(noRepeatNgrams(v.no_repeat_ngram_size));
  if (is(v.encoder_no_repeat_ngram_size, 0))
    list.push(promptNgrams(v.encoder_no_repeat_ngram_size, c.prompt));
  if (v.bad_words_ids) {
    // An end token by itself stays possible, or no text could end.
    const words = v.bad_words_ids.filter((ids) => !(ids.length === 1 && c.eos.includes(ids[0] as number)));
    const bias = words.map(
      (ids) => [within(ids, c.vocab, "bad_words_ids"), Number.NEGATIVE_INFINITY] as const,
    );
    list.push(sequenceBias(bias, c.vocab));
  }
  const least = v.min_new_tokens !== undefined ? start + v.min_new_tokens : (v.min_length ?? 0);
  if (least > start && c.eos.length > 0) list.push(minLength(least, c.eos));
  const { forced_bos_token_id: bos, forced_eos_token_id: eos } = v;
  if (bos !== undefined) list.push(forced(1, within([bos], c.vocab, "forced_bos_token_id")));
  if (eos !== undefined) list.push(forced(c.max_length - 1, within(eos, c.vocab, "forced_eos_token_id")));
  if (v.remove_invalid_values) list.push(removeInvalid);
  const decay = v.exponential_decay_length_penalty;
  if (decay) list.push(exponentialDecay(start + decay[0], decay[1], c.eos));
  if (v.suppress_tokens) list.push(suppress(v.suppress_tokens));
  if (v.begin_suppress_tokens) {
    const begin = start > 1 || bos === undefined ? start : start + 1;
    list.push(suppress(v.begin_suppress_tokens, begin));
  }
  return list;
}

/** Ids of an option that must be the model's. */
function within(ids: readonly number[], vocab: number, name: string): readonly number[] {
  const odd = ids.find((id) => id >= vocab);
  if (odd === undefined) return ids;
  throw new ConfigError(`${name}: ${shown(odd)} is not a token of the model's vocabulary of ${vocab}`);
}
