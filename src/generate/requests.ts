// What callers of generate, stream and forward give, checked before anything runs, and what it comes to together with the
// checkpoint's generation_config.json.

import { ConfigError } from "../base/errors.ts";
import { refuseUnknown } from "../base/options.ts";
import { shown } from "../base/shown.ts";
import type { SequenceRequest } from "./decode-loop.ts";
import { type GenerationConfig, tokenIds } from "./generation-config.ts";
import type { GenerationOptions } from "./options.ts";
import { logitsProcessors } from "./processors/list.ts";
import type { SamplingOptions } from "./sampling/sampling.ts";
import {
  GENERATION_OPTIONS,
  type GenerationValues,
  generationValues,
  type RawValues,
  refuseNotDone,
} from "./settings/values.ts";

/** Tokens generated when neither the call nor generation_config.json says how many. */
const DEFAULT_NEW_TOKENS = 128;

const STREAM_OPTIONS: readonly string[] = [
  ...GENERATION_OPTIONS,
  ...["eos_token_id", "bos_token_id", "pad_token_id", "ignore_eos", "seed", "signal", "prompt_callback"],
];
const GENERATE_OPTIONS: readonly string[] = [...STREAM_OPTIONS, "input_ids", "streamer"];

/** Names from other libraries, and what they are here. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  ...Object.fromEntries(
    ["max_tokens", "max_completion_tokens", "num_predict", "n_predict", "maxTokens", "maxNewTokens"].map(
      (name) => [name, "it is called max_new_tokens here"],
    ),
  ),
  ...Object.fromEntries(
    ["stop", "stop_sequences", "stop_words", "stopSequences"].map((name) => [
      name,
      "it is called stop_strings here",
    ]),
  ),
  stop_token_ids: "it is called eos_token_id here",
  repeat_penalty: "it is called repetition_penalty here",
  frequency_penalty: "repetition_penalty is the penalty that there is",
  presence_penalty: "repetition_penalty is the penalty that there is",
  random_seed: "it is called seed here",
  attention_mask: "prompts are given without padding, each as long as it is; leave it out",
  generation_config: "give its values as options of their own",
  inputs: "it is called input_ids here",
  prompt: "stream(prompt) takes text; generate takes input_ids",
  messages: "stream(messages) takes a conversation; generate takes input_ids",
  tokenizer: "the model has its own: model.tokenizer()",
};

/** Options of a call, as they may come from plain JavaScript: names known, kinds of values right. */
export interface CheckedOptions {
  /** Its values of generating, checked when they are used. */
  readonly call: RawValues;
  /** Ids that end a text, where the call names them; empty for none. */
  readonly eos: readonly number[] | undefined;
  readonly seed: number | undefined;
  readonly signal: AbortSignal | undefined;
  readonly prompt_callback: GenerationOptions["prompt_callback"];
}

/** Throws ConfigError for options that are unknown, not done here or of a wrong kind. */
export function checkOptions(options: unknown, where: "generate" | "stream"): CheckedOptions {
  refuseUnknown(options, where === "generate" ? GENERATE_OPTIONS : STREAM_OPTIONS, where, ELSEWHERE);
  const call: RawValues = { ...(options as RawValues) };
  refuseNotDone(call);
  const { eos_token_id, ignore_eos, seed } = call;
  if (!absent(ignore_eos) && typeof ignore_eos !== "boolean")
    throw new ConfigError(`ignore_eos must be true or false, got ${shown(ignore_eos)}`);
  const named = absent(eos_token_id) ? undefined : tokenIds(eos_token_id, "eos_token_id");
  return {
    call,
    eos: ignore_eos === true ? [] : named,
    seed: wholeSeed(seed, ""),
    signal: checkSignal(call.signal),
    prompt_callback: checkCallback(call.prompt_callback),
  };
}

function checkCallback(value: unknown): GenerationOptions["prompt_callback"] {
  if (absent(value) || typeof value === "function") return value as GenerationOptions["prompt_callback"];
  throw new ConfigError(`prompt_callback must be a function, got ${shown(value)}`);
}

/** Throws ConfigError for what is no AbortSignal. */
export function checkSignal(signal: unknown): AbortSignal | undefined {
  if (absent(signal)) return undefined;
  if (signal instanceof AbortSignal) return signal;
  throw new ConfigError(`signal must be an AbortSignal, got ${shown(signal)}`);
}

/** The argument of forward, checked. Throws ConfigError. */
export function checkForward(
  inputs: unknown,
  vocab: number,
): { ids: number[][]; signal: AbortSignal | undefined } {
  refuseUnknown(inputs, ["input_ids", "signal"], "forward", {
    attention_mask: ELSEWHERE.attention_mask ?? "",
  });
  const { input_ids, signal } = inputs as RawValues;
  const ids = checkIds(input_ids, vocab);
  const tokens = ids[0]?.length ?? 0;
  const odd = ids.findIndex((row) => row.length !== tokens);
  if (odd >= 0) {
    throw new ConfigError(
      `input_ids: row 0 has ${tokens} tokens, row ${odd} has ${ids[odd]?.length}; forward wants one length`,
    );
  }
  return { ids, signal: checkSignal(signal) };
}

/** The argument of generate. Throws ConfigError that says what it takes where it is something else. */
export function checkGenerate(options: unknown): void {
  if (typeof options === "object" && options !== null && !Array.isArray(options)) return;
  throw new ConfigError(
    `generate takes { input_ids: [[...]], ... }, got ${shown(options)}; for text or a conversation use ` +
      "model.stream(prompt), or make ids with (await model.tokenizer())(text)",
  );
}

/** A copy of the caller's ids: at least one sequence of at least one token of the vocabulary. Throws ConfigError. */
export function checkIds(input_ids: unknown, vocab: number): number[][] {
  const FORM = "a list of lists of token ids, such as [[1, 2, 3]]";
  if (!Array.isArray(input_ids)) throw new ConfigError(`input_ids must be ${FORM}, got ${shown(input_ids)}`);
  if (input_ids.length === 0)
    throw new ConfigError("input_ids: at least one sequence of at least one token is needed");
  return Array.from(input_ids, (row: unknown, i) => {
    if (!Array.isArray(row)) throw new ConfigError(`input_ids must be ${FORM}; row ${i} is ${shown(row)}`);
    if (row.length === 0)
      throw new ConfigError(
        `input_ids: row ${i} is empty; at least one sequence of at least one token is needed`,
      );
    return checkRow(row, vocab);
  });
}

/** A copy of one sequence of ids. Throws ConfigError. */
export function checkRow(row: readonly unknown[], vocab: number): number[] {
  return Array.from(row, (id) => {
    if (typeof id === "number" && Number.isInteger(id) && id >= 0 && id < vocab) return id;
    throw new ConfigError(`input_ids: ${shown(id)} is not a token of a vocabulary of ${vocab}`);
  });
}

/** What a call comes to. */
export interface ResolvedRequest {
  readonly values: GenerationValues;
  readonly stop_strings: readonly string[];
  readonly max_time: number | undefined;
  /** What of the call is not used: see base/notes.ts. */
  readonly notes: readonly string[];
  /** The request of one prompt, once it is known which ids end a text. */
  sequence(prompt: readonly number[], index: number, eos: readonly number[], vocab: number): SequenceRequest;
}

/** Joins a call with the checkpoint's settings. Throws ConfigError for values that cannot be used. */
export function resolveRequest(given: CheckedOptions, config: GenerationConfig): ResolvedRequest {
  const { call } = given;
  // No key of transformers', but one that saved settings of this library have.
  const seed = given.seed ?? wholeSeed(config.values.seed, "generation_config.json: ");
  const { values, notes } = generationValues(call, config.values);
  const { max_new_tokens, max_length } = values;
  return {
    values,
    notes,
    stop_strings: values.stop_strings ?? [],
    max_time: values.max_time,
    sequence: (prompt, index, eos, vocab) => {
      const limit =
        max_new_tokens === undefined && max_length !== undefined
          ? max_length
          : prompt.length + (max_new_tokens ?? DEFAULT_NEW_TOKENS);
      if (max_new_tokens === undefined && prompt.length >= limit) {
        throw new ConfigError(
          `max_length is ${limit} and prompt ${index} has ${prompt.length} tokens, which count too; ` +
            "use max_new_tokens, or a larger max_length",
        );
      }
      // Sequences of one call draw independently, and the same way whatever their neighbours are.
      const sampling: SamplingOptions = { ...values, ...(seed !== undefined && { seed: seed + index }) };
      const processors = logitsProcessors(values, { prompt, max_length: limit, eos, vocab });
      return { prompt, max_length: limit, sampling, processors };
    },
  };
}

function wholeSeed(seed: unknown, where: string): number | undefined {
  if (absent(seed)) return undefined;
  if (Number.isSafeInteger(seed) && Number(seed) >= 0) return Number(seed);
  throw new ConfigError(`${where}seed must be a whole number from 0 to 2^53 - 1, got ${shown(seed)}`);
}

function absent(value: unknown): boolean {
  return value === undefined || value === null;
}
