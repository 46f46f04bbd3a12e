// The model as people use it: from_pretrained, forward, generate, stream, memory, dispose.

import { endIds } from "../adapters/end-token.ts";
import type { LoraConfig } from "../adapters/index.ts";
import { linkSignals } from "../base/async/signals.ts";
import { ConfigError } from "../base/errors.ts";
import { joinNotes } from "../base/notes.ts";
import { requireModelFolder } from "../formats/model-path.ts";
import type { Tier } from "../memory/tiers.ts";
import type { Plan } from "../plan/plan.ts";
import { Engine, type EngineMemory, type StreamStatistics, type ThreadUses } from "../runtime/engine.ts";
import type { EngineOptions } from "../runtime/open/prepare.ts";
import { decode, type FinishReason } from "./decode-loop.ts";
import { type GenerationConfig, readGenerationConfig } from "./generation-config.ts";
import type { GenerateOptions, GenerationOptions } from "./options.ts";
import { checkPretrained } from "./pretrained-options.ts";
import {
  type CheckedOptions,
  checkForward,
  checkGenerate,
  checkIds,
  checkOptions,
  checkRow,
  type ResolvedRequest,
  resolveRequest,
} from "./requests.ts";
import { Mailbox, type StreamPiece } from "./streaming.ts";
import type { ChatMessage } from "./text/chat-template.ts";
import { TooLongError } from "./text/sandboxed-tokenizer.ts";
import { StoppingDecoder } from "./text/stop-text.ts";
import { AutoTokenizer, byteOf, type EncodeOptions } from "./text/tokenizer.ts";

/** Logits: data[b, t, v] is the score of token v after token t of sequence b. */
export interface ForwardOutput {
  readonly logits: { readonly dims: readonly [number, number, number]; readonly data: Float32Array };
}

/** Tokens and seconds since the model was opened, and what moved meanwhile. */
export interface ModelStatistics extends StreamStatistics {
  readonly prefillTokens: number;
  /** Tokens of prompts that need not be read, because the text before begins with them too. */
  readonly reusedTokens: number;
  readonly prefillSeconds: number;
  readonly decodeTokens: number;
  readonly decodeSeconds: number;
  /** By kind of work ("decode", "prefill", "backward" ...): threads of the CPU now, and seconds with each number of them. */
  readonly threads: ThreadUses;
}

/** How a model is opened. */
export type PretrainedOptions = Omit<EngineOptions, "training">;

/** Receives each new token; true ends its sequence. */
type OnToken = (sequence: number, id: number) => boolean | undefined | Promise<boolean | undefined>;

/** Loads a causal language model from a checkpoint directory in the Hub's layout. */
export const AutoModelForCausalLM = {
  /**
   * Opens a model under budgets. Throws CheckpointError, ConfigError, UnsupportedError, BudgetError (with the smallest
   * budget that works), LibraryError, IoError, AbortError; after a throw nothing stays allocated.
   */
  async from_pretrained(dir: string, options: PretrainedOptions = {}): Promise<CausalLM> {
    const checked = checkPretrained(dir, options);
    await requireModelFolder(dir);
    const generation = await readGenerationConfig(dir);
    for (const note of generation.notes) await checked.warning_callback?.(note);
    return makeCausalLM(dir, await Engine.open(dir, checked), generation);
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
  #ends: Promise<readonly number[]> | undefined;
  /** What calls gave that was not used. */
  readonly #notes: string[] = [];
  #prefill = { tokens: 0, seconds: 0 };
  #reused = 0;
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
   * What the model's files hold that is not used, or is used otherwise than one might think, and options of calls that were
   * without effect: a line each, for people. Nothing is printed; the command line says them once.
   */
  get warnings(): readonly string[] {
    return joinNotes(this.#engine.prepared.notes, this.#generation.notes, this.#notes);
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

  /** Tokens the KV cache was planned for; it grows within the budget where a call needs more. */
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
      reusedTokens: this.#reused,
      prefillSeconds: this.#prefill.seconds,
      decodeTokens: this.#decode.tokens,
      decodeSeconds: this.#decode.seconds,
      threads: this.#engine.threadUses(),
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
    const engine = this.#engine;
    const vocab = engine.prepared.spec.vocab_size;
    const { ids, signal } = checkForward(inputs, vocab);
    const tokens = ids[0]?.length ?? 0;
    return engine.exclusive(async () => {
      try {
        await engine.ensureCapacity(ids.length * tokens);
        const sequences = ids.map((row, i) => ({ base: i * tokens, past: 0, tokens: row }));
        const data = await engine.allLogits(sequences, signal);
        return { logits: { dims: [ids.length, tokens, vocab] as const, data } };
      } finally {
        engine.releaseGrowth();
      }
    });
  }

  /**
   * Continues prompts. Returns whole sequences, prompts included; each ends where it ended, without padding: at an end
   * token, a stop string, max_new_tokens or max_length, or where the model's positions or the budget end.
   * Throws ConfigError for options that are unknown or cannot be used and for prompts the model has no positions for,
   * BudgetError for prompts that the budget cannot hold.
   */
  async generate(options: GenerateOptions): Promise<number[][]> {
    checkGenerate(options);
    const checked = checkOptions(options, "generate");
    const { input_ids, streamer } = options;
    const prompts = checkIds(input_ids, this.#engine.prepared.spec.vocab_size);
    if (streamer !== undefined && streamer !== null) {
      if (typeof streamer.put !== "function" || typeof streamer.end !== "function")
        throw new ConfigError(
          "streamer must have the methods put(ids) and end(), such as new TextStreamer(...)",
        );
      if (prompts.length !== 1)
        throw new ConfigError(`a streamer follows one sequence, not ${prompts.length}`);
    }
    const request = await this.#resolve(checked);
    const stops = await this.#stops(request, prompts.length);
    await streamer?.put([[...(prompts[0] as number[])]]);
    const { ids } = await this.#run(checked, request, prompts, (sequence, id) => {
      const stopped = () => stops?.[sequence]?.push(id).stopped;
      return streamer ? Promise.resolve(streamer.put([[id]])).then(stopped) : stopped();
    });
    await streamer?.end();
    return ids;
  }

  /**
   * Generates text piece by piece from a prompt, token ids, or a conversation (through the chat template).
   * Leaving the loop early ends generation. It does not run far ahead of its reader, unless another call waits.
   */
  async *stream(
    prompt: string | readonly number[] | readonly ChatMessage[],
    options: GenerationOptions = {},
  ): AsyncGenerator<StreamPiece, void, undefined> {
    const checked = checkOptions(options, "stream");
    const request = await this.#resolve(checked);
    const tokenizer = await this.tokenizer();
    const ids = await this.#encode(tokenizer, prompt, checked.signal);
    const text = stoppingDecoder(tokenizer, request.stop_strings);
    // One a token, of which there are as many as the model has positions at most, and the last.
    const pieces = new Mailbox<StreamPiece>(this.#engine.prepared.spec.max_positions + 2);
    const leaving = new AbortController();
    const { signal, unlink } = linkSignals(leaving.signal, checked.signal);
    signal.addEventListener("abort", () => pieces.release());
    const onToken = (_sequence: number, token: number) => {
      const { text: piece, stopped } = text.push(token);
      pieces.put({ text: piece, token });
      return pieces.full ? this.#reader(pieces, signal).then(() => stopped) : stopped;
    };
    const run = this.#run({ ...checked, signal }, request, [ids], onToken);
    run.then(
      ({ finish }) => {
        pieces.put({ text: text.flush(), token: undefined, finish_reason: finish[0] as FinishReason });
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
      unlink();
    }
  }

  /** Stops what runs and frees all memory, threads and files. Safe to call twice. */
  dispose(): Promise<void> {
    return this.#engine.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  /** Until the reader of a stream has caught up, the stream is to end, or someone else wants the model. */
  async #reader(pieces: Mailbox<StreamPiece>, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    const { wanted, leave } = this.#engine.whenWanted();
    await Promise.race([pieces.room(), wanted]);
    leave();
  }

  async #resolve(checked: CheckedOptions): Promise<ResolvedRequest> {
    const request = resolveRequest(checked, this.#generation);
    for (const note of request.notes) {
      if (this.#notes.includes(note)) continue;
      this.#notes.push(note);
      await this.#engine.options.warning_callback?.(note);
    }
    return request;
  }

  async #encode(
    tokenizer: AutoTokenizer,
    prompt: unknown,
    signal: AbortSignal | undefined,
  ): Promise<number[]> {
    if (typeof prompt === "string") return this.#encodeText(tokenizer, prompt, { signal });
    if (!Array.isArray(prompt) || prompt.length === 0) {
      throw new ConfigError(
        "stream takes a text, a list of token ids or a list of messages ({ role, content }), of which none is empty",
      );
    }
    const { vocab_size } = this.#engine.prepared.spec;
    if (prompt.every((item) => typeof item === "number")) return checkRow(prompt, vocab_size);
    const messages = prompt as readonly ChatMessage[];
    const template = { add_generation_prompt: true };
    const text = await tokenizer.apply_chat_template_async(messages, template, signal);
    return this.#encodeText(tokenizer, text, { add_special_tokens: false, signal });
  }

  /** Says why a text is too long, where it is. */
  async #encodeText(
    tokenizer: AutoTokenizer,
    text: string,
    options: EncodeOptions & { signal: AbortSignal | undefined },
  ): Promise<number[]> {
    const max_tokens = this.#engine.longestText;
    try {
      return await tokenizer.encode_async(text, { ...options, max_tokens });
    } catch (error) {
      if (!(error instanceof TooLongError)) throw error;
      const { max_positions } = this.#engine.prepared.spec;
      const why =
        max_tokens === max_positions
          ? `the model has positions for ${max_positions}; shorten it`
          : `the budget has room for the keys and values of ${max_tokens}; shorten it, or give a larger budget`;
      throw new ConfigError(`${error.what}, ${why}`, { cause: error });
    }
  }

  /** Ids that end a text by the files of the checkpoint and of its adapter. */
  #endIds(): Promise<readonly number[]> {
    this.#ends ??= endIds(this.path, this.#generation.eos_token_ids, this.#engine.prepared.adapter?.dir);
    return this.#ends;
  }

  async #run(
    { eos: named, signal, prompt_callback }: CheckedOptions,
    request: ResolvedRequest,
    prompts: readonly (readonly number[])[],
    onToken: OnToken,
  ) {
    const eos = named ?? (await this.#endIds());
    const { vocab_size } = this.#engine.prepared.spec;
    const sequences = prompts.map((prompt, i) => request.sequence(prompt, i, eos, vocab_size));
    const count = (counter: { tokens: number; seconds: number }) => (tokens: number, seconds: number) => {
      counter.tokens += tokens;
      counter.seconds += seconds;
    };
    const work = () =>
      decode(this.#engine, {
        sequences,
        eos,
        max_time: request.max_time,
        signal,
        onPrompt: prompt_callback
          ? (processed, total) => prompt_callback({ processed: Math.floor(processed), total })
          : undefined,
        onReuse: (tokens) => {
          this.#reused += tokens;
        },
        onPrefill: count(this.#prefill),
        // The first token of each sequence comes with the prompt's pass; each later one has a pass of its own.
        onDecode: count(this.#decode),
        onToken,
      });
    return this.#engine.exclusive(work, { goesOn: true });
  }

  /** Looks for stop strings in each sequence as it grows; undefined where there are none. */
  async #stops({ stop_strings }: ResolvedRequest, sequences: number) {
    if (stop_strings.length === 0) return undefined;
    const tokenizer = await this.tokenizer();
    return Array.from({ length: sequences }, () => stoppingDecoder(tokenizer, stop_strings));
  }
}

function stoppingDecoder(tokenizer: AutoTokenizer, stops: readonly string[]): StoppingDecoder {
  return new StoppingDecoder((ids, how) => tokenizer.decode(ids, how), stops, byteOf(tokenizer));
}
