// Walks the stages: waits for weights, builds graphs, computes, gives weights back. One call at a time.

import type { Device } from "../../backend/ggml/device.ts";
import type { GraphMemory } from "../../backend/ggml/graph-memory.ts";
import { headersCanChange } from "../../backend/ggml/header-fields.ts";
import type { Graph, LowRank } from "../../backend/ggml/ops.ts";
import type { Tensor } from "../../backend/ggml/tensor.ts";
import { download, downloadNow } from "../../backend/ggml/transfer.ts";
import { throwIfAborted } from "../../base/errors.ts";
import type { ModelSpec, Weights } from "../../models/spec.ts";
import type { Unit } from "../../plan/units.ts";
import { CacheWindow } from "../state/cache-window.ts";
import type { KvCache } from "../state/kv-cache.ts";
import type { Slot } from "../weights/lane.ts";
import type { Residents } from "../weights/residents.ts";
import type { RowReader } from "../weights/row-reader.ts";
import type { UnitStreamer } from "../weights/streamer.ts";
import type { ChunkInputs } from "./attention.ts";
import { CHUNK_TOKENS, type Chunk, type Pass, type SequenceInput, splitPasses } from "./chunks.ts";
import { GraphBuilder } from "./graph-builder.ts";
import type { GatheredRows, PassInputs } from "./inputs.ts";
import {
  buildStages,
  headerEstimate,
  headTokens,
  type Selection,
  type StageMemory,
  tailStart,
} from "./stage-graph.ts";

export interface ExecutorParts {
  readonly spec: ModelSpec;
  readonly units: readonly Unit[];
  readonly device: Device;
  readonly residents: Residents;
  readonly streamer: UnitStreamer | undefined;
  /** Units that the streamer brings. */
  readonly streamed: ReadonlySet<Unit>;
  readonly rows: RowReader;
  readonly inputs: PassInputs;
  readonly graphs: GraphMemory;
  readonly flash: boolean;
  /** What linear layers add to their products. */
  readonly adapter?: AdapterSource | undefined;
  /** Rejects where a file was changed that weights are read from in every pass; undefined where none is. */
  readonly checkUnchanged?: (() => Promise<void>) | undefined;
}

/** Where low-rank additions come from: a loaded adapter, or one that is being trained. */
export interface AdapterSource {
  lowRank(unit: Unit, key: string): LowRank | undefined;
}

interface Built {
  readonly graph: Graph;
  readonly logits: Tensor | undefined;
}

/**
 * Where logits go: into memory for those of every token, f32 [tokens, vocab], sequences one after another; or to a function
 * that gets one token's at a time: its index in the call and f32 [vocab], which is good during that call alone.
 */
export type LogitsSink = Float32Array | ((token: number, logits: Float32Array) => void);

/**
 * Headers of a graph that joins stages, at most: 12 MiB of them.
 * Enough for 450 stages of one sequence; with many sequences each stage has many tensors, and fewer are joined. That changes
 * no result.
 */
const JOINED_HEADERS = 2 ** 15;

/** How far a call has come, in tokens; within a pass stages count as parts of its tokens. */
export type PassProgress = (tokens: number) => void;

export class Executor {
  readonly #p: ExecutorParts;
  /** What linear layers add to their products. */
  adapter: AdapterSource | undefined;
  readonly #graphs: GraphBuilder;
  /** Whether the files that the pass reads from are what they were when they were opened. */
  #unchanged: Promise<void> | undefined;
  /** The graph of single tokens that was built last. */
  #kept: (Built & { readonly key: readonly unknown[]; readonly window: CacheWindow }) | undefined;
  /** The logits of one token on their way to a function: f32 [vocab]. */
  #row: Float32Array | undefined;

  constructor(parts: ExecutorParts) {
    this.#p = parts;
    this.#graphs = new GraphBuilder(parts.device, parts.graphs);
    this.adapter = parts.adapter;
  }

  /**
   * Computes new tokens of some sequences, storing their keys and values. Logits are given for every token, or for
   * the last one of each sequence. After an error or abort the cache rows of these tokens are undefined and the
   * executor is ready for the next call.
   */
  async run(
    kv: KvCache,
    sequences: readonly SequenceInput[],
    want: "all" | "last",
    sink: LogitsSink,
    signal?: AbortSignal,
    progress?: PassProgress,
  ): Promise<void> {
    const { streamer, spec } = this.#p;
    await streamer?.followPass();
    let before = 0;
    try {
      for (const pass of splitPasses(sequences, spec.vocab_size)) {
        const wanted =
          want === "all" ? pass.ids.map((_, i) => i) : Int32Array.from(pass.last.values()).sort();
        const done = before;
        const { length } = pass.ids;
        await this.#pass(
          kv,
          pass,
          wanted,
          sink,
          signal,
          progress && ((part) => progress(done + part * length)),
        );
        before += length;
      }
    } catch (error) {
      // The next call starts at the first stage again, whatever was in flight.
      await streamer?.reset();
      throw error;
    }
  }

  async #pass(
    kv: KvCache,
    pass: Pass,
    wanted: Int32Array,
    sink: LogitsSink,
    signal: AbortSignal | undefined,
    progress: PassProgress | undefined,
  ): Promise<void> {
    const { units, inputs, device, streamer, streamed } = this.#p;
    throwIfAborted(signal);
    streamer?.start();
    await inputs.prepare(pass, this.#gathered(pass, signal), wanted);
    const tail = tailStart(units);
    // Only the CPU joins stages: on a GPU kernels may be fused across them, which would round differently.
    const join = device.onHost && pass.chunks.length === 1;
    const groups = this.#groups(join ? mostJoined(pass.chunks[0] as Chunk) : 1);
    const lastRead = groups.findLastIndex(([first]) => streamed.has(first as Unit));
    if (lastRead === -1) this.#startCheck();
    for (const [i, group] of groups.entries()) {
      throwIfAborted(signal);
      const job = streamed.has(group[0] as Unit) ? await streamer?.acquire(group[0] as Unit) : undefined;
      if (i === lastRead) this.#startCheck();
      try {
        const memory = this.#memory(kv, pass, tail, job?.slots ?? []);
        await this.#group(group, pass, memory, wanted, sink, signal);
      } finally {
        if (job) streamer?.release(job);
      }
      progress?.((i + 1) / groups.length);
    }
  }

  /** All that the pass computes with has been read: a file that changed before is noticed, while the pass goes on. */
  #startCheck(): void {
    this.#unchanged = this.#p.checkUnchanged?.();
    this.#unchanged?.catch(() => {}); // thrown where results are handed out
  }

  /** Computes stages that are here, over all tokens up to the last attention, then over the wanted ones. */
  async #group(
    group: readonly Unit[],
    pass: Pass,
    memory: StageMemory,
    wanted: Int32Array,
    sink: LogitsSink,
    signal?: AbortSignal,
  ): Promise<void> {
    const body = group.filter((u) => u.index < memory.tail);
    const rest = wanted.length > 0 ? group.filter((u) => u.index >= memory.tail) : [];
    const whole = { first: 0, count: wanted.length };
    const [single] = pass.chunks;
    // The width of a product decides its rounding, so joined stages must have the width they have alone.
    if (
      single &&
      pass.chunks.length === 1 &&
      rest.length > 0 &&
      wanted.length <= Math.min(...rest.map((u) => this.#width(u)))
    ) {
      await this.#compute(group, single, pass, memory, whole, wanted, sink);
      return;
    }
    if (body.length > 0)
      for (const chunk of pass.chunks) await this.#compute(body, chunk, pass, memory, whole, wanted, sink);
    const all: Chunk = { start: 0, tokens: pass.ids.length, parts: [] };
    for (const unit of rest) {
      const width = this.#width(unit);
      for (let first = 0; first < wanted.length; first += width) {
        throwIfAborted(signal);
        const selection = { first, count: Math.min(width, wanted.length - first) };
        await this.#compute([unit], all, pass, memory, selection, wanted, sink);
      }
    }
  }

  /** Tokens that a stage of the tail computes at once. */
  #width(unit: Unit): number {
    return unit.stage.kind === "head" ? headTokens(this.#p.spec.vocab_size) : CHUNK_TOKENS;
  }

  /** Stages that are computed in one graph: runs of up to `most` resident ones, streamed ones one by one. */
  #groups(most: number): Unit[][] {
    const { units, streamed } = this.#p;
    const groups: Unit[][] = [];
    let open: Unit[] | undefined;
    for (const unit of units) {
      if (most > 1 && !streamed.has(unit)) {
        if (!open || open.length === most) {
          open = [];
          groups.push(open);
        }
        open.push(unit);
      } else {
        groups.push([unit]);
        open = undefined;
      }
    }
    return groups;
  }

  /** Runs one graph, handing out logits if it ends in the head. */
  async #compute(
    units: readonly Unit[],
    chunk: Chunk,
    pass: Pass,
    memory: StageMemory,
    selection: Selection,
    wanted: Int32Array,
    sink: LogitsSink,
  ): Promise<void> {
    const { graph, logits } = this.#graph(units, chunk, memory, selection);
    await this.#p.device.compute(graph);
    if (!logits) return;
    if (this.#unchanged) await this.#unchanged;
    await this.#handOut(
      logits,
      wanted.subarray(selection.first, selection.first + selection.count),
      pass,
      sink,
    );
  }

  /** Gives away logits [vocab, count] of some tokens of a pass. */
  async #handOut(logits: Tensor, tokens: Int32Array, { start }: Pass, sink: LogitsSink): Promise<void> {
    const [vocab] = logits.ne;
    const row = vocab * 4;
    if (typeof sink !== "function") {
      const from = start + (tokens[0] as number); // every token is wanted: they lie side by side there too
      const into = sink.subarray(from * vocab, (from + tokens.length) * vocab);
      await download(into, logits, 0, into.byteLength);
      return;
    }
    if (this.#row?.length !== vocab) this.#row = new Float32Array(vocab);
    for (const [i, token] of tokens.entries()) {
      downloadNow(this.#row, logits, i * row);
      sink(start + token, this.#row);
    }
  }

  /** Builds a graph, or moves the last one on where nothing but the number of tokens in the cache differs. */
  #graph(units: readonly Unit[], chunk: Chunk, memory: StageMemory, selection: Selection): Built {
    const { device, inputs, streamed, flash } = this.#p;
    const shape = [units[0]?.index, units.at(-1)?.index, chunk.tokens, chunk.parts.length, selection.count];
    // Without the fused kernel the shapes of intermediate results depend on the tokens in the cache.
    const keep =
      flash &&
      chunk.parts.every((p) => p.count === 1) &&
      !units.some((u) => streamed.has(u)) &&
      headersCanChange(device);
    const places = [chunk.start, selection.first, ...chunk.parts.map((p) => p.base)];
    const key = [memory.kv, inputs.layout, this.adapter, ...shape, ...places];
    const kept = this.#kept;
    if (keep && kept && this.#graphs.holds(kept.graph) && same(kept.key, key)) {
      kept.window.move(chunk.parts);
      return kept;
    }
    this.#kept = undefined;
    const { graph, result } = this.#graphs.build(
      shape.join(),
      (g) => {
        const window = keep ? new CacheWindow() : undefined;
        return { window, logits: buildStages(g, units, chunk, { ...memory, window }, selection) };
      },
      headerEstimate(units.length, Math.max(1, chunk.parts.length)),
    );
    const { window, logits } = result;
    if (window) this.#kept = { graph, logits, key, window };
    return { graph, logits };
  }

  /** Rows of tables that the device cannot look up itself. */
  #gathered(pass: Pass, signal?: AbortSignal): GatheredRows[] {
    const { units, rows } = this.#p;
    return units.flatMap((unit) =>
      Object.entries(unit.matrices).flatMap(([key, matrix]) => {
        const by = unit.stage.weights[key]?.rows;
        if (!by || this.#onDevice(unit, key)) return [];
        return [rows.rows(matrix, by === "tokens" ? pass.ids : pass.positions, signal)];
      }),
    );
  }

  /** The tensor of a matrix that stays in memory the computing device can use. */
  #onDevice(unit: Unit, key: string): Tensor | undefined {
    const matrix = unit.matrices[key];
    const resident = matrix && this.#p.residents.matrix(matrix);
    return resident?.tier === this.#p.device.kind ? resident.tensor : undefined;
  }

  #memory(kv: KvCache, pass: Pass, tail: number, slots: readonly Slot[]): StageMemory {
    const { inputs, residents, flash } = this.#p;
    const { adapter } = this;
    const adapters = new Map<Tensor, LowRank>();
    const weights = (g: Graph, unit: Unit, chunk: Chunk): Weights => {
      const bound: Record<string, Tensor> = { ...residents.vectors(unit) };
      for (const [key, matrix] of Object.entries(unit.matrices)) {
        const resident = this.#onDevice(unit, key);
        const by = unit.stage.weights[key]?.rows;
        if (by) {
          bound[key] = resident
            ? g.getRows(resident, by === "tokens" ? inputs.ids(g, chunk) : inputs.positions(g, chunk))
            : g.cast(inputs.rows(g, matrix.name, chunk) as Tensor, "f32");
        } else if (resident) bound[key] = matrix.kept ? g.cont(g.transpose(resident)) : resident;
        else bound[key] = fromSlot(g, slots, matrix.name);
        const low = adapter?.lowRank(unit, key);
        if (low) adapters.set(bound[key], low);
      }
      if (adapters.size > 0) g.adapters = adapters;
      return bound;
    };
    return {
      kv,
      flash,
      tokens: pass.ids.length,
      tail,
      weights,
      inputs: (g, chunk): ChunkInputs => ({
        positions: inputs.positions(g, chunk),
        masks: inputs.masks(g, pass, chunk),
      }),
      state: (g, first, tokens) => inputs.state(g, first, tokens),
      selected: (g, first, count) => inputs.selected(g, first, count),
    };
  }

  dispose(): void {
    this.#graphs.dispose();
  }
}

/** Stages of a chunk that one graph may have. */
function mostJoined(chunk: Chunk): number {
  const parts = Math.max(1, chunk.parts.length);
  const each = headerEstimate(1, parts) - headerEstimate(0, parts);
  return Math.max(1, Math.floor(JOINED_HEADERS / each));
}

function same(a: readonly unknown[], b: readonly unknown[]): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}

/** A streamed matrix as graphs use it: bound to its slot, turned round if the checkpoint holds it the other way. */
function fromSlot(g: Graph, slots: readonly Slot[], name: string): Tensor {
  const slot = slots.find((s) => s.name === name);
  if (!slot) throw new Error(`${name} is neither resident nor streamed`);
  const stored = g.bind(slot.buffer, slot.offset, slot.dtype, slot.ne, name);
  return slot.transposed ? g.cont(g.transpose(stored)) : stored;
}
