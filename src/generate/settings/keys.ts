// Every key of transformers' GenerationConfig (5.18) and what becomes of it here: one row each. Keys that are honoured have
// a check and a default; the others say when they change nothing, and why they are not done.

/** A key that is honoured. */
export interface HonouredKey {
  /** "drawing": used, and checked, only where tokens are drawn at random. */
  readonly used: "always" | "drawing";
  /** What it is where nobody sets it; undefined means not at all. */
  readonly default?: unknown;
  readonly accepts: (value: unknown) => boolean;
  /** Completes "temperature must be ...". */
  readonly range: string;
}

/** A key that is not done. */
export interface OtherKey {
  /** Whether a value asks for nothing: the reference's default, or one without an effect on the text. */
  readonly harmless: (value: unknown) => boolean;
  readonly why: string;
}

const finite = (v: unknown): v is number => typeof v === "number" && Number.isFinite(v);
const whole = (v: unknown, least = 0): v is number => Number.isSafeInteger(v) && (v as number) >= least;
const between = (low: number, high: number) => (v: unknown) => finite(v) && v >= low && v <= high;
/** A list without holes, which the methods of lists would pass over. */
const list = (v: unknown): v is readonly unknown[] => Array.isArray(v) && Object.keys(v).length >= v.length;
const ids = (v: unknown): boolean => list(v) && v.every((id) => whole(id));
const someIds = (v: unknown): boolean => ids(v) && (v as readonly unknown[]).length > 0;
const flag = (v: unknown): boolean => typeof v === "boolean";

const FROM_ZERO = "a whole number from 0";
const ABOVE_ZERO = "a number above 0";

/** Honoured as the reference does, in its order. */
export const HONOURED = {
  do_sample: { used: "always", default: false, accepts: flag, range: "true or false" },
  temperature: {
    used: "drawing",
    default: 1,
    accepts: (v) => finite(v) && v > 0,
    range: `${ABOVE_ZERO}; for always the best token set do_sample: false (--no-do-sample)`,
  },
  top_h: { used: "drawing", accepts: (v) => finite(v) && v > 0 && v <= 1, range: "above 0 and at most 1" },
  top_k: {
    used: "drawing",
    default: 50,
    accepts: (v) => whole(v),
    range: `${FROM_ZERO} (0: no limit)`,
  },
  top_p: { used: "drawing", default: 1, accepts: between(0, 1), range: "from 0 to 1" },
  min_p: { used: "drawing", default: 0, accepts: between(0, 1), range: "from 0 to 1" },
  typical_p: {
    used: "drawing",
    default: 1,
    accepts: (v) => finite(v) && v > 0,
    range: `${ABOVE_ZERO} (from 1 on: no limit)`,
  },
  // The reference uses a cutoff only between 0 and 1; anything else is none.
  epsilon_cutoff: { used: "drawing", default: 0, accepts: finite, range: "a number (0: none)" },
  eta_cutoff: { used: "drawing", default: 0, accepts: finite, range: "a number (0: none)" },
  repetition_penalty: {
    used: "always",
    accepts: (v) => finite(v) && v > 0,
    range: `${ABOVE_ZERO} (1: none)`,
  },
  encoder_repetition_penalty: {
    used: "always",
    accepts: (v) => finite(v) && v > 0,
    range: `${ABOVE_ZERO} (1: none)`,
  },
  no_repeat_ngram_size: { used: "always", accepts: (v) => whole(v), range: `${FROM_ZERO} (0: none)` },
  encoder_no_repeat_ngram_size: { used: "always", accepts: (v) => whole(v), range: `${FROM_ZERO} (0: none)` },
  sequence_bias: {
    used: "always",
    accepts: (v) =>
      list(v) &&
      v.every(
        (e) => list(e) && e.length === 2 && someIds(e[0]) && typeof e[1] === "number" && !Number.isNaN(e[1]),
      ),
    range: "a list of [token ids, bias], such as [[[5, 6], -10.5]]",
  },
  bad_words_ids: {
    used: "always",
    accepts: (v) => list(v) && v.every(someIds),
    range: "a list of lists of token ids, none of them empty",
  },
  min_length: { used: "always", accepts: (v) => whole(v), range: FROM_ZERO },
  min_new_tokens: { used: "always", accepts: (v) => whole(v), range: FROM_ZERO },
  max_length: { used: "always", accepts: (v) => whole(v, 1), range: "a whole number from 1" },
  max_new_tokens: { used: "always", accepts: (v) => whole(v), range: FROM_ZERO },
  max_time: { used: "always", accepts: (v) => finite(v) && v > 0, range: "seconds, a number above 0" },
  forced_bos_token_id: { used: "always", accepts: (v) => whole(v), range: "a token id" },
  forced_eos_token_id: {
    used: "always",
    accepts: (v) => whole(v) || someIds(v),
    range: "a token id or a list of them",
  },
  remove_invalid_values: { used: "always", accepts: flag, range: "true or false" },
  exponential_decay_length_penalty: {
    used: "always",
    accepts: (v) => list(v) && v.length === 2 && whole(v[0]) && finite(v[1]) && v[1] > 0,
    range: "[token from which it counts, factor], such as [20, 1.05]",
  },
  // -1 and other ids outside the vocabulary stand for none, as older files write them.
  suppress_tokens: {
    used: "always",
    accepts: (v) => list(v) && v.every(Number.isSafeInteger),
    range: "a list of token ids",
  },
  begin_suppress_tokens: {
    used: "always",
    accepts: (v) => list(v) && v.every(Number.isSafeInteger),
    range: "a list of token ids",
  },
  stop_strings: {
    used: "always",
    accepts: (v) => stopString(v) || (list(v) && v.every(stopString)),
    range: "a text or a list of texts, none of them empty",
  },
  // The last step of the reference; it shifts all logits alike, which no choice depends on.
  renormalize_logits: { used: "always", accepts: flag, range: "true or false" },
} as const satisfies Record<string, HonouredKey>;

function stopString(value: unknown): boolean {
  return typeof value === "string" && value !== "";
}

export type HonouredName = keyof typeof HONOURED;

const none = (v: unknown): boolean => v === false || v === 0 || (list(v) && v.length === 0);
const one = (v: unknown): boolean => v === 1;
const always = (): boolean => true;

const ONE_TEXT = "a text is continued in one way here";
const NO_BEAMS = "beam search is not done";
const NO_ASSISTANT = "there is no assistant model";
const IDS_ONLY = "ids are all that is returned";

/** Not done: named once where a file asks for one, refused where a caller does. */
export const NOT_DONE: Readonly<Record<string, OtherKey>> = {
  num_beams: { harmless: one, why: NO_BEAMS },
  num_beam_groups: { harmless: one, why: NO_BEAMS },
  diversity_penalty: { harmless: none, why: NO_BEAMS },
  constraints: { harmless: none, why: NO_BEAMS },
  force_words_ids: { harmless: none, why: NO_BEAMS },
  num_return_sequences: { harmless: one, why: ONE_TEXT },
  penalty_alpha: { harmless: none, why: "contrastive search is not done" },
  dola_layers: { harmless: none, why: "contrasting layers is not done" },
  guidance_scale: { harmless: one, why: "classifier-free guidance is not done" },
  watermarking_config: { harmless: none, why: "watermarks are not made" },
  token_healing: { harmless: none, why: "tokens of the prompt are taken as they are" },
  use_mtp: { harmless: none, why: "heads that guess several tokens are not used" },
  prompt_lookup_num_tokens: { harmless: none, why: "guessing from the prompt is not done" },
  assistant_early_exit: { harmless: none, why: NO_ASSISTANT },
  is_assistant: { harmless: none, why: NO_ASSISTANT },
  speculation_type: { harmless: none, why: NO_ASSISTANT },
  output_attentions: { harmless: none, why: IDS_ONLY },
  output_hidden_states: { harmless: none, why: IDS_ONLY },
  output_scores: { harmless: none, why: `${IDS_ONLY}; forward() gives logits` },
  output_logits: { harmless: none, why: `${IDS_ONLY}; forward() gives logits` },
  return_dict_in_generate: { harmless: none, why: IDS_ONLY },
  decoder_start_token_id: { harmless: always, why: "only models with an encoder have it" },
  // Of beams, of an assistant, or of how the reference runs: without them no text changes.
  ...Object.fromEntries(
    [
      ...["early_stopping", "length_penalty", "low_memory", "use_cache", "cache_implementation"],
      ...["cache_config", "max_cache_len", "prefill_chunk_size", "compile_config", "disable_compile"],
      ...["continuous_batching_config", "num_assistant_tokens", "num_assistant_tokens_schedule"],
      ...["assistant_confidence_threshold", "max_matching_ngram_size", "assistant_lookbehind"],
      ...["target_lookbehind", "assistant_ensemble_weight"],
    ].map((name) => [name, { harmless: always, why: "it changes no text here" }]),
  ),
};

/** What the file says about itself, and ids that generation-config.ts reads. */
export const READ_ELSEWHERE: readonly string[] = [
  ...["bos_token_id", "eos_token_id", "pad_token_id", "seed"],
  ...["transformers_version", "_from_model_config", "_commit_hash"],
];
