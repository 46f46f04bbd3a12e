// Options of generate and stream as their callers see them. What they are checked for is in settings/keys.ts.
import type { GenerationValues } from "./settings/values.ts";

/** Any of these may be left out; undefined and null mean what generation_config.json says, else the default. */
type Optional<T> = { readonly [K in keyof T]?: T[K] | null | undefined };

/**
 * How tokens are chosen and when that ends, as in transformers: options that only drawing uses (temperature, top_k, top_p ...)
 * have no effect without `do_sample: true`, of the call or of generation_config.json.
 */
export interface GenerationOptions
  extends Optional<Omit<GenerationValues, "stop_strings" | "forced_eos_token_id">> {
  /** Texts that end generation, special tokens' among them; they are cut off in `stream`. */
  readonly stop_strings?: string | readonly string[] | null | undefined;
  readonly forced_eos_token_id?: number | readonly number[] | null | undefined;
  /** Ids that end a text. Default: those of the checkpoint. */
  readonly eos_token_id?: number | readonly number[] | null | undefined;
  /** Go on after an end token. */
  readonly ignore_eos?: boolean | null | undefined;
  /** Same seed, same tokens, on every platform. By default a fresh one. */
  readonly seed?: number | null | undefined;
  readonly signal?: AbortSignal | null | undefined;
  /** While the prompt is read: its tokens so far, whole ones only at the end of a pass, and all. */
  readonly prompt_callback?: ((progress: PromptProgress) => void) | null | undefined;
}

/** Tokens of a prompt. */
export interface PromptProgress {
  readonly processed: number;
  readonly total: number;
}

/** Receives ids as transformers.js's streamers do: the prompt first, then each new token. Awaited where it is asynchronous. */
export interface Streamer {
  put(ids: number[][]): unknown;
  end(): unknown;
}

export interface GenerateOptions extends GenerationOptions {
  /** One or more prompts; they need not be of one length. */
  readonly input_ids: readonly (readonly number[])[];
  /** For one prompt. */
  readonly streamer?: Streamer | null | undefined;
}
