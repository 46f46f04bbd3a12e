// An open model: loads what the plan says, then runs calls one after another. No text, no sampling.
import { setMaxListeners } from "node:events";
import { AbortError, BudgetError, ConfigError, DisposedError, throwIfAborted } from "../errors.ts";
import { GraphMemory } from "../ggml/graph-memory.ts";
import { Ledger, type Reservation } from "../memory/ledger.ts";
import { defaultDepth, ReadQueue } from "../memory/read-queue.ts";
import { formatBytes } from "../memory/sizes.ts";
import type { Tier } from "../memory/tiers.ts";
import { type Unit, withMatrices } from "../plan/units.ts";
import { AdapterWeights, adapterFileBytes } from "./adapter.ts";
import type { SequenceInput } from "./chunks.ts";
import { Executor, type LogitsSink } from "./executor.ts";
import { PassInputs } from "./inputs.ts";
import { KvCache, kvBytes } from "./kv-cache.ts";
import type { LoaderContext } from "./loader.ts";
import { gatheredRowBytes, reserveScratch } from "./measure.ts";
import { needConversion, offloadCopy, redirect } from "./offload-copy.ts";
import { type EngineOptions, type Prepared, prepare } from "./prepare.ts";
import { Progress } from "./progress.ts";
import { Residents } from "./residents.ts";
import { RowReader } from "./row-reader.ts";
import { SourceFiles } from "./sources.ts";
import { StateDict } from "./state-dict.ts";
import { Streamer } from "./streamer.ts";

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

/** What a loaded model is made of. For the parts of the library that use its weights in their own way, such as training. */
export interface EngineParts {
  readonly ledger: Ledger;
  readonly sources: SourceFiles;
  readonly queue: ReadQueue;
  /** The model's units, those on disk reading from a converted copy where there is one. */
  readonly units: readonly Unit[];
  readonly residents: Residents;
  /** The adapter the model was opened with. */
  readonly adapter: AdapterWeights | undefined;
  readonly streamer: Streamer | undefined;
  readonly rows: RowReader;
  readonly inputs: PassInputs;
  readonly graphs: GraphMemory;
  readonly executor: Executor;
}

export class Engine {
  #open: Open;
  #turn: Promise<unknown> = Promise.resolve();
  readonly #closing = new AbortController();
  #disposed: Promise<void> | undefined;

  /** Awaited before the weights are used for anything but training: updates of them may still be under way. */
  settle: (() => Promise<void>) | undefined;

  private constructor(open: Open) {
    this.#open = open;
  }

  /** Plans and loads a checkpoint directory. On failure or abort everything taken is given back first. */
  static async open(dir: string, options: EngineOptions = {}): Promise<Engine> {
    return new Engine(await open(dir, options));
  }

  /**
   * Loads the model anew with some options changed, after what is under way. On failure it is loaded as it was before
   * the error is thrown; if that fails too the engine is disposed.
   */
  reopen(change: Partial<EngineOptions>): Promise<void> {
    return this.exclusive(async () => {
      const { prepared, options } = this.#open;
      await release(this.#open);
      const { signal: _, progress_callback: __, ...before } = options;
      try {
        this.#open = await open(prepared.dir, { ...before, ...change });
      } catch (error) {
        try {
          this.#open = await open(prepared.dir, before);
        } catch {
          this.#disposed = Promise.resolve();
        }
        throw error;
      }
    });
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

  /** Only for use within {@link exclusive}; valid until the model is disposed. */
  get parts(): EngineParts {
    return this.#parts;
  }

  /** Tokens of all sequences together that fit in the cache now. */
  get capacity(): number {
    return this.#kv.capacity;
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

  /** Runs `work` when earlier callers are done; within it, {@link step} has the cache to itself. */
  exclusive<T>(work: () => Promise<T>): Promise<T> {
    const guarded = async () => {
      if (this.#disposed) throw new DisposedError("the model");
      return work();
    };
    const result = this.#turn.then(guarded, guarded);
    this.#turn = result.catch(() => {});
    return result;
  }

  /** One run of the executor; only within {@link exclusive}. */
  async step(
    sequences: readonly SequenceInput[],
    want: "all" | "last",
    sink: LogitsSink,
    signal?: AbortSignal,
  ): Promise<void> {
    await this.settle?.();
    const { max_positions } = this.prepared.spec;
    for (const { past, tokens, base } of sequences) {
      if (tokens.length === 0)
        throw new ConfigError("input_ids: a sequence is empty; it needs at least one token");
      const length = past + tokens.length;
      if (length > max_positions) {
        throw new ConfigError(`${length} tokens are more than the model's ${max_positions} positions`);
      }
      if (base + length > this.#kv.capacity) {
        throw new ConfigError(`row ${base + length} is beyond the KV cache of ${this.#kv.capacity} tokens`);
      }
    }
    const linked = signal ? AbortSignal.any([signal, this.#closing.signal]) : this.#closing.signal;
    setMaxListeners(0, linked); // one for every row that is read
    await this.#parts.executor.run(this.#kv, sequences, want, sink, linked);
  }

  /** Makes sure the cache holds `tokens` tokens. Its contents are lost when it grows. Throws BudgetError. */
  async ensureCapacity(tokens: number): Promise<void> {
    if (tokens <= this.#kv.capacity) return;
    const { spec, kv_dtype } = this.prepared;
    const { ledger } = this.#parts;
    const place = kvPlace(this.prepared, ledger);
    const previous = this.#kv.capacity;
    const needed = kvBytes(spec, kv_dtype, tokens);
    const room = ledger.free(place.tier) + kvBytes(spec, kv_dtype, previous);
    if (needed > room) {
      throw new BudgetError(
        `the KV cache has room for ${previous} tokens and ${tokens} are needed: they take ${formatBytes(needed)} on ` +
          `${place.tier}, of whose budget ${formatBytes(room)} are left for it; open the model with context_length ` +
          `${tokens} (--context-length), which keeps fewer weights in memory, or use fewer or shorter sequences`,
        { tier: place.tier, needed, budget: ledger.budget(place.tier) },
      );
    }
    this.#kv.dispose();
    this.prepared.device.forgetBuffers();
    try {
      this.#open.kv = new KvCache(spec, kv_dtype, tokens, place);
    } catch (error) {
      this.#open.kv = new KvCache(spec, kv_dtype, previous, place);
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
    const { streamer, queue, rows } = this.#parts;
    return {
      streamedBytes: streamer?.streamedBytes ?? 0,
      readBytes: queue.stats().bytes + rows.readBytes,
      readSeconds: queue.stats().busySeconds,
    };
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
    await this.#turn;
    await release(this.#open);
  }
}

/** What is there while a model is open. */
interface Open {
  readonly prepared: Prepared;
  readonly options: EngineOptions;
  readonly parts: EngineParts;
  kv: KvCache;
  readonly cleanup: Cleanup;
}

async function open(dir: string, options: EngineOptions): Promise<Open> {
  throwIfAborted(options.signal);
  const cleanup = new Cleanup();
  try {
    const prepared = await prepare(dir, options);
    const { device, cpu } = prepared;
    cleanup.add(() => cpu.dispose());
    if (device !== cpu) cleanup.add(() => device.dispose());
    const { parts, kv } = await load(prepared, options, cleanup);
    return { prepared, options, parts, kv, cleanup };
  } catch (error) {
    await cleanup.run();
    throw error;
  }
}

async function release({ kv, cleanup }: Open): Promise<void> {
  kv.dispose();
  await cleanup.run();
}

/** Takes and fills everything the plan calls for, entering each part in `cleanup` as it is made. */
async function load(
  prepared: Prepared,
  options: EngineOptions,
  cleanup: Cleanup,
): Promise<{ parts: EngineParts; kv: KvCache }> {
  const { cpu, device, plan, budgets, spec } = prepared;
  const ledger = new Ledger(budgets);
  const depth = Math.max(1, defaultDepth() - (device.kind === "gpu" ? 1 : 0)); // a GPU's copies need a thread too
  const queue = new ReadQueue({ depth, beforeRead: options.beforeRead });
  const sources = await SourceFiles.open(prepared.checkpoint);
  cleanup.add(() => sources.close());
  const progress = new Progress(options.progress_callback);
  const ctx: LoaderContext = {
    cpu,
    sources,
    queue,
    ledger,
    signal: options.signal,
    onBytes: (name, bytes) => progress.add(name, bytes),
  };
  const units = await onDisk(prepared, options, ctx, progress, cleanup);
  progress.begin(bytesToRead(units, plan.homes) + adapterFileBytes(prepared.adapter));
  const naive = options.low_cpu_mem_usage === false;
  const stateDict = naive ? await StateDict.read(prepared.checkpoint, ctx) : undefined;
  let residents: Residents;
  try {
    residents = await Residents.load(
      units,
      plan.homes,
      { compute: device, hostMemory: device.kind === "gpu" ? device.hostMemory : cpu.memory },
      stateDict ? { ...ctx, stateDict } : ctx,
    );
  } finally {
    stateDict?.dispose();
  }
  cleanup.add(() => residents.dispose());
  const adapter = await loadAdapter(prepared, ctx);
  if (adapter) cleanup.add(() => adapter.dispose());
  progress.end();
  throwIfAborted(options.signal);

  const rowSizes = gatheredRowBytes(units);
  const rowQueue = new ReadQueue({ depth: 1, beforeRead: options.beforeRead });
  const rows = new RowReader(cpu, ledger, residents, sources, rowSizes, rowQueue);
  cleanup.add(() => rows.dispose());
  const inputs = new PassInputs(device, ledger, spec.hidden_size);
  cleanup.add(() => inputs.dispose());
  inputs.reserve(plan.fixed.activations);
  const scratch = graphMemory(prepared, ledger);
  cleanup.add(scratch.release);
  const kv = new KvCache(spec, prepared.kv_dtype, prepared.context, kvPlace(prepared, ledger));
  const streamed = units.filter((u) => streams(u, prepared));
  let streamer: Streamer | undefined;
  try {
    if (streamed.length > 0) {
      const { ring, staging } = plan;
      streamer = new Streamer({ device, cycle: streamed, residents, sources, queue, ledger, ring, staging });
    }
  } catch (error) {
    kv.dispose();
    throw error;
  }
  if (streamer) cleanup.add(() => (streamer as Streamer).dispose());
  const executor = new Executor({
    spec,
    units,
    device,
    residents,
    streamer,
    streamed: new Set(streamed),
    rows,
    inputs,
    graphs: scratch.graphs,
    flash: prepared.flash,
    adapter,
  });
  cleanup.add(() => executor.dispose());
  return {
    parts: {
      ledger,
      sources,
      queue,
      units,
      residents,
      adapter,
      streamer,
      rows,
      inputs,
      graphs: scratch.graphs,
      executor,
    },
    kv,
  };
}

async function loadAdapter(
  { adapter, device }: Prepared,
  ctx: LoaderContext,
): Promise<AdapterWeights | undefined> {
  if (!adapter) return undefined;
  return AdapterWeights.load(adapter, await ctx.sources.add(adapter.checkpoint), device, ctx);
}

/** Whether a unit is brought to the computing device in every pass. */
function streams(unit: Unit, { plan, device }: Prepared): boolean {
  const home = plan.homes[unit.index] as Tier;
  return !unit.rowsOnly && (home === "disk" || home !== device.kind);
}

/** The units, reading those whose home is disk from a converted copy where another type is wanted. */
async function onDisk(
  prepared: Prepared,
  options: EngineOptions,
  ctx: LoaderContext,
  progress: Progress,
  cleanup: Cleanup,
): Promise<readonly Unit[]> {
  const { training } = options;
  const units = training
    ? await training.place(prepared, prepared.model.units, ctx, (step) => cleanup.add(step))
    : prepared.model.units;
  const streams = (u: Unit) => prepared.plan.homes[u.index] === "disk";
  const matrices = needConversion(units, streams).filter((m) => !training?.trains(m.name));
  if (matrices.length === 0) return units;
  progress.begin(matrices.reduce((sum, m) => sum + m.source.bytes, 0));
  const entry = ctx.ledger.reserve(
    "disk",
    matrices.reduce((sum, m) => sum + m.bytes, 0),
    "converted weights",
  );
  cleanup.add(() => entry.release());
  const copy = await offloadCopy(prepared.checkpoint, matrices, options.offload_folder, ctx);
  const firstFile = await ctx.sources.add(copy);
  const moved = new Map(matrices.map((m) => [m.name, redirect(m, copy, firstFile)]));
  return withMatrices(units, moved);
}

function bytesToRead(units: readonly Unit[], homes: readonly Tier[]): number {
  let total = 0;
  for (const unit of units) {
    for (const v of unit.vectors) total += v.source.bytes;
    if (homes[unit.index] !== "disk") for (const m of unit.owned) total += m.source.bytes;
  }
  return total;
}

function kvPlace(prepared: Prepared, ledger: Ledger) {
  const { device } = prepared;
  return { ledger, tier: device.kind, memory: device.memory } as const;
}

/** Scratch memory of graphs, entered in the ledger at the planned size at once. */
function graphMemory(prepared: Prepared, ledger: Ledger): { graphs: GraphMemory; release: () => void } {
  const { device, plan } = prepared;
  let entry: Reservation | undefined = ledger.reserve(device.kind, plan.fixed.scratch, "graph scratch");
  const graphs = new GraphMemory(device.memory, (bytes) => {
    if (entry && bytes > entry.bytes) entry.resize(bytes);
  });
  const release = () => {
    graphs.dispose();
    entry?.release();
    entry = undefined;
  };
  try {
    reserveScratch(prepared.spec, prepared.model.units, device, prepared, graphs);
  } catch (error) {
    release();
    throw error;
  }
  return { graphs, release };
}

/** Steps that undo what was done, run once, last first. */
class Cleanup {
  readonly #steps: (() => void | Promise<void>)[] = [];
  add(step: () => void | Promise<void>): void {
    this.#steps.push(step);
  }
  async run(): Promise<void> {
    for (let step = this.#steps.pop(); step; step = this.#steps.pop()) await step();
  }
}

/** One line for people: how much of what. */
export function describeBytes(bytes: Readonly<Record<Tier, number>>): string {
  return (["gpu", "cpu", "disk"] as const).map((tier) => `${tier} ${formatBytes(bytes[tier])}`).join(", ");
}
