// Gives a stage its weights: from wherever they are, or are pretended to be. The same for running and for measuring, so that
// what is measured is what runs.
import type { Graph, LowRank } from "../../backend/ggml/ops.ts";
import { RowBlocks, type Tensor } from "../../backend/ggml/tensor.ts";
import type { Weights } from "../../models/spec.ts";
import type { Matrix, StageUnits, Unit } from "../../plan/units.ts";
import type { MatrixTensor } from "../weights/weight-source.ts";
import type { Chunk } from "./chunks.ts";

/** Where operands are. */
export interface OperandSource {
  /** Vectors and constants of the unit's stage: f32. */
  vectors(g: Graph, unit: Unit): Readonly<Record<string, Tensor>>;
  matrix(g: Graph, unit: Unit, key: string, m: Matrix): MatrixTensor;
  /** The rows of a table that the chunk's tokens take, by their ids or positions: f32 [width, tokens]. */
  rows(g: Graph, table: Matrix, by: "tokens" | "positions", chunk: Chunk): Tensor;
  /** What is added to products with a matrix, if anything: of the whole matrix, where the unit has some of its rows. */
  lowRank(g: Graph, unit: Unit, key: string): LowRank | undefined;
}

/** The weights of a stage by key. Of a head some of whose rows are asked for, those. */
export function bindOperands(g: Graph, stage: StageUnits, source: OperandSource, chunk: Chunk): Weights {
  const [first] = stage.units;
  const bound: Record<string, Tensor> = first ? { ...source.vectors(g, first) } : {};
  const blocks: Record<string, { unit: Unit; m: Matrix; weight: Tensor }[]> = {};
  for (const unit of stage.units) {
    for (const [key, m] of Object.entries(unit.matrices)) {
      const by = stage.stage.weights[key]?.rows;
      if (by) {
        bound[key] = source.rows(g, m, by, chunk);
        continue;
      }
      const { tensor, transposed } = source.matrix(g, unit, key, m);
      const weight = transposed ? g.cont(g.transpose(tensor)) : tensor;
      blocks[key] ??= [];
      blocks[key].push({ unit, m, weight });
    }
  }
  const adapters = new Map(g.adapters);
  for (const [key, parts] of Object.entries(blocks)) {
    const [{ unit, m, weight }] = parts as [(typeof parts)[number]];
    const whole =
      parts.length === 1
        ? weight
        : new RowBlocks(
            parts.map((part) => part.weight),
            m.within?.name ?? m.name,
          );
    bound[key] = whole;
    const low = source.lowRank(g, unit, key);
    if (low)
      adapters.set(whole, parts.length === 1 && m.within ? rowsOf(g, low, m.within.first, m.ne[1]) : low);
  }
  if (adapters.size > 0) g.adapters = adapters;
  return bound;
}

/** What a low-rank addition adds to some rows of its matrix. */
function rowsOf(g: Graph, low: LowRank, first: number, count: number): LowRank {
  const { b } = low; // [r, out]
  return { ...low, b: g.view(b, [b.ne[0], count], [b.nb[1]], first * b.nb[1]) };
}
