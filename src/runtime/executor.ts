// Walks the stages: waits for weights, builds graphs, computes, gives weights back. One call at a time.
import { throwIfAborted } from "../errors.ts";
import type { Device } from "../ggml/device.ts";
import type { GraphMemory } from "../ggml/graph-memory.ts";
import { headersCanChange } from "../ggml/header-fields.ts";
import { library } from "../ggml/library.ts";
import type { Graph, LowRank } from "../ggml/ops.ts";
import type { Tensor } from "../ggml/tensor.ts";
import type { ModelSpec, Weights } from "../models/spec.ts";
import type { Unit } from "../plan/units.ts";
import type { ChunkInputs } from "./attention.ts";
import { CacheWindow } from "./cache-window.ts";
import { CHUNK_TOKENS, type Chunk, type Pass, type SequenceInput, splitPasses } from "./chunks.ts";
import { GraphBuilder } from "./graph-builder.ts";
import type { GatheredRows, PassInputs } from "./inputs.ts";
import type { KvCache } from "./kv-cache.ts";
import type { Slot } from "./lane.ts";
import type { Residents } from "./residents.ts";
import type { RowReader } from "./row-reader.ts";
import {
  buildStages,
  headerEstimate,
  headTokens,
  type Selection,
  type StageMemory,
  tailStart,
} from "./stage-graph.ts";
import type { Streamer } from "./streamer.ts";

export interface ExecutorParts {
  readonly spec: ModelSpec;
  readonly units: readonly Unit[];
  readonly device: Device;
  readonly residents: Residents;
  readonly streamer: Streamer | undefined;
  /** Units that the streamer brings. */
  readonly streamed: ReadonlySet<Unit>;
  readonly rows: RowReader;
  readonly inputs: PassInputs;
  readonly graphs: GraphMemory;
  readonly flash: boolean;
  /** What linear layers add to their products. */
  readonly adapter?: AdapterSource | undefined;
}

/** Where low-rank additions come from: a loaded adapter, or one that is being trained. */
export interface AdapterSource {
  lowRank(unit: Unit, key: string): LowRank | undefined;
}

interface Built {
  readonly graph: Graph;
  readonly logits: Tensor | undefined;
}

/** Logits of one token: its index in the call (sequences one after another) and f32 [vocab]. */
export type LogitsSink = (token: number, logits: Float32Array) => void;

export class Executor {
  readonly #p: ExecutorParts;
  /** What linear layers add to their products. */
  adapter: AdapterSource | undefined;
  readonly #graphs: GraphBuilder;
  /** The graph of single tokens that was built last. */
  #kept: (Built & { readonly key: readonly unknown[]; readonly window: CacheWindow }) | undefined;

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
  ): Promise<void> {
    const { streamer, spec } = this.#p;
    await streamer?.followPass();
    try {
      for (const pass of splitPasses(sequences, spec.vocab_size)) {
        const wanted =
          want === "all"
            ? pass.ids.map((_, i) => i)
            : Int32Array.from([...pass.last.values()].sort((a, b) => a - b));
        await this.#pass(kv, pass, wanted, (i, logits) => sink(pass.start + i, logits), signal);
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
    signal?: AbortSignal,
  ): Promise<void> {
    const { units, inputs, device, streamer, streamed } = this.#p;
    throwIfAborted(signal);
    streamer?.start();
    inputs.prepare(pass, await this.#gather(pass, signal), wanted);
    const tail = tailStart(units);
    // Only the CPU joins stages: on a GPU kernels may be fused across them, which would round differently.
    const join = device.kind === "cpu" && pass.chunks.length === 1;
    for (const group of this.#groups(join)) {
      throwIfAborted(signal);
      const job = streamed.has(group[0] as Unit) ? await streamer?.acquire(group[0] as Unit) : undefined;
      try {
        const memory = this.#memory(kv, pass, tail, job?.slots ?? []);
        await this.#group(group, pass, memory, wanted, sink, signal);
      } finally {
        if (job) streamer?.release(job);
      }
    }
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
      await this.#compute(group, single, memory, whole, wanted, sink);
      return;
    }
    if (body.length > 0)
      for (const chunk of pass.chunks) await this.#compute(body, chunk, memory, whole, wanted, sink);
    const all: Chunk = { start: 0, tokens: pass.ids.length, parts: [] };
    for (const unit of rest) {
      const width = this.#width(unit);
      for (let first = 0; first < wanted.length; first += width) {
        throwIfAborted(signal);
        const selection = { first, count: Math.min(width, wanted.length - first) };
        await this.#compute([unit], all, memory, selection, wanted, sink);
      }
    }
  }

  /** Tokens that a stage of the tail computes at once. */
  #width(unit: Unit): number {
    return unit.stage.kind === "head" ? headTokens(this.#p.spec.vocab_size) : CHUNK_TOKENS;
  }

  /** Stages that are computed in one graph: runs of resident ones where stages may be joined, else one by one. */
  #groups(join: boolean): Unit[][] {
    const { units, streamed } = this.#p;
    const groups: Unit[][] = [];
    let open: Unit[] | undefined;
    for (const unit of units) {
      if (join && !streamed.has(unit)) {
        if (!open) {
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
    memory: StageMemory,
    selection: Selection,
    wanted: Int32Array,
    sink: LogitsSink,
  ): Promise<void> {
    const { graph, logits } = this.#graph(units, chunk, memory, selection);
    await this.#p.device.compute(graph.handle);
    if (!logits) return;
    const vocab = logits.ne[0];
    for (let i = 0; i < selection.count; i++) {
      const row = new Float32Array(vocab);
      library().native.ggml_backend_tensor_get(logits.handle, row, i * vocab * 4, vocab * 4);
      sink(wanted[selection.first + i] as number, row);
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
  async #gather(pass: Pass, signal?: AbortSignal): Promise<GatheredRows[]> {
    const gathered: GatheredRows[] = [];
    for (const unit of this.#p.units) {
      for (const [key, matrix] of Object.entries(unit.matrices)) {
        const by = unit.stage.weights[key]?.rows;
        if (!by || this.#onDevice(unit, key)) continue;
        gathered.push(await this.#p.rows.gather(matrix, by === "tokens" ? pass.ids : pass.positions, signal));
      }
    }
    return gathered;
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
