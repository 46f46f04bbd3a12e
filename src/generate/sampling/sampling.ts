// Chooses the next token from a row of logits, with the options, meanings and order of Hugging Face transformers.
// Pure arithmetic on one row: no model, no tokenizer, no stopping. Options are checked in settings/values.ts.
import { ConfigError } from "../../base/errors.ts";
import type { LogitsProcessor } from "../processors/processor.ts";
import { Candidates, TOP_H_TOKENS } from "./candidates.ts";
import { argmax } from "./logits.ts";
import { Xoshiro128 } from "./random.ts";

/** How the next token is chosen. Names and meanings as in transformers' GenerationConfig. */
export interface SamplingOptions {
  /** Draw at random (true) or take the best token (false). */
  readonly do_sample: boolean;
  /** Logits are divided by it. Default 1. */
  readonly temperature?: number;
  /** Of the 100 best only as many as make up this share of their entropy (arXiv:2509.02510). Default: no limit. */
  readonly top_h?: number;
  /** Only tokens with one of the k largest logits (all that tie with the k-th). Default 50; 0: no limit. */
  readonly top_k?: number;
  /** Only the smallest set of best tokens whose probabilities reach this sum. Default 1: no limit. */
  readonly top_p?: number;
  /** Only tokens at least this times as probable as the best one. Default 0: no limit. */
  readonly min_p?: number;
  /** Only the tokens of most typical surprise whose probabilities reach this sum. Default 1: no limit. */
  readonly typical_p?: number;
  /** Only tokens at least this probable. Default 0: no limit. */
  readonly epsilon_cutoff?: number;
  /** The same, less strict where many tokens are about as probable. Default 0: no limit. */
  readonly eta_cutoff?: number;
  /** Same seed, same logits: same tokens, on every platform. By default a fresh one. */
  readonly seed?: number;
}

/**
 * What choosing a token takes, as long as the vocabulary; nothing in it lasts beyond that. For many samplers. 28 bytes a
 * token of the vocabulary: see runtime/logits-memory.ts.
 */
export class SamplingScratch {
  /** Logits as the processors leave them [vocab]. */
  scores = new Float32Array(0);
  readonly candidates = new Candidates();
}

/**
 * Chooses tokens for one sequence: processors, then temperature, top_h, top_k, top_p, min_p, typical_p, epsilon_cutoff,
 * eta_cutoff, then one draw.
 */
export class Sampler {
  readonly #options: Readonly<SamplingOptions>;
  readonly #processors: readonly LogitsProcessor[];
  readonly #random: Xoshiro128 | undefined;
  readonly #scratch: SamplingScratch;

  /** `options` within their ranges. `scratch`: may be that of other samplers, which are not used at the same time. */
  constructor(
    options: SamplingOptions,
    processors: readonly LogitsProcessor[] = [],
    scratch = new SamplingScratch(),
  ) {
    this.#scratch = scratch;
    this.#options = options;
    this.#processors = processors;
    if (options.do_sample)
      this.#random = new Xoshiro128(
        options.seed ?? (crypto.getRandomValues(new Uint32Array(1))[0] as number),
      );
  }

  /**
   * The next token's id.
   * @param logits [vocab], not modified; -Infinity forbids a token
   * @param contextIds the tokens so far, prompt included; only processors read them
   * @throws GraphError if a logit is NaN or +Infinity, none is finite, or a context id is outside the vocabulary;
   *   ConfigError if the processors leave no token
   */
  sample(logits: Float32Array, contextIds: readonly number[]): number {
    const scores = this.#process(logits, contextIds);
    const best = argmax(scores);
    if (!this.#random) return best;
    return this.#filter(scores, scores[best] as number).draw(this.#random.uniform());
  }

  /** The tokens that may be drawn next and their probabilities, for tests. Arguments as of {@link sample}. */
  distribution(logits: Float32Array, contextIds: readonly number[]): { id: number; p: number }[] {
    const scores = this.#process(logits, contextIds);
    return this.#filter(scores, scores[argmax(scores)] as number).distribution();
  }

  #process(logits: Float32Array, contextIds: readonly number[]): Float32Array {
    if (this.#processors.length === 0) return logits;
    if (this.#scratch.scores.length !== logits.length) this.#scratch.scores = new Float32Array(logits.length);
    const { scores } = this.#scratch;
    scores.set(logits);
    for (const process of this.#processors) process(scores, contextIds);
    if (scores.every((score) => score === Number.NEGATIVE_INFINITY)) {
      throw new ConfigError(
        "no token is left to choose: suppress_tokens, bad_words_ids, no_repeat_ngram_size and the like forbid all of " +
          `them after ${contextIds.length} tokens; forbid fewer`,
      );
    }
    return scores;
  }

  #filter(scores: Float32Array, max: number): Candidates {
    const { temperature = 1, top_h, top_k = 50, top_p = 1, min_p = 0, typical_p = 1 } = this.#options;
    const { candidates } = this.#scratch;
    candidates.fill(scores, max, temperature, top_h === undefined ? top_k : TOP_H_TOKENS);
    if (top_h !== undefined) {
      candidates.topH(top_h);
      candidates.topK(top_k);
    }
    candidates.topP(top_p);
    candidates.minP(min_p);
    candidates.typicalP(typical_p);
    candidates.epsilon(this.#options.epsilon_cutoff ?? 0);
    candidates.eta(this.#options.eta_cutoff ?? 0);
    return candidates;
  }
}
