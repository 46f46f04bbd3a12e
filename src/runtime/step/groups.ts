// Which stages of a pass are computed in one graph.
import type { GraphRanges } from "../../backend/ggml/graph-ranges.ts";
import type { Graph } from "../../backend/ggml/ops.ts";
import type { StageUnits, Unit } from "../../plan/units.ts";
import type { CacheWindow } from "../state/cache-window.ts";
import type { Chunk, Pass } from "./chunks.ts";
import type { GraphBuilder } from "./graph-builder.ts";
import type { Side } from "./side.ts";
import type { HeadResult } from "./stage-graph.ts";

export interface Built {
  readonly graph: Graph;
  readonly results: readonly HeadResult[];
}

/** A side, and the graphs that are built for it. */
export interface Bench {
  readonly side: Side;
  readonly graphs: GraphBuilder;
  readonly ranges: GraphRanges;
  /** The graph of single tokens that was built last. */
  kept: (Built & { readonly key: readonly unknown[]; readonly window: CacheWindow }) | undefined;
}

/** Stages that are computed together: resident ones joined, or one that streams, or some rows of a head. */
export interface StageGroup {
  readonly bench: Bench;
  readonly stages: readonly StageUnits[];
  /** Its units that stream, in the order of use. */
  readonly streamed: readonly Unit[];
}

/**
 * Headers of a graph that joins stages, at most: 12 MiB of them.
 * Enough for 450 stages of one sequence; with many sequences each stage has many tensors, and fewer are joined. That changes
 * no result.
 */
const JOINED_HEADERS = 2 ** 15;

/** Stages that are computed in one graph: runs of resident ones of one side, streamed ones one by one. */
export function groupStages(
  stages: readonly StageUnits[],
  benchOf: (stage: number) => Bench,
  pass: Pass,
): StageGroup[] {
  const groups: StageGroup[] = [];
  let open: StageUnits[] | undefined;
  for (const stage of stages) {
    const bench = benchOf(stage.index);
    const { side } = bench;
    // Only the CPU joins stages: on a GPU kernels may be fused across them, which would round differently.
    const join = side.device.onHost && pass.chunks.length === 1;
    const most = join ? mostJoined(pass.chunks[0] as Chunk) : 1;
    const streamed = streamedOf(side, stage.units);
    if (streamed.length === 0 && most > 1) {
      if (!open || open.length === most || groups.at(-1)?.bench !== bench) {
        open = [];
        groups.push({ bench, stages: open, streamed });
      }
      open.push(stage);
      continue;
    }
    open = undefined;
    // The rows of a head are results of their own, so they need not be there together.
    const parts =
      stage.stage.kind === "head" && streamed.length > 0
        ? stage.units.map((unit) => ({ ...stage, units: [unit] }))
        : [stage];
    for (const part of parts) groups.push({ bench, stages: [part], streamed: streamedOf(side, part.units) });
  }
  return groups;
}

/** Units that a side's streamer brings. */
export function streamedOf(side: Side, units: readonly Unit[]): Unit[] {
  return units.filter((unit) => side.weights.streams(unit));
}

export function endsInHead({ stages }: StageGroup): boolean {
  return stages.at(-1)?.stage.kind === "head";
}

/** Stages of a chunk that one graph may have. */
function mostJoined(chunk: Chunk): number {
  return Math.max(1, Math.floor(JOINED_HEADERS / (48 + 24 * Math.max(1, chunk.parts.length))));
}
