// An open model: loads what the plan says, then runs calls one after another. No text, no sampling.

import { runAll } from "../base/async/cleanup.ts";
import { OneByOne } from "../base/async/one-by-one.ts";
import { linkSignals } from "../base/async/signals.ts";
import { AbortError, BudgetError, ConfigError, DisposedError } from "../base/errors.ts";
import { formatBytes } from "../memory/sizes.ts";
import type { Tier } from "../memory/tiers.ts";
import { type EngineExtension, Extensions } from "./extensions.ts";
import { type EngineParts, kvPlaces, type OpenModel, openModel, releaseModel } from "./open/open-model.ts";
import type { EngineOptions } from "./open/prepare.ts";
import type { Prepared } from "./open/prepared.ts";
import { KvCache, type KvPlaces, type RowMove } from "./state/kv-cache.ts";
import { RememberedSequence } from "./state/remembered.ts";
import { CHUNK_TOKENS, PASS_TOKENS, type SequenceInput } from "./step/chunks.ts";
import type { Executor, PassProgress } from "./step/executor.ts";
import { inputBytes } from "./step/inputs.ts";
import { makeLogits, reserveLogits } from "./step/logits-memory.ts";
import type { LogitsSink } from "./step/logits-receiver.ts";
import { gatheredRowBytes } from "./step/measure.ts";

/** Bytes per tier and what they are for. */
export interface EngineMemory {
  readonly budget: Readonly<Record<Tier, number>>;
  readonly used: Readonly<Record<Tier, number>>;
  readonly peak: Readonly<Record<Tier, number>>;
  readonly entries: readonly { readonly tier: Tier; readonly what: string; readonly bytes: number }[];
}

/** Counters since the model was opened. */
export interface StreamStatistics {
  /** Bytes of weights brought to the computing device. */
  readonly streamedBytes: number;
  /** Bytes read from disk, weights and rows, and seconds in which a read was in flight. */
  readonly readBytes: number;
  readonly readSeconds: number;
}

/** Threads of the CPU used for each kind of work, with the seconds computed with each number of them. */
export type ThreadUses = readonly {
  readonly kind: string;
  /** The number used now by most of the kind's work. */
  readonly threads: number;
  /** Seconds computed with each number of threads. */
  readonly seconds: Readonly<Record<number, number>>;
}[];

export class Engine {
  #open: OpenModel;
  readonly #calls = new OneByOne();
  readonly #closing = new AbortController();
  #disposed: Promise<void> | undefined;
  /** Calls that run or wait. */
  #queued = 0;
  readonly #remembered = new RememberedSequence();
  readonly #waiting = new Set<() => void>();

  readonly #extensions = new Extensions();

  private constructor(open: OpenModel) {
    this.#open = open;
  }

  /** Plans and loads a checkpoint directory. On failure or abort everything taken is given back first. */
  static async open(dir: string, options: EngineOptions = {}): Promise<Engine> {
    return new Engine(await openModel(dir, options));
  }

  /**
   * Loads the model anew with some options changed; only within {@link exclusive}. On failure it is loaded as it was before
   * the error is thrown; if that fails too the engine is disposed.
   */
  async reopen(change: Partial<EngineOptions>): Promise<void> {
    const { prepared, options } = this.#open;
    this.#remembered.forget();
    await releaseModel(this.#open);
    const { signal: _, progress_callback: __, warning_callback: ___, ...before } = options;
    try {
      this.#open = await openModel(prepared.dir, { ...before, ...change });
    } catch (error) {
      try {
        this.#open = await openModel(prepared.dir, before);
      } catch {
        this.#disposed = Promise.resolve();
      }
      throw error;
    }
  }

  get prepared(): Prepared {
    return this.#open.prepared;
  }

  /** What it was opened with. */
  get options(): EngineOptions {
    return this.#open.options;
  }

  get #parts(): EngineParts {
    return this.#open.parts;
  }

  get #kv(): KvCache {
    return this.#open.kv;
  }

  /** Enters what works on the weights beside the engine; within {@link exclusive}. Dispose the result to undo it. */
  attach(extension: EngineExtension): Disposable {
    const attached = this.#extensions.attach(extension);
    const apply = () => {
      const { executor, adapter } = this.#parts;
      executor.adapter = this.#extensions.adapter ?? adapter;
    };
    apply();
    return {
      [Symbol.dispose]: () => {
        attached[Symbol.dispose]();
        apply();
      },
    };
  }

  /** Only for use within {@link exclusive}; valid until the model is disposed. */
  get parts(): EngineParts {
    return this.#parts;
  }

  /** Tokens of all sequences together that fit in the cache now. */
  get capacity(): number {
    return this.#kv.capacity;
  }

  /**
   * Tokens that {@link ensureCapacity} can make room for within the budget, with room left for passes that are wider than
   * those of one sequence of the planned context.
   */
  get largestCapacity(): number {
    const { spec, rows: planned, plan } = this.prepared;
    const { ledger, units } = this.#parts;
    const { capacity } = this.#kv;
    const places = this.#places;
    const inputs = inputBytes(
      Math.max(planned, PASS_TOKENS),
      spec.hidden_size,
      gatheredRowBytes(units),
      1,
      spec.windows,
    );
    const wider = Math.max(0, CHUNK_TOKENS / planned - 1);
    const passes = Math.max(0, inputs - plan.fixed.activations) + Math.ceil(plan.fixed.scratch * wider);
    const room = (tier: "gpu" | "cpu") => ledger.free(tier) + places.bytes(tier, capacity) - passes;
    return Math.max(capacity, places.most(room));
  }

  /**
   * No text of more tokens can ever be run: the model has no positions for it, or it would not fit if the budget were its
   * alone. What else is held at the moment does not count, so a text that fits later is not refused.
   */
  get longestText(): number {
    const { ledger } = this.#parts;
    const most = this.#places.most((tier) => ledger.budget(tier));
    return Math.min(this.prepared.spec.max_positions, most);
  }

  get #places(): KvPlaces {
    return kvPlaces(this.prepared, this.#parts.ledger);
  }

  /**
   * Runs new tokens of sequences through the model: see {@link Executor.run}. Calls queue. Throws ConfigError for ids
   * outside the vocabulary and for positions beyond the model's or the cache's.
   */
  run(
    sequences: readonly SequenceInput[],
    want: "all" | "last",
    sink: LogitsSink,
    signal?: AbortSignal,
  ): Promise<void> {
    return this.exclusive(() => this.step(sequences, want, sink, signal));
  }

  /**
   * Runs `work` when earlier callers are done; within it, {@link step} has the cache to itself. `goesOn`: it may go on from
   * the sequence before, which for any other work is forgotten: it may change the weights.
   */
  exclusive<T>(work: () => Promise<T>, { goesOn = false } = {}): Promise<T> {
    this.#queued++;
    this.#wanted();
    return this.#calls.run(async () => {
      try {
        if (this.#disposed) throw new DisposedError("the model");
        if (!goesOn) this.#remembered.forget();
        return await work();
      } finally {
        this.#queued--;
      }
    });
  }

  /**
   * Resolves when someone else asks for the model, or it is to be disposed: for a call that would wait for its reader,
   * who may never come back. Only within {@link exclusive}; call `leave` of what it gives when it is not needed any more.
   */
  whenWanted(): { wanted: Promise<void>; leave: () => void } {
    let leave = () => {};
    const wanted = new Promise<void>((resolve) => {
      const wake = () => resolve();
      this.#waiting.add(wake);
      leave = () => this.#waiting.delete(wake);
    });
    if (this.#queued > 1 || this.#disposed) this.#wanted();
    return { wanted, leave };
  }

  #wanted(): void {
    for (const wake of this.#waiting) wake();
  }

  /**
   * Tokens at the start of a prompt whose keys and values are there already, from row 0 on: those it has in common with the
   * sequence before, all but the last at most. Only within {@link exclusive}, until {@link step}.
   */
  commonPrefix(prompt: readonly number[]): number {
    return this.#remembered.commonPrefix(prompt, this.#parts.executor.adapter);
  }

  /** Says that the cache holds the keys and values of these tokens from row 0 on. Only within {@link exclusive}. */
  remember(ids: readonly number[]): void {
    if (this.options.prefix_cache !== false) this.#remembered.keep(ids, this.#parts.executor.adapter);
  }

  /** One run of the executor; only within {@link exclusive}. */
  async step(
    sequences: readonly SequenceInput[],
    want: "all" | "last",
    sink: LogitsSink,
    signal?: AbortSignal,
    progress?: PassProgress,
  ): Promise<void> {
    await this.#extensions.settle();
    this.#remembered.forget();
    const { max_positions, positions } = this.prepared.spec;
    for (const { past, tokens, base } of sequences) {
      if (tokens.length === 0)
        throw new ConfigError("input_ids: a sequence is empty; it needs at least one token");
      const length = past + tokens.length;
      if (length > max_positions) {
        const more =
          max_positions < positions.most
            ? `open it with context_length ${length} (--context-length) to go beyond what it was trained for`
            : positions.end;
        throw new ConfigError(
          `${length} tokens are more than the model's ${max_positions} positions; ${more}`,
        );
      }
      if (base + length > this.#kv.capacity) {
        throw new ConfigError(`row ${base + length} is beyond the KV cache of ${this.#kv.capacity} tokens`);
      }
    }
    const linked = linkSignals(this.#closing.signal, signal); // every row that is read listens
    try {
      await this.#parts.executor.run(this.#kv, sequences, want, sink, linked.signal, progress);
    } finally {
      linked.unlink();
    }
  }

  /**
   * Logits of every token of some sequences: f32 [tokens, vocab]; only within {@link exclusive}. They are entered in the
   * ledger until they are there, and are the caller's from then on. Throws BudgetError before anything is computed.
   */
  async allLogits(sequences: readonly SequenceInput[], signal?: AbortSignal): Promise<Float32Array> {
    const { spec } = this.prepared;
    const { ledger } = this.#parts;
    const tokens = sequences.reduce((sum, s) => sum + s.tokens.length, 0);
    const entry = reserveLogits(ledger, tokens, spec.vocab_size, this.#everythingResident);
    try {
      const data = makeLogits(tokens * spec.vocab_size);
      await this.step(sequences, "all", data, signal);
      return data;
    } finally {
      entry.release();
    }
  }

  /** Whether a larger budget would stay free: it is not filled with weights that stream now. */
  get #everythingResident(): boolean {
    const { homes, compute } = this.prepared.plan;
    return homes.every((home) => home === compute || home === "cpu");
  }

  /** Makes sure the cache holds `tokens` tokens. Its contents are lost when it grows. Throws BudgetError. */
  async ensureCapacity(tokens: number): Promise<void> {
    const planned = this.#kv.capacity;
    if (tokens <= planned) return;
    const { ledger } = this.#parts;
    const places = this.#places;
    for (const tier of places.tiers) {
      const needed = places.bytes(tier, tokens);
      const room = ledger.free(tier) + places.bytes(tier, planned);
      if (needed <= room) continue;
      throw new BudgetError(
        `the KV cache has room for ${planned} tokens and ${tokens} are needed: they take ${formatBytes(needed)} on ` +
          `${tier}, of whose budget ${formatBytes(room)} are left for it; open the model with context_length ` +
          `${tokens} (--context-length), which keeps fewer weights in memory, or use fewer or shorter sequences`,
        { tier, needed, budget: ledger.budget(tier) },
      );
    }
    this.#renewCache(tokens);
  }

  /** The largest cache that {@link moveRows} can make within the budget. Tokens. */
  get largestMove(): number {
    const { ledger } = this.#parts;
    return this.#kv.largest((tier) => ledger.free(tier));
  }

  /**
   * Lays the cache out anew, in this or another size, keeping the rows that `moves` names, whose order stays.
   * Throws BudgetError beyond {@link largestMove}, LibraryError where the system refuses memory; the rows are lost then.
   */
  moveRows(capacity: number, moves: readonly RowMove[]): void {
    if (capacity === this.#kv.capacity) {
      this.#kv.move(moves);
      return;
    }
    this.#open.kv = this.#guarded(() => this.#kv.movedTo(capacity, moves));
    this.#forgetBuffers();
  }

  /** To be called when device memory was freed. */
  #forgetBuffers(): void {
    for (const { device } of this.#parts.sides) device.forgetBuffers();
  }

  /** Keeps only as much room for inputs as passes of one token of `sequences` sequences need. */
  trimInputs(sequences: number): void {
    const { sides, units } = this.#parts;
    const bytes = inputBytes(sequences, this.prepared.spec.hidden_size, gatheredRowBytes(units));
    for (const { inputs } of sides) inputs.trim(bytes);
  }

  /** Makes cache and inputs as large as planned again, for what comes next. Of what the cache holds, as much stays as fits. */
  releaseGrowth(): void {
    const { rows, plan } = this.prepared;
    if (this.#kv.capacity !== rows) this.#shrink(rows);
    for (const { inputs } of this.#parts.sides) {
      inputs.trim(plan.fixed.activations);
      inputs.reserve(plan.fixed.activations);
    }
  }

  /** A cache of fewer rows, with the first of the sequence that is remembered. */
  #shrink(capacity: number): void {
    const rows = Math.min(this.#remembered.length, capacity);
    if (rows === 0) {
      this.#renewCache(capacity);
      return;
    }
    try {
      this.moveRows(capacity, [{ from: 0, to: 0, rows }]);
      this.#remembered.shorten(rows);
    } catch {
      this.#remembered.forget(); // the rows are lost, and a cache of the planned size is there
    }
  }

  /** Another cache in place of this one, whose contents are lost. */
  #renewCache(capacity: number): void {
    this.#remembered.forget();
    this.#kv.dispose();
    this.#forgetBuffers();
    const { spec, kv_dtype } = this.prepared;
    this.#open.kv = this.#guarded(() => new KvCache(spec, kv_dtype, capacity, this.#places));
  }

  /** What `make` makes; if it fails, a cache of the planned size takes the place of the one that is gone. */
  #guarded(make: () => KvCache): KvCache {
    try {
      return make();
    } catch (error) {
      this.#remembered.forget();
      const { spec, kv_dtype, rows } = this.prepared;
      this.#forgetBuffers();
      this.#open.kv = new KvCache(spec, kv_dtype, rows, this.#places);
      throw error;
    }
  }

  memory(): EngineMemory {
    const { ledger } = this.#parts;
    const per = (f: (tier: Tier) => number) => ({ gpu: f("gpu"), cpu: f("cpu"), disk: f("disk") });
    return {
      budget: per((t) => ledger.budget(t)),
      used: per((t) => ledger.used(t)),
      peak: per((t) => ledger.peak(t)),
      entries: ledger.entries(),
    };
  }

  statistics(): StreamStatistics {
    const { sides, queue, rows } = this.#parts;
    return {
      streamedBytes: sides.reduce((sum, { streamer }) => sum + (streamer?.streamedBytes ?? 0), 0),
      readBytes: queue.stats().bytes + rows.readBytes,
      readSeconds: queue.stats().busySeconds,
    };
  }

  /** What was computed with how many threads of the CPU, training on this engine included. */
  threadUses(): ThreadUses {
    return this.prepared.cpu.threadUses();
  }

  get disposed(): boolean {
    return this.#disposed !== undefined;
  }

  /** Stops what runs, waits for it, and frees everything. Safe to call twice. */
  dispose(): Promise<void> {
    this.#disposed ??= this.#dispose();
    return this.#disposed;
  }

  async #dispose(): Promise<void> {
    this.#closing.abort(new AbortError("the model was disposed"));
    this.#wanted();
    await this.#calls.idle();
    await runAll([() => this.#extensions.beforeDispose(), () => releaseModel(this.#open)]);
  }
}

/** One line for people: how much of what. */
export function describeBytes(bytes: Readonly<Record<Tier, number>>): string {
  return (["gpu", "cpu", "disk"] as const).map((tier) => `${tier} ${formatBytes(bytes[tier])}`).join(", ");
}
