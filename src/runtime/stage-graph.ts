// Builds the graph of one or more consecutive stages over one chunk. Knows where operands are only through
// StageMemory, so that the same graphs can be measured before any memory exists.
import type { Graph } from "../ggml/ops.ts";
import type { Tensor } from "../ggml/tensor.ts";
import type { Weights } from "../models/spec.ts";
import type { Unit } from "../plan/units.ts";
import { CachedAttention, type ChunkInputs } from "./attention.ts";
import type { Chunk } from "./chunks.ts";
import type { KvRows } from "./kv-cache.ts";

/** Bytes of logits computed at a time; more tokens go in several graphs. */
const LOGITS_BYTES = 16 * 1024 * 1024;

/** Tokens whose logits are computed in one graph. Depends on the model alone, never on a budget. */
export function headTokens(vocab: number): number {
  return Math.max(1, Math.min(512, Math.floor(LOGITS_BYTES / (vocab * 4))));
}

/** Operands of stage graphs. */
export interface StageMemory {
  readonly kv: KvRows;
  /** Whether the device has the fused attention kernel for this model. */
  readonly flash: boolean;
  weights(g: Graph, unit: Unit, chunk: Chunk): Weights;
  inputs(g: Graph, chunk: Chunk): ChunkInputs;
  /** Hidden states of tokens `first` ... of the pass: [hidden, tokens]. */
  state(g: Graph, first: number, tokens: number): Tensor;
  /** Indices of wanted tokens: i32 [count]. */
  selected(g: Graph, first: number, count: number): Tensor;
}

/** The last stage of a graph that goes up to logits. */
export interface HeadRequest {
  readonly unit: Unit;
  readonly first: number;
  readonly count: number;
}

/**
 * Stages over a chunk, from the hidden state (or the tokens) to the hidden state, or on to logits.
 * Returns the logits [vocab, count] when `head` is given.
 */
export function buildStages(
  g: Graph,
  units: readonly Unit[],
  chunk: Chunk,
  memory: StageMemory,
  head?: HeadRequest,
): Tensor | undefined {
  const ctx = new CachedAttention(chunk, memory.inputs(g, chunk), memory.kv, { flash: memory.flash });
  const embeds = units[0]?.stage.kind === "embed";
  let x: Tensor | undefined = embeds ? undefined : memory.state(g, chunk.start, chunk.tokens);
  for (const unit of units) x = unit.stage.build(g, x, memory.weights(g, unit, chunk), ctx);
  if (!head) {
    g.expand(g.copy(x as Tensor, memory.state(g, chunk.start, chunk.tokens)));
    return undefined;
  }
  const rows = g.getRows(x as Tensor, memory.selected(g, head.first, head.count)); // [hidden, count]
  const logits = head.unit.stage.build(g, rows, memory.weights(g, head.unit, chunk), ctx);
  return g.output(logits);
}

/** Headers a graph of `stages` stages over `parts` sequences needs at most, roughly; arenas grow if it is more. */
export function headerEstimate(stages: number, parts: number): number {
  return 64 + stages * (48 + 24 * parts);
}
