// Chooses the next token from a row of logits, with the options, meanings and order of Hugging Face transformers.
// Pure arithmetic on one row: no model, no tokenizer, no stopping.
import { inspect } from "node:util";
import { ConfigError, GraphError } from "../errors.ts";
import { argmax, kthLargest } from "./logits.ts";
import { Xoshiro128 } from "./random.ts";

/** How the next token is chosen. Names and meanings as in transformers' GenerationConfig. */
export interface SamplingOptions {
  /** Draw at random (true) or take the best token (false). Default false. */
  do_sample: boolean;
  /** Logits are divided by it. Default 1; 0 means greedy. */
  temperature: number;
  /** Only tokens with one of the k largest logits (all that tie with the k-th). Default 50; 0: no limit. */
  top_k: number;
  /** Only the smallest set of best tokens whose probabilities reach this sum. Default 1: no limit. */
  top_p: number;
  /** Only tokens at least this times as probable as the best one. Default 0: no limit. */
  min_p: number;
  /**
   * Positive logits of tokens of the context are divided by it, negative ones multiplied, once per distinct token
   * (CTRL, https://arxiv.org/abs/1909.05858). Default 1: none. Applies to greedy choice too.
   */
  repetition_penalty: number;
  /** Same seed, same logits: same tokens, on every platform. By default a fresh one. */
  seed: number;
}

interface OptionRule {
  readonly default: number | boolean | undefined;
  readonly accepts: (value: unknown) => boolean;
  /** Completes "temperature must be ...". */
  readonly range: string;
}

const isNumber = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);

const OPTIONS = {
  do_sample: { default: false, accepts: (v) => typeof v === "boolean", range: "true or false" },
  temperature: {
    default: 1,
    accepts: (v) => isNumber(v) && v >= 0,
    range: "a number above 0, or 0 for greedy",
  },
  top_k: {
    default: 50,
    accepts: (v) => Number.isSafeInteger(v) && Number(v) >= 0,
    range: "a whole number from 0 (0: no limit)",
  },
  top_p: { default: 1, accepts: (v) => isNumber(v) && v > 0 && v <= 1, range: "above 0 and at most 1" },
  min_p: { default: 0, accepts: (v) => isNumber(v) && v >= 0 && v <= 1, range: "from 0 to 1" },
  repetition_penalty: {
    default: 1,
    accepts: (v) => isNumber(v) && v > 0,
    range: "a number above 0 (1: none)",
  },
  seed: {
    default: undefined,
    accepts: (v) => Number.isSafeInteger(v) && Number(v) >= 0,
    range: "a whole number from 0 to 2^53 - 1",
  },
} as const satisfies Record<keyof SamplingOptions, OptionRule>;

const OPTION_NAMES = Object.keys(OPTIONS) as (keyof SamplingOptions)[];

/** Sampling options of which any may be absent: undefined and null mean the default. */
export type PartialSamplingOptions = { [K in keyof SamplingOptions]?: SamplingOptions[K] | null | undefined };

/**
 * Checks sampling options and fills in the defaults. Other properties of `options` are not looked at.
 * A temperature of 0 comes back as `do_sample: false`; an absent seed comes back as a fresh random one.
 * @throws ConfigError naming the option, the value and what is accepted
 */
export function validateSampling(options: PartialSamplingOptions): SamplingOptions {
  const given = checkOptions(options, "");
  return {
    do_sample: given.temperature === 0 ? false : (given.do_sample ?? OPTIONS.do_sample.default),
    temperature: given.temperature || OPTIONS.temperature.default,
    top_k: given.top_k ?? OPTIONS.top_k.default,
    top_p: given.top_p ?? OPTIONS.top_p.default,
    min_p: given.min_p ?? OPTIONS.min_p.default,
    repetition_penalty: given.repetition_penalty ?? OPTIONS.repetition_penalty.default,
    seed: given.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!,
  };
}

/** What generation_config.json may set. */
export interface GenerationDefaults extends Partial<SamplingOptions> {
  /** Tokens to generate at most. */
  max_new_tokens?: number;
}

/**
 * The sampling options a checkpoint's generation_config.json sets. Its other keys, and nulls, are left out.
 * @param json the parsed file; undefined where there is none
 * @throws ConfigError if a known key has a value that cannot be used
 */
export function generationDefaults(json: unknown): GenerationDefaults {
  if (json === undefined || json === null) return {};
  const file = "generation_config.json: ";
  if (typeof json !== "object" || Array.isArray(json))
    throw new ConfigError(`${file}must hold a JSON object`);
  const defaults: GenerationDefaults = checkOptions(json, file);
  const limit = "max_new_tokens" in json ? json.max_new_tokens : undefined;
  if (limit !== undefined && limit !== null) {
    if (!Number.isSafeInteger(limit) || Number(limit) < 0)
      throw badOption(file, "max_new_tokens", limit, "a whole number from 0");
    defaults.max_new_tokens = Number(limit);
  }
  return defaults;
}

/** The sampling options of an object that are neither undefined nor null, checked. */
function checkOptions(options: object, where: string): Partial<SamplingOptions> {
  const given: Record<string, unknown> = { ...options };
  const checked: Record<string, unknown> = {};
  for (const name of OPTION_NAMES) {
    const value = given[name];
    if (value === undefined || value === null) continue;
    if (!OPTIONS[name].accepts(value)) throw badOption(where, name, value, OPTIONS[name].range);
    checked[name] = value;
  }
  return checked;
}

function badOption(where: string, name: string, value: unknown, range: string): ConfigError {
  return new ConfigError(`${where}${name} must be ${range}, got ${inspect(value, { depth: 0 })}`);
}

/** Arrays as long as the vocabulary that choosing a token takes; nothing in them lasts beyond that. For many samplers. */
export class SamplingScratch {
  /** Penalised logits [vocab] */
  scores = new Float32Array(0);
  /** The tokens still possible [vocab], and their weights: probabilities up to a common factor. */
  ids = new Uint32Array(0);
  weights = new Float64Array(0);
  sorted = new Float64Array(0);
  heap = new Float32Array(0);

  /** The most bytes that they take. */
  static bytes(vocab: number): number {
    return vocab * (4 + 4 + 8 + 8 + 4);
  }
}

/** Chooses tokens for one sequence. Repetition penalty, then temperature, top_k, top_p, min_p, then one draw. */
export class Sampler {
  readonly options: Readonly<SamplingOptions>;
  readonly #random: Xoshiro128;
  readonly #scratch: SamplingScratch;

  /**
   * `scratch`: may be that of other samplers, which are not used at the same time.
   * @throws ConfigError as {@link validateSampling}
   */
  constructor(options: PartialSamplingOptions = {}, scratch = new SamplingScratch()) {
    this.options = validateSampling(options);
    this.#random = new Xoshiro128(this.options.seed);
    this.#scratch = scratch;
  }

  /**
   * The next token's id.
   * @param logits [vocab], not modified; -Infinity forbids a token
   * @param contextIds the tokens so far, prompt included; only the repetition penalty reads them
   * @throws GraphError if a logit is NaN or +Infinity, none is finite, or a context id is outside the vocabulary
   */
  sample(logits: Float32Array, contextIds: readonly number[]): number {
    const scores = this.#penalise(logits, contextIds);
    const best = argmax(scores);
    if (!this.options.do_sample) return best;

    let count = this.#applyTopK(scores);
    this.#weigh(scores, count, scores[best]!);
    count = this.#applyTopP(count);
    count = this.#applyMinP(count);
    return this.#draw(count);
  }

  #penalise(logits: Float32Array, contextIds: readonly number[]): Float32Array {
    const penalty = this.options.repetition_penalty;
    if (penalty === 1) return logits;
    if (this.#scratch.scores.length !== logits.length) this.#scratch.scores = new Float32Array(logits.length);
    const scores = this.#scratch.scores;
    scores.set(logits);
    for (const id of contextIds) {
      const logit = logits[id];
      if (logit === undefined) {
        throw new GraphError(`context holds token ${id}, the vocabulary is 0 to ${logits.length - 1}`);
      }
      // From the untouched row, so that a token counts once however often it occurs.
      scores[id] = logit > 0 ? logit / penalty : logit * penalty;
    }
    return scores;
  }

  /** Fills `ids` with the tokens that remain and returns their number. */
  #applyTopK(scores: Float32Array): number {
    const vocab = scores.length;
    if (this.#scratch.ids.length !== vocab) {
      this.#scratch.ids = new Uint32Array(vocab);
      this.#scratch.weights = new Float64Array(vocab);
      this.#scratch.sorted = new Float64Array(vocab);
    }
    const k = this.options.top_k;
    let threshold = Number.NEGATIVE_INFINITY;
    if (k > 0 && k < vocab) {
      if (this.#scratch.heap.length < k) this.#scratch.heap = new Float32Array(k);
      threshold = kthLargest(scores, k, this.#scratch.heap);
    }
    let count = 0;
    for (let id = 0; id < vocab; id++) {
      const score = scores[id]!;
      if (score >= threshold && score !== Number.NEGATIVE_INFINITY) this.#scratch.ids[count++] = id;
    }
    return count;
  }

  /** Fills `weights`: 1 for the best token. */
  #weigh(scores: Float32Array, count: number, max: number): void {
    const temperature = this.options.temperature;
    for (let i = 0; i < count; i++)
      this.#scratch.weights[i] = Math.exp((scores[this.#scratch.ids[i]!]! - max) / temperature);
  }

  /** Keeps the smallest set of best tokens whose share reaches top_p, the lowest ids where tokens tie. */
  #applyTopP(count: number): number {
    const { top_p } = this.options;
    if (top_p === 1) return count;
    const total = this.#total(count);
    // Tokens below an equal share of what may be left out can never be needed, so most are never sorted.
    const remaining = this.#keep(count, ((1 - top_p) * total) / count);
    const sorted = this.#scratch.sorted.subarray(0, remaining);
    sorted.set(this.#scratch.weights.subarray(0, remaining));
    sorted.sort();
    let kept = 0;
    for (let sum = 0; kept < remaining && sum < top_p * total; kept++) sum += sorted[remaining - 1 - kept]!;
    const last = sorted[remaining - kept]!;
    let ties = 0;
    for (let i = remaining - kept; i < remaining && sorted[i] === last; i++) ties++;
    return this.#keep(remaining, last, ties);
  }

  #applyMinP(count: number): number {
    const { min_p } = this.options;
    return min_p === 0 ? count : this.#keep(count, min_p);
  }

  /** Keeps tokens above a weight, and of those equal to it the first `ties`. Returns how many are left. */
  #keep(count: number, threshold: number, ties = Number.POSITIVE_INFINITY): number {
    let kept = 0;
    let left = ties;
    for (let i = 0; i < count; i++) {
      const weight = this.#scratch.weights[i]!;
      if (weight < threshold || (weight === threshold && left-- <= 0)) continue;
      this.#scratch.ids[kept] = this.#scratch.ids[i]!;
      this.#scratch.weights[kept++] = weight;
    }
    return kept;
  }

  #total(count: number): number {
    let total = 0;
    for (let i = 0; i < count; i++) total += this.#scratch.weights[i]!;
    return total;
  }

  #draw(count: number): number {
    let left = this.#random.uniform() * this.#total(count);
    let chosen = 0;
    for (let i = 0; i < count && left >= 0; i++) {
      // Skipping weights that underflowed to zero: rounding may leave a crumb for after the last token.
      if (this.#scratch.weights[i] === 0) continue;
      left -= this.#scratch.weights[i]!;
      chosen = i;
    }
    return this.#scratch.ids[chosen]!;
  }
}
