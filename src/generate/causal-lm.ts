// The model as people use it: from_pretrained, forward, generate, stream, memory, dispose.
import type { LoraConfig } from "../adapters/index.ts";
import { joinNotes } from "../base/notes.ts";
import { requireModelFolder } from "../checkpoint/model-path.ts";
import { ConfigError } from "../errors.ts";
import type { Tier } from "../memory/tiers.ts";
import type { Plan } from "../plan/plan.ts";
import { Engine, type EngineMemory, type StreamStatistics } from "../runtime/engine.ts";
import type { EngineOptions } from "../runtime/prepare.ts";
import { linkSignals } from "../signals.ts";
import type { ChatMessage } from "./chat-template.ts";
import { decode, type FinishReason } from "./decode-loop.ts";
import { type GenerationConfig, readGenerationConfig } from "./generation-config.ts";
import { IncrementalDecoder } from "./incremental-decoder.ts";
import { type PartialSamplingOptions, validateSampling } from "./sampling.ts";
import { StopStrings } from "./stopping.ts";
import { AutoTokenizer } from "./tokenizer.ts";

/** Tokens generated when neither the call nor generation_config.json says how many. */
const DEFAULT_NEW_TOKENS = 128;

export interface GenerationOptions extends PartialSamplingOptions {
  /** Default: generation_config.json, else 128. */
  readonly max_new_tokens?: number;
  /** Go on after an end token. */
  readonly ignore_eos?: boolean;
  /** Ids that end a text. Default: those of the checkpoint. */
  readonly eos_token_id?: number | readonly number[];
  /** Texts that end generation; they are cut off in `stream`. */
  readonly stop_strings?: readonly string[];
  readonly signal?: AbortSignal;
}

/** Receives ids as transformers.js's streamers do: the prompt first, then each new token. */
export interface Streamer {
  put(ids: number[][]): void;
  end(): void;
}

export interface GenerateOptions extends GenerationOptions {
  /** One or more prompts; they need not be of one length. */
  readonly input_ids: readonly (readonly number[])[];
  /** For one prompt. */
  readonly streamer?: Streamer;
}

/** A piece of generated text; the last one says why generation ended. */
export interface StreamPiece {
  readonly text: string;
  /** The newest token, or undefined in the last piece. */
  readonly token: number | undefined;
  readonly finish_reason?: FinishReason;
}

/** Logits: data[b, t, v] is the score of token v after token t of sequence b. */
export interface ForwardOutput {
  readonly logits: { readonly dims: readonly [number, number, number]; readonly data: Float32Array };
}

/** Tokens and seconds since the model was opened, and what moved meanwhile. */
export interface ModelStatistics extends StreamStatistics {
  readonly prefillTokens: number;
  readonly prefillSeconds: number;
  readonly decodeTokens: number;
  readonly decodeSeconds: number;
}

/** How a model is opened. */
export type PretrainedOptions = Omit<EngineOptions, "training">;

/** Loads a causal language model from a checkpoint directory in the Hub's layout. */
export const AutoModelForCausalLM = {
  /**
   * Opens a model under budgets. Throws CheckpointError, ConfigError, UnsupportedError, BudgetError (with the smallest
   * budget that works), LibraryError, IoError, AbortError; after a throw nothing stays allocated.
   */
  async from_pretrained(dir: string, options: PretrainedOptions = {}): Promise<CausalLM> {
    await requireModelFolder(dir);
    const generation = await readGenerationConfig(dir);
    for (const note of generation.notes ?? []) options.warning_callback?.(note);
    return makeCausalLM(dir, await Engine.open(dir, options), generation);
  },
};

let makeCausalLM: (path: string, engine: Engine, generation: GenerationConfig) => CausalLM;
/** What runs a model. For the parts of the library that use it in their own way. */
export let engineOf: (model: CausalLM) => Engine;

export class CausalLM {
  /** The checkpoint directory. */
  readonly path: string;
  readonly #engine: Engine;
  readonly #generation: GenerationConfig;
  #tokenizer: Promise<AutoTokenizer> | undefined;
  #prefill = { tokens: 0, seconds: 0 };
  #decode = { tokens: 0, seconds: 0 };

  private constructor(path: string, engine: Engine, generation: GenerationConfig) {
    this.path = path;
    this.#engine = engine;
    this.#generation = generation;
  }

  // Reachable for the package alone: neither is exported from it.
  static {
    makeCausalLM = (path, engine, generation) => new CausalLM(path, engine, generation);
    engineOf = (model) => {
      if (typeof model === "object" && model !== null && #engine in model) return model.#engine;
      throw new ConfigError("model: a model opened with AutoModelForCausalLM.from_pretrained is expected");
    };
  }

  /** The parsed config.json. */
  get config(): Readonly<Record<string, unknown>> {
    return this.#engine.prepared.config;
  }

  /**
   * What the model's files hold that is not used, or is used otherwise than one might think: a line each, for people.
   * Nothing is printed; the command line says them once.
   */
  get warnings(): readonly string[] {
    return joinNotes(this.#engine.prepared.notes, this.#generation.notes);
  }

  /** Settings of the adapter it was opened with. */
  get peft_config(): LoraConfig | undefined {
    return this.#engine.prepared.adapter?.config;
  }

  /** Module path -> tier. */
  get device_map(): Readonly<Record<string, Tier>> {
    return this.#engine.prepared.plan.device_map;
  }

  /** Where everything lives and what streams, in bytes. */
  get plan(): Plan {
    return this.#engine.prepared.plan;
  }

  /** The device that computes: "cpu", "cuda:0", "vulkan:0" ... */
  get device(): string {
    return this.#engine.prepared.device.name;
  }

  /** Elements of all parameters, shared ones once, without those of low-rank updates. */
  get num_parameters(): number {
    return this.#engine.prepared.model.parameters;
  }

  /** Tokens the KV cache was planned for. */
  get context_length(): number {
    return this.#engine.prepared.context;
  }

  /** Bytes per tier: budget, now, at peak, and by what they are for. */
  memory(): EngineMemory {
    return this.#engine.memory();
  }

  statistics(): ModelStatistics {
    return {
      ...this.#engine.statistics(),
      prefillTokens: this.#prefill.tokens,
      prefillSeconds: this.#prefill.seconds,
      decodeTokens: this.#decode.tokens,
      decodeSeconds: this.#decode.seconds,
    };
  }

  /** The checkpoint's tokenizer, or what the adapter it was opened with has of one; loaded on first use. */
  tokenizer(): Promise<AutoTokenizer> {
    const { adapter } = this.#engine.options;
    this.#tokenizer ??= AutoTokenizer.from_pretrained(this.path, adapter === undefined ? {} : { adapter });
    return this.#tokenizer;
  }

  /**
   * Logits of every token: input_ids [batch, tokens] -> f32 [batch, tokens, vocab]. While they are computed they count
   * against the budget of RAM, like all that Spillway holds; once returned they are the caller's.
   * Throws ConfigError for rows of different lengths and for ids outside the vocabulary, BudgetError, before anything is
   * computed, where the logits or the keys and values of so many tokens do not fit.
   */
  async forward(inputs: {
    readonly input_ids: readonly (readonly number[])[];
    readonly signal?: AbortSignal;
  }): Promise<ForwardOutput> {
    const { input_ids, signal } = inputs;
    const tokens = input_ids[0]?.length ?? 0;
    if (tokens === 0)
      throw new ConfigError("input_ids: at least one sequence of at least one token is needed");
    const odd = input_ids.findIndex((row) => row.length !== tokens);
    if (odd >= 0) {
      throw new ConfigError(
        `input_ids: row 0 has ${tokens} tokens, row ${odd} has ${input_ids[odd]?.length}; forward wants one length`,
      );
    }
    const engine = this.#engine;
    const vocab = engine.prepared.spec.vocab_size;
    return engine.exclusive(async () => {
      await engine.ensureCapacity(input_ids.length * tokens);
      const sequences = input_ids.map((row, i) => ({ base: i * tokens, past: 0, tokens: row }));
      const data = await engine.allLogits(sequences, signal);
      return { logits: { dims: [input_ids.length, tokens, vocab] as const, data } };
    });
  }

  /** Continues prompts. Returns whole sequences, prompts included; each ends where it ended, without padding. */
  async generate(options: GenerateOptions): Promise<number[][]> {
    const { input_ids, streamer } = options;
    if (streamer && input_ids.length !== 1) {
      throw new ConfigError(`a streamer follows one sequence, not ${input_ids.length}`);
    }
    const stops = await this.#stops(options, input_ids.length);
    streamer?.put([[...(input_ids[0] ?? [])]]);
    const { ids } = await this.#run(options, input_ids, (sequence, id) => {
      streamer?.put([[id]]);
      return stops?.(sequence, id);
    });
    streamer?.end();
    return ids;
  }

  /**
   * Generates text piece by piece from a prompt, token ids, or a conversation (through the chat template).
   * Leaving the loop early ends generation.
   */
  async *stream(
    prompt: string | readonly number[] | readonly ChatMessage[],
    options: GenerationOptions = {},
  ): AsyncGenerator<StreamPiece, void, undefined> {
    const tokenizer = await this.tokenizer();
    const ids = await encodePrompt(tokenizer, prompt, options.signal);
    const decoder = new IncrementalDecoder((list) => tokenizer.decode(list, { skip_special_tokens: true }));
    const stops = new StopStrings(options.stop_strings ?? []);
    const pieces = new Mailbox<StreamPiece>();
    const leaving = new AbortController();
    const { signal, unlink } = linkSignals(leaving.signal, options.signal);
    const onToken = (_sequence: number, token: number) => {
      const { text, stop } = stops.push(decoder.push(token));
      pieces.put({ text, token });
      return stop !== undefined;
    };
    const run = (async () => this.#run({ ...options, signal }, [ids], onToken))();
    run.then(
      ({ finish }) => {
        const rest = stops.stopped === undefined ? stops.push(decoder.flush()).text + stops.flush() : "";
        pieces.put({ text: rest, token: undefined, finish_reason: finish[0] as FinishReason });
        pieces.end();
      },
      (error: unknown) => pieces.end({ error }),
    );
    try {
      yield* pieces;
    } finally {
      leaving.abort();
      unlink();
      await run.catch(() => {}); // its error has been thrown to the reader, or the reader has left
    }
  }

  /** Stops what runs and frees all memory, threads and files. Safe to call twice. */
  dispose(): Promise<void> {
    return this.#engine.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #run(
    options: GenerationOptions,
    prompts: readonly (readonly number[])[],
    onToken: (sequence: number, id: number) => boolean | undefined,
  ) {
    const { defaults, eos_token_ids } = this.#generation;
    const named = options.eos_token_id ?? eos_token_ids;
    const sampling = validateSampling({ ...defaults, ...defined(options) });
    const request = {
      prompts,
      max_new_tokens: options.max_new_tokens ?? defaults.max_new_tokens ?? DEFAULT_NEW_TOKENS,
      eos: options.ignore_eos ? [] : typeof named === "number" ? [named] : named,
      sampling,
      signal: options.signal,
    };
    return this.#engine.exclusive(() => {
      let since = performance.now();
      const lap = (counter: { tokens: number; seconds: number }, tokens: number) => {
        const now = performance.now();
        counter.tokens += tokens;
        counter.seconds += (now - since) / 1000;
        since = now;
      };
      const begun = new Set<number>();
      return decode(this.#engine, {
        ...request,
        onPrefill: (tokens) => lap(this.#prefill, tokens),
        onToken: (sequence, id) => {
          // The first token comes with the prompt's pass; each later one has a pass of its own.
          if (begun.has(sequence)) lap(this.#decode, 1);
          begun.add(sequence);
          return onToken(sequence, id);
        },
      });
    });
  }

  /** Stop strings for ids: each sequence is decoded as it grows. */
  async #stops(options: GenerationOptions, sequences: number) {
    if (!options.stop_strings || options.stop_strings.length === 0) return undefined;
    const tokenizer = await this.tokenizer();
    const state = Array.from({ length: sequences }, () => ({
      decoder: new IncrementalDecoder((list) => tokenizer.decode(list, { skip_special_tokens: true })),
      stops: new StopStrings(options.stop_strings ?? []),
    }));
    return (sequence: number, id: number): boolean => {
      const { decoder, stops } = state[sequence] as (typeof state)[number];
      return stops.push(decoder.push(id)).stop !== undefined;
    };
  }
}

async function encodePrompt(
  tokenizer: AutoTokenizer,
  prompt: string | readonly number[] | readonly ChatMessage[],
  signal: AbortSignal | undefined,
): Promise<number[]> {
  if (typeof prompt === "string") return tokenizer.encode_async(prompt, { signal });
  if (prompt.every((item) => typeof item === "number")) return [...prompt];
  const text = await tokenizer.apply_chat_template_async(
    prompt as readonly ChatMessage[],
    { add_generation_prompt: true },
    signal,
  );
  return tokenizer.encode_async(text, { add_special_tokens: false, signal });
}

/** Options that were set: an undefined one must not hide a default of the checkpoint. */
function defined(options: PartialSamplingOptions): PartialSamplingOptions {
  const { do_sample, temperature, top_k, top_p, min_p, repetition_penalty, seed } = options;
  const set = { do_sample, temperature, top_k, top_p, min_p, repetition_penalty, seed };
  return Object.fromEntries(Object.entries(set).filter(([, value]) => value !== undefined && value !== null));
}

/** Values put by one side, awaited by the other. */
class Mailbox<T> implements AsyncIterable<T> {
  readonly #waiting: T[] = [];
  #over: { error?: unknown } | undefined;
  #wake: (() => void) | undefined;

  put(value: T): void {
    this.#waiting.push(value);
    this.#wake?.();
  }
  end(outcome: { error?: unknown } = {}): void {
    this.#over = outcome;
    this.#wake?.();
  }
  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    for (;;) {
      while (this.#waiting.length > 0) yield this.#waiting.shift() as T;
      if (this.#over) {
        if ("error" in this.#over) throw this.#over.error;
        return;
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}
