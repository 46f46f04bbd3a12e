// Builds the graph of one or more consecutive stages over one chunk. Knows where operands are only through
// StageMemory, so that the same graphs can be measured before any memory exists.
import type { Graph } from "../../backend/ggml/ops.ts";
import type { Tensor } from "../../backend/ggml/tensor.ts";
import type { Stage, Weights } from "../../models/spec.ts";
import type { StageUnits } from "../../plan/units.ts";
import type { CacheWindow } from "../state/cache-window.ts";
import type { KvRows } from "../state/kv-cache.ts";
import { CachedAttention, type ChunkInputs } from "./attention.ts";
import type { Chunk } from "./chunks.ts";

/** Bytes of logits computed at a time; more tokens go in several graphs. */
export const LOGITS_BYTES = 16 * 1024 * 1024;

/** Tokens whose logits are computed in one graph. Depends on the model alone, never on a budget. */
export function headTokens(vocab: number): number {
  return Math.max(1, Math.min(512, Math.floor(LOGITS_BYTES / (vocab * 4))));
}

/** Operands of stage graphs. */
export interface StageMemory {
  readonly kv: KvRows;
  /** Whether the device has the fused attention kernel for this model. */
  readonly flash: boolean;
  /** Gets the tensors that must change before the graph can be computed for the next tokens. */
  readonly window?: CacheWindow | undefined;
  /** Tokens of the pass. */
  readonly tokens: number;
  /** See {@link tailStart}. */
  readonly tail: number;
  weights(g: Graph, stage: StageUnits, chunk: Chunk): Weights;
  inputs(g: Graph, chunk: Chunk): ChunkInputs;
  /** Hidden states of tokens `first` ... of the pass: [hidden, tokens]. */
  state(g: Graph, first: number, tokens: number): Tensor;
  /** Indices of wanted tokens: i32 [count]. */
  selected(g: Graph, first: number, count: number): Tensor;
}

/** Some of the tokens whose logits are wanted: the only ones that the stages after the last attention compute. */
export interface Selection {
  readonly first: number;
  readonly count: number;
}

/** Index of the first stage that needs only the wanted tokens: the one after the last attention. */
export function tailStart(stages: readonly Stage[]): number {
  return stages.findLastIndex(({ kind }) => kind === "attention") + 1;
}

/** Logits of the tokens of a selection: f32 [rows, count], of the vocabulary's ids from `first` on. */
export interface HeadResult {
  readonly logits: Tensor;
  readonly first: number;
}

/**
 * Consecutive stages over a chunk, from the hidden state (or the tokens) back to the hidden state, or to logits if the head
 * is among them, which are returned: of all the vocabulary, or of each unit's rows. Stages of the tail work on `selection`;
 * their hidden states lie one after another from the start of the pass's, so tokens are never overwritten before they are
 * read.
 */
export function buildStages(
  g: Graph,
  stages: readonly StageUnits[],
  chunk: Chunk,
  memory: StageMemory,
  selection: Selection = { first: 0, count: 0 },
): HeadResult[] {
  const ctx = new CachedAttention(chunk, memory.inputs(g, chunk), memory.kv, memory);
  const { first, count } = selection;
  let x: Tensor | undefined;
  let narrow = false;
  for (const stage of stages) {
    if (stage.index >= memory.tail && !narrow) {
      narrow = true;
      x =
        x || stage.index === memory.tail
          ? g.getRows(x ?? memory.state(g, 0, memory.tokens), memory.selected(g, first, count)) // [hidden, count]
          : memory.state(g, first, count);
    } else if (!x && stage.stage.kind !== "embed") x = memory.state(g, chunk.start, chunk.tokens);
    if (stage.stage.kind === "head") return buildHead(g, x, stage, chunk, memory, ctx);
    x = stage.stage.build(g, x, memory.weights(g, stage, chunk), ctx);
  }
  const place = narrow ? memory.state(g, first, count) : memory.state(g, chunk.start, chunk.tokens);
  g.expand(g.copy(x as Tensor, place));
  return [];
}

/** Rows of the head are computed block by block wherever they are, so that their home changes no result. */
function buildHead(
  g: Graph,
  x: Tensor | undefined,
  head: StageUnits,
  chunk: Chunk,
  memory: StageMemory,
  ctx: CachedAttention,
): HeadResult[] {
  return head.units.map((unit) => {
    const weights = memory.weights(g, { ...head, units: [unit] }, chunk);
    const block = Object.values(unit.matrices).find((m) => m.within);
    return { logits: g.output(head.stage.build(g, x, weights, ctx)), first: block?.within?.first ?? 0 };
  });
}

/** Headers that stages over `parts` sequences need at most, roughly; arenas grow if it is more. */
export function headerEstimate(stages: readonly StageUnits[], parts: number): number {
  const units = stages.reduce((sum, stage) => sum + stage.units.length, 0);
  return 64 + stages.length * (40 + 24 * parts) + units * 8;
}
