// Walks the stages: waits for weights, builds graphs, computes, gives weights back. One call at a time.

import { GraphRanges, nodeCount, usesOf } from "../../backend/ggml/graph-ranges.ts";
import { headersCanChange } from "../../backend/ggml/header-fields.ts";
import type { Graph, LowRank } from "../../backend/ggml/ops.ts";
import type { Tensor } from "../../backend/ggml/tensor.ts";
import { disposeAll } from "../../base/async/cleanup.ts";
import { throwIfAborted } from "../../base/errors.ts";
import type { Ledger } from "../../memory/ledger.ts";
import type { ModelSpec } from "../../models/spec.ts";
import { byStage, type Matrix, type StageUnits, type Unit } from "../../plan/units.ts";
import { CacheWindow } from "../state/cache-window.ts";
import type { KvCache } from "../state/kv-cache.ts";
import type { Residents } from "../weights/residents.ts";
import type { RowReader } from "../weights/row-reader.ts";
import type { MatrixTensor } from "../weights/weight-source.ts";
import type { ChunkInputs } from "./attention.ts";
import { bindOperands, type OperandSource } from "./bind.ts";
import {
  CHUNK_TOKENS,
  type Chunk,
  PASS_TOKENS,
  type Pass,
  type SequenceInput,
  splitPasses,
} from "./chunks.ts";
import { GraphBuilder } from "./graph-builder.ts";
import { type Bench, type Built, endsInHead, groupStages, type StageGroup, streamedOf } from "./groups.ts";
import type { GatheredRows } from "./inputs.ts";
import { LogitsMemory } from "./logits-memory.ts";
import { LogitsReceiver, type LogitsSink } from "./logits-receiver.ts";
import type { Side } from "./side.ts";
import {
  buildStages,
  headerEstimate,
  headTokens,
  type Selection,
  type StageMemory,
  tailStart,
} from "./stage-graph.ts";
import { passWork } from "./work.ts";

export interface ExecutorParts {
  readonly spec: ModelSpec;
  readonly units: readonly Unit[];
  /** The device that computes a stage, by its index. */
  readonly sideOf: (stage: number) => Side;
  readonly residents: Residents;
  readonly rows: RowReader;
  readonly ledger: Ledger;
  /** What linear layers add to their products. */
  readonly adapter?: AdapterSource | undefined;
  /** Rejects where a file was changed that weights are read from in every pass; undefined where none is. */
  readonly checkUnchanged?: (() => Promise<void>) | undefined;
}

/** Where low-rank additions come from: a loaded adapter, or one that is being trained. */
export interface AdapterSource {
  lowRank(unit: Unit, key: string): LowRank | undefined;
}

/** What a pass is computed with. */
interface Run {
  readonly kv: KvCache;
  readonly pass: Pass;
  /** Indices within the pass of the tokens whose logits are wanted, ascending. */
  readonly wanted: Int32Array;
  readonly tail: number;
  readonly receiver: LogitsReceiver;
  readonly signal: AbortSignal | undefined;
}

/** The matrices of a graph's units. */
type FindMatrix = (g: Graph, unit: Unit, m: Matrix) => MatrixTensor;

/** How far a call has come, in tokens; within a pass stages count as parts of its tokens. */
export type PassProgress = (tokens: number) => void;

export class Executor {
  readonly #p: ExecutorParts;
  /** What linear layers add to their products. */
  adapter: AdapterSource | undefined;
  readonly #benches = new Map<Side, Bench>();
  readonly #stages: readonly StageUnits[];
  readonly #tail: number;
  /** Tables that a side looks rows up in which are not in its memory. */
  readonly #tables = new Map<Side, { readonly matrix: Matrix; readonly by: "tokens" | "positions" }[]>();
  /** Stages of passes of one chunk, by the number of its parts: they are the same for every token. */
  readonly #grouped = new Map<number, readonly StageGroup[]>();
  /** Stages whose units come and go while they are computed. */
  readonly #piecewise: ReadonlySet<StageUnits>;
  readonly #logits: LogitsMemory;
  /** Whether the files that the pass reads from are what they were when they were opened. */
  #unchanged: Promise<void> | undefined;

  constructor(parts: ExecutorParts) {
    this.#p = parts;
    this.#logits = new LogitsMemory(parts.ledger, parts.spec.vocab_size);
    this.adapter = parts.adapter;
    this.#stages = byStage(parts.units);
    for (const { index } of this.#stages) {
      const side = parts.sideOf(index);
      if (this.#benches.has(side)) continue;
      const [graphs, ranges] = [new GraphBuilder(side.device, side.graphs), new GraphRanges(side.device)];
      this.#benches.set(side, { side, graphs, ranges, kept: undefined });
    }
    const piecewise = this.#stages.filter(({ index, stage, units }) => {
      const side = parts.sideOf(index);
      return stage.kind !== "head" && !side.wholeStages && streamedOf(side, units).length > 1;
    });
    this.#piecewise = new Set(piecewise);
    this.#tail = tailStart(parts.spec.stages);
    for (const side of this.#benches.keys()) this.#tables.set(side, this.#tablesOf(side));
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
    const { spec } = this.#p;
    for (const { streamer } of this.#benches.keys()) await streamer?.followPass();
    // Weights that make room for one another are brought again for every graph.
    const most = this.#piecewise.size > 0 ? CHUNK_TOKENS : PASS_TOKENS;
    let before = 0;
    try {
      for (const pass of splitPasses(sequences, spec.vocab_size, most)) {
        const wanted =
          want === "all" ? pass.ids.map((_, i) => i) : Int32Array.from(pass.last.values()).sort();
        const done = before;
        const { length } = pass.ids;
        const report = progress && ((part: number) => progress(done + part * length));
        await this.#pass(kv, pass, wanted, sink, signal, report);
        before += length;
      }
    } catch (error) {
      // The next call starts at the first stage again, whatever was in flight.
      for (const { streamer } of this.#benches.keys()) await streamer?.reset();
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
    const { spec, ledger } = this.#p;
    throwIfAborted(signal);
    for (const side of this.#benches.keys()) side.weights.prefetch();
    for (const side of this.#benches.keys())
      await side.inputs.prepare(pass, this.#gathered(side, pass, signal), wanted);
    const groups = this.#groups(pass);
    const headWhole = groups.filter(endsInHead).length === 1;
    const everythingResident = groups.every(({ streamed }) => streamed.length === 0);
    const receiver = new LogitsReceiver(
      { vocab: spec.vocab_size, ledger, memory: this.#logits, headWhole, everythingResident },
      { wanted, start: pass.start, sink },
    );
    const run: Run = { kv, pass, wanted, tail: this.#tail, receiver, signal };
    const lastRead = groups.findLastIndex(({ streamed }) => streamed.length > 0);
    if (lastRead === -1) this.#startCheck();
    try {
      for (const [i, group] of groups.entries()) {
        throwIfAborted(signal);
        const arrived = () => {
          if (i === lastRead) this.#startCheck();
        };
        const [stage] = group.stages;
        const before = groups[i - 1]?.bench;
        if (before && before !== group.bench) await carryOver(before.side, group, run);
        if (stage && this.#piecewise.has(stage)) await this.#inPieces(stage, group, run, arrived);
        else await this.#asOne(group, run, arrived);
        progress?.((i + 1) / groups.length);
      }
      receiver.finish();
    } finally {
      receiver.dispose();
    }
  }

  /** All that the pass computes with has been read: a file that changed before is noticed, while the pass goes on. */
  #startCheck(): void {
    this.#unchanged = this.#p.checkUnchanged?.();
    this.#unchanged?.catch(() => {}); // thrown where results are handed out
  }

  /** Computes stages with all their weights there: over all tokens up to the last attention, then over the wanted ones. */
  async #asOne({ bench, stages, streamed }: StageGroup, run: Run, arrived: () => void): Promise<void> {
    using lease = await bench.side.weights.acquire(streamed);
    arrived();
    const { pass, wanted, tail, signal } = run;
    const memory = this.#memory(bench.side, run, (g, _unit, m) => lease.matrix(g, m));
    const body = stages.filter(({ index }) => index < tail);
    const rest = wanted.length > 0 ? stages.filter(({ index }) => index >= tail) : [];
    const whole = { first: 0, count: wanted.length };
    const [single] = pass.chunks;
    // The width of a product decides its rounding, so joined stages must have the width they have alone.
    if (
      single &&
      pass.chunks.length === 1 &&
      rest.length > 0 &&
      wanted.length <= Math.min(...rest.map((stage) => this.#width(stage)))
    ) {
      await this.#compute(bench, stages, single, memory, whole, run);
      return;
    }
    if (body.length > 0)
      for (const chunk of pass.chunks) await this.#compute(bench, body, chunk, memory, whole, run);
    const all: Chunk = { start: 0, tokens: pass.ids.length, parts: [] };
    for (const stage of rest) {
      const width = this.#width(stage);
      for (let first = 0; first < wanted.length; first += width) {
        throwIfAborted(signal);
        const selection = { first, count: Math.min(width, wanted.length - first) };
        await this.#compute(bench, [stage], all, memory, selection, run);
      }
    }
  }

  /**
   * Computes one stage while its units come and go: the graph is built before they are there, and computed as far as each
   * of them reaches. Of a pass of one chunk.
   */
  async #inPieces(
    stage: StageUnits,
    { bench, streamed }: StageGroup,
    run: Run,
    arrived: () => void,
  ): Promise<void> {
    const { weights } = bench.side;
    const { pass, wanted, tail, signal } = run;
    const arrivals = weights.arrivals();
    const inTail = stage.index >= tail;
    const chunk = inTail ? { start: 0, tokens: pass.ids.length, parts: [] } : (pass.chunks[0] as Chunk);
    if (inTail && wanted.length === 0) {
      for (const unit of streamed) (await arrivals.acquire(unit))[Symbol.dispose]();
      return;
    }
    const memory = this.#memory(bench.side, run, (g, unit, m) => arrivals.matrix(g, unit, m));
    bench.kept = undefined;
    const { graph } = bench.graphs.build(
      `${stage.index} in pieces ${chunk.tokens} ${chunk.parts.length}`,
      (g) => {
        g.inOrder = true;
        g.tape = [];
        return buildStages(g, [stage], chunk, memory, { first: 0, count: wanted.length });
      },
      headerEstimate([stage], Math.max(1, chunk.parts.length)),
    );
    const uses = usesOf(
      graph,
      streamed.map((unit) => arrivals.tensorsOf(unit)),
    );
    let done = 0;
    for (const [i, unit] of streamed.entries()) {
      throwIfAborted(signal);
      const { first, last } = uses[i] as (typeof uses)[number];
      if (first < done) throw new Error(`${unit.name} is used before the unit ahead of it in the cycle`);
      using _lease = await arrivals.acquire(unit);
      if (i === streamed.length - 1) arrived();
      const work = passWork([{ ...stage, units: [unit] }], chunk, wanted.length);
      await bench.ranges.compute(graph, done, last + 1, work);
      done = last + 1;
    }
    await bench.ranges.compute(graph, done, nodeCount(graph));
  }

  /** Tokens that a stage of the tail computes at once. */
  #width({ stage }: StageUnits): number {
    return stage.kind === "head" ? headTokens(this.#p.spec.vocab_size) : CHUNK_TOKENS;
  }

  /** Runs one graph, handing out logits if it ends in the head. */
  async #compute(
    bench: Bench,
    stages: readonly StageUnits[],
    chunk: Chunk,
    memory: StageMemory,
    selection: Selection,
    { receiver }: Run,
  ): Promise<void> {
    const { graph, results } = this.#graph(bench, stages, chunk, memory, selection);
    await bench.side.device.compute(graph, passWork(stages, chunk, selection.count));
    if (results.length === 0) return;
    if (this.#unchanged) await this.#unchanged;
    await receiver.receive(bench.side.device, results, selection);
  }

  /** Builds a graph, or moves the last one on where nothing but the number of tokens in the cache differs. */
  #graph(
    bench: Bench,
    stages: readonly StageUnits[],
    chunk: Chunk,
    memory: StageMemory,
    selection: Selection,
  ): Built {
    const { side, graphs } = bench;
    const { device, inputs, flash } = side;
    const [first, last] = [stages[0]?.units[0], stages.at(-1)?.units.at(-1)];
    const shape = [first?.index, last?.index, chunk.tokens, chunk.parts.length, selection.count];
    // Without the fused kernel the shapes of intermediate results depend on the tokens in the cache.
    const keep =
      flash &&
      chunk.parts.every((p) => p.count === 1) &&
      stages.every(({ units }) => streamedOf(side, units).length === 0) &&
      headersCanChange(device);
    const places = [chunk.start, selection.first, ...chunk.parts.map((p) => p.base)];
    const key = [memory.kv, inputs.layout, this.adapter, ...shape, ...places];
    const { kept } = bench;
    if (keep && kept && graphs.holds(kept.graph) && same(kept.key, key)) {
      kept.window.move(chunk.parts);
      return kept;
    }
    bench.kept = undefined;
    const { graph, result } = graphs.build(
      shape.join(),
      (g) => {
        const window = keep ? new CacheWindow() : undefined;
        return { window, results: buildStages(g, stages, chunk, { ...memory, window }, selection) };
      },
      headerEstimate(stages, Math.max(1, chunk.parts.length)),
    );
    const { window, results } = result;
    if (window) bench.kept = { graph, results, key, window };
    return { graph, results };
  }

  /** Rows of tables that the device cannot look up itself. */
  #gathered(side: Side, pass: Pass, signal?: AbortSignal): GatheredRows[] {
    const tables = this.#tables.get(side) ?? [];
    return tables.map(({ matrix, by }) =>
      this.#p.rows.rows(matrix, by === "tokens" ? pass.ids : pass.positions, signal),
    );
  }

  #tablesOf(side: Side) {
    const { units, sideOf } = this.#p;
    const own = units.filter((unit) => sideOf(unit.stageIndex) === side);
    return own.flatMap((unit) =>
      Object.entries(unit.matrices).flatMap(([key, matrix]) => {
        const by = unit.stage.weights[key]?.rows;
        return !by || side.weights.resident(matrix) ? [] : [{ matrix, by }];
      }),
    );
  }

  #groups(pass: Pass): readonly StageGroup[] {
    const [single] = pass.chunks;
    const parts = pass.chunks.length === 1 && single ? single.parts.length : -1;
    let groups = this.#grouped.get(parts);
    if (!groups) {
      const benchOf = (stage: number) => this.#benches.get(this.#p.sideOf(stage)) as Bench;
      groups = groupStages(this.#stages, benchOf, pass);
      this.#grouped.set(parts, groups);
    }
    return groups;
  }

  #memory({ inputs, weights, flash }: Side, { kv, pass, tail }: Run, find: FindMatrix): StageMemory {
    const { residents } = this.#p;
    const { adapter } = this;
    const source: OperandSource = {
      vectors: (_g, unit) => residents.vectors(unit),
      matrix: (g, unit, _key, m) => find(g, unit, m),
      rows: (g, table, by, chunk) => {
        const here = weights.resident(table);
        return here
          ? g.getRows(here.tensor, by === "tokens" ? inputs.ids(g, chunk) : inputs.positions(g, chunk))
          : g.cast(inputs.rows(g, table.name, chunk) as Tensor, "f32");
      },
      lowRank: (_g, unit, key) => adapter?.lowRank(unit, key),
    };
    return {
      kv,
      flash,
      tokens: pass.ids.length,
      tail,
      weights: (g, stage, chunk) => bindOperands(g, stage, source, chunk),
      inputs: (g, chunk): ChunkInputs => ({
        positions: inputs.positions(g, chunk),
        masks: inputs.masks(g, pass, chunk),
        windowed: inputs.windowed(g, pass, chunk),
      }),
      state: (g, first, tokens) => inputs.state(g, first, tokens),
      selected: (g, first, count) => inputs.selected(g, first, count),
    };
  }

  dispose(): void {
    disposeAll([...this.#benches.values()].flatMap(({ graphs, ranges }) => [graphs, ranges]));
  }
}

/** Brings the hidden states that a group begins with from the side that computed them. */
async function carryOver(
  from: Side,
  { bench, stages }: StageGroup,
  { pass, wanted, tail }: Run,
): Promise<void> {
  const narrow = (stages[0]?.index ?? 0) > tail;
  await bench.side.inputs.takeState(from.inputs, narrow ? wanted.length : pass.ids.length);
}

function same(a: readonly unknown[], b: readonly unknown[]): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}
