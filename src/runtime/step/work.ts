// How large the graphs of stages are, so that runs can be compared where a number of threads is chosen for them.
import type { Work } from "../../backend/ggml/threads/choice.ts";
import type { StageUnits, Unit } from "../../plan/units.ts";
import type { Chunk } from "./chunks.ts";

/** Multiply-adds of some stages' products: attention's own come to less, but for very long contexts. */
export function productsOf(units: readonly Unit[], tokens: number): number {
  let elements = 0;
  for (const { matrices } of units)
    for (const { ne, rowsOnly } of Object.values(matrices)) elements += rowsOnly ? ne[0] : ne[0] * ne[1];
  return elements * tokens;
}

/** What was counted: stages that are computed together are the same for every token. */
const known = new WeakMap<readonly StageUnits[], number>();

/**
 * A graph of a pass. Stages of one kind take about the same time for the same products, wherever they are in the model;
 * `wanted`: tokens of a chunk without parts, of which the tail computes only those.
 */
export function passWork(stages: readonly StageUnits[], chunk: Chunk, wanted: number): Work {
  const decodes = chunk.parts.length > 0 && chunk.parts.every(({ count }) => count === 1);
  const [first] = stages;
  let elements = known.get(stages);
  if (elements === undefined) {
    elements = productsOf(
      stages.flatMap(({ units }) => units),
      1,
    );
    known.set(stages, elements);
  }
  const tokens = chunk.parts.length > 0 ? chunk.tokens : wanted;
  return {
    kind: decodes ? "decode" : "prefill",
    detail: stages.length > 1 ? "joined" : (first?.stage.kind ?? ""),
    amount: elements * Math.max(1, tokens),
  };
}
