// Finds how much scratch memory the largest graphs need, by building them over addresses that are never touched.

import type { Adapter, LoraTarget } from "../../adapters/index.ts";
import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import type { Device } from "../../backend/ggml/device.ts";
import { ArenaFullError, HeaderArena } from "../../backend/ggml/graph.ts";
import { GraphMemory } from "../../backend/ggml/graph-memory.ts";
import { Graph, type LowRank } from "../../backend/ggml/ops.ts";
import { rowBytes } from "../../backend/ggml/tensor.ts";
import { hostBuffer } from "../../backend/ggml/transfer.ts";
import type { ModelSpec, Weights } from "../../models/spec.ts";
import { byStage, type Matrix, type StageUnits, type Unit } from "../../plan/units.ts";
import type { KvDType, KvRows } from "../state/kv-cache.ts";
import { TargetIndex } from "./adapter.ts";
import { bindOperands, type OperandSource } from "./bind.ts";
import { CHUNK_TOKENS, type Chunk, visibleRows } from "./chunks.ts";
import { buildStages, headerEstimate, headTokens, type StageMemory } from "./stage-graph.ts";

/** An address range that is never read or written: tensors bound to it only count as placed. */
const NOWHERE = { address: 1n << 40n, bytes: 2 ** 46 };

/** Operands at addresses nobody touches. Transposed matrices arrive as the checkpoint holds them. */
class NoMemory implements StageMemory, OperandSource {
  readonly kv: KvRows;
  readonly flash: boolean;
  readonly tokens: number;
  readonly tail: number;
  readonly #buffer: NativeBuffer;
  readonly #spec: ModelSpec;
  readonly #targets: TargetIndex<LoraTarget>;

  constructor(buffer: NativeBuffer, spec: ModelSpec, o: MeasureOptions, tokens: number) {
    const { kv_dtype: dtype, flash } = o;
    this.#targets = targetIndex(o.adapter);
    this.tokens = tokens;
    this.tail = spec.stages.length - 1; // the head; every other stage may have all tokens of a chunk
    this.#buffer = buffer;
    this.#spec = spec;
    this.flash = flash;
    const width = spec.num_kv_heads * spec.head_dim;
    this.kv = {
      width,
      dtype,
      rows: (g, _layer, _which, _first, count) => g.bind(buffer, 0, dtype, [width, count]),
    };
  }

  weights(g: Graph, stage: StageUnits, chunk: Chunk): Weights {
    return bindOperands(g, stage, this, chunk);
  }

  vectors(g: Graph, { stage }: Unit) {
    const lengths = [
      ...Object.entries(stage.weights).flatMap(([key, { shape }]) =>
        shape.length === 1 ? [[key, shape[0] as number] as const] : [],
      ),
      ...Object.entries(stage.constants ?? {}).map(([key, values]) => [key, values.length] as const),
    ];
    return Object.fromEntries(
      lengths.map(([key, length]) => [key, g.bind(this.#buffer, 0, "f32", [length])]),
    );
  }

  matrix(g: Graph, _unit: Unit, _key: string, m: Matrix) {
    const stored = m.transposed && !m.kept ? [m.ne[1], m.ne[0]] : m.ne;
    return { tensor: g.bind(this.#buffer, 0, m.dtype, stored), transposed: m.transposed };
  }

  rows(g: Graph, table: Matrix, _by: string, chunk: Chunk) {
    return g.cast(g.bind(this.#buffer, 0, table.dtype, [table.ne[0], chunk.tokens]), "f32");
  }

  lowRank(g: Graph, unit: Unit, key: string): LowRank | undefined {
    const target = this.#targets.of(unit, key);
    if (!target) return undefined;
    const { in: input, out, r, scale } = target;
    const [a, b] = [g.bind(this.#buffer, 0, "f32", [input, r]), g.bind(this.#buffer, 0, "f32", [r, out])];
    return { a, b, scale };
  }

  inputs(g: Graph, chunk: Chunk) {
    const masks = (window?: number) =>
      chunk.parts.map((p) =>
        p.count > 1 ? g.bind(this.#buffer, 0, "f16", [visibleRows(p, window).count, p.count]) : undefined,
      );
    const windowed = new Map((this.#spec.windows ?? []).map((window) => [window, masks(window)]));
    return { positions: g.bind(this.#buffer, 0, "i32", [chunk.tokens]), masks: masks(), windowed };
  }
  state(g: Graph, _first: number, tokens: number) {
    return g.bind(this.#buffer, 0, "f32", [this.#spec.hidden_size, tokens]);
  }
  selected(g: Graph, _first: number, count: number) {
    return g.bind(this.#buffer, 0, "i32", [count]);
  }
}

/**
 * Bytes of scratch memory for the largest graphs of a model over `context` tokens on a device. Checks on the way that
 * the device runs every operation; throws GraphError if not.
 */
export function measureScratch(
  spec: ModelSpec,
  units: readonly Unit[],
  device: Device,
  options: MeasureOptions,
): number {
  let most = 0;
  const graphs = new GraphMemory(device.memory, () => {});
  try {
    eachLargeGraph(spec, units, device, options, (g) => {
      g.checkSupport();
      most = Math.max(most, graphs.measure(g.handle));
    });
  } finally {
    graphs.dispose();
  }
  return most;
}

/**
 * Takes scratch memory of the size that was measured at once, so that it never has to grow: with a graph of one result that
 * large, because building the largest graphs a second time would keep a fast disk waiting. What a device cannot give in one
 * piece is left to grow.
 */
export function reserveScratch(device: Device, bytes: number, graphs: GraphMemory): void {
  if (bytes < 4 || bytes > device.memory.maxSize) return;
  withNowhere((nowhere) => {
    buildGraph(device, 8, (g) => {
      g.expand(g.cont(g.bind(nowhere, 0, "f32", [Math.floor(bytes / 4)])));
      graphs.reserve(g.handle);
    });
  });
}

export interface MeasureOptions {
  readonly context: number;
  /** Sequences of that length in one pass. */
  readonly max_sequences: number;
  readonly kv_dtype: KvDType;
  readonly flash: boolean;
  /** What linear layers add to their products. */
  readonly adapter?: Adapter | undefined;
}

function targetIndex(adapter: Adapter | undefined): TargetIndex<LoraTarget> {
  return new TargetIndex((adapter?.targets ?? []).map((target) => [target, target]));
}

/** Builds the graphs that need most: all stages at once, each kind of stage, the head. */
function eachLargeGraph(
  spec: ModelSpec,
  units: readonly Unit[],
  device: Device,
  options: MeasureOptions,
  visit: (g: Graph) => void,
): void {
  withNowhere((nowhere) => {
    const count = Math.min(CHUNK_TOKENS, options.context);
    const memory = new NoMemory(nowhere, spec, options, count);
    const part = { sequence: 0, base: 0, past: options.context - count, count, offset: 0 };
    const chunk: Chunk = { start: 0, tokens: count, parts: [part] };
    const wanted = { first: 0, count: Math.min(headTokens(spec.vocab_size), count) };
    const visitStages = (stages: readonly StageUnits[], of: Chunk, inOrder = false) =>
      buildGraph(device, headerEstimate(stages, of.parts.length), (g) => {
        g.inOrder = inOrder;
        buildStages(g, stages, of, memory, wanted);
        visit(g);
      });
    const stages = byStage(units);
    const { max_sequences: sequences } = options;
    const chunks = sequences > 1 ? [chunk, ...sharedChunks(options.context, sequences)] : [chunk];
    for (const shared of chunks) {
      visitStages(stages, shared);
      for (const stage of distinct(stages, targetIndex(options.adapter))) {
        visitStages([stage], shared);
        if (stage.units.length > 1) visitStages([stage], shared, true);
      }
    }
  });
}

/** Chunks of many sequences: the last token of each, and as many of each as a chunk has room for. */
function sharedChunks(context: number, sequences: number): Chunk[] {
  return [1, Math.min(context, Math.floor(CHUNK_TOKENS / sequences))].map((count) => {
    const parts = Array.from({ length: sequences }, (_, sequence) => ({
      ...{ sequence, base: 0, past: context - count, count, offset: sequence * count },
    }));
    return { start: 0, tokens: sequences * count, parts };
  });
}

/** Calls `use` with addresses that are never touched: tensors bound to them count as placed. */
export function withNowhere<T>(use: (nowhere: NativeBuffer) => T): T {
  const nowhere = hostBuffer(NOWHERE.address, NOWHERE.bytes);
  try {
    return use(nowhere);
  } finally {
    nowhere.dispose();
  }
}

/**
 * Builds a graph in an arena of its own, made larger until it fits; the graph is gone when this returns. Returns the tensors
 * that arena had room for.
 */
export function buildGraph(device: Device, headers: number, make: (g: Graph) => void): number {
  for (let capacity = headers; ; capacity *= 2) {
    const arena = new HeaderArena(capacity, { graph: true });
    try {
      make(new Graph(device, arena, { wide: true }));
      return capacity;
    } catch (error) {
      if (!(error instanceof ArenaFullError)) throw error;
    } finally {
      arena.dispose();
    }
  }
}

/** One stage of each shape: layers repeat, though not always with the same updates. */
function distinct(stages: readonly StageUnits[], targets: TargetIndex<LoraTarget>): StageUnits[] {
  const seen = new Map<string, StageUnits>();
  for (const stage of stages) {
    const shapes = stage.units.flatMap((unit) =>
      Object.entries(unit.matrices).map(
        ([key, m]) => `${key}:${m.dtype}:${m.ne.join("x")}:${targets.of(unit, key)?.r ?? 0}`,
      ),
    );
    seen.set([stage.stage.kind, ...shapes].join(" "), stage);
  }
  return [...seen.values()];
}

/** Whether a device has the fused attention kernel for a model's heads and cache type. */
export function hasFlashAttention(spec: ModelSpec, device: Device, dtype: KvDType): boolean {
  const arena = new HeaderArena(16, { graph: true });
  try {
    const g = new Graph(device, arena);
    const { head_dim, num_heads, num_kv_heads } = spec;
    const q = g.input("f32", [head_dim, 4, num_heads]);
    const k = g.input(dtype, [head_dim, 8, num_kv_heads]);
    const v = g.input(dtype, [head_dim, 8, num_kv_heads]);
    const mask = g.input("f16", [8, 4]);
    const masked = g.flashAttention(q, k, v, mask, 1);
    const single = g.flashAttention(g.input("f32", [head_dim, 1, num_heads]), k, v, undefined, 1);
    return device.supports(masked.handle) && device.supports(single.handle);
  } finally {
    arena.dispose();
  }
}

/** Bytes of one row of each table that is used by the row. */
export function gatheredRowBytes(units: readonly Unit[]): number[] {
  return gatheredTables(units).map((m) => rowBytes(m.dtype, m.ne[0]));
}

/** Tables that single rows are looked up in. */
export function gatheredTables(units: readonly Unit[]): Matrix[] {
  return units.flatMap((u) =>
    Object.entries(u.matrices)
      .filter(([key]) => u.stage.weights[key]?.rows)
      .map(([, m]) => m),
  );
}
