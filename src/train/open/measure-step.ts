// What the graphs of a training step need, found by building them over addresses nobody touches: scratch memory, headers, and
// what each stage can keep of its forward pass.
import { HeaderArena } from "../../backend/ggml/graph.ts";
import { GraphMemory } from "../../backend/ggml/graph-memory.ts";
import type { Graph } from "../../backend/ggml/ops.ts";
import type { Unit } from "../../plan/units.ts";
import type { KnownModel } from "../../runtime/open/training-hooks.ts";
import { buildGraph, withNowhere } from "../../runtime/step/measure.ts";
import type { BatchShape } from "../step/batch-inputs.ts";
import type { Keeping } from "../step/stage/keeping.ts";
import {
  buildBackward,
  buildForward,
  buildHead,
  keepingOfUnit,
  type WantedOfUnit,
} from "../step/stage/stage-graphs.ts";
import { NoMemory } from "./measure-operands.ts";
import type { Parameters } from "./parameters.ts";

/** Tensors of a graph at first. */
const HEADERS = 2048;
/** What the objects of ours that stand for a tensor of a graph take beside its header. Bytes. */
const OBJECT_BYTES = 400;
/** Shapes of micro-batches for which it is remembered what is kept. */
const SHAPES = 64;

type Measured = Pick<KnownModel, "spec" | "model" | "device">;

/** A stage of the body, which backward goes through. */
interface MeasuredStage {
  /** Index of the unit. */
  readonly unit: number;
  readonly keeping: Keeping;
  /** Scratch memory of its largest graph where it is computed again, and where its results are kept. Bytes. */
  readonly scratch: { readonly again: number; readonly kept: number };
}

export class StepMeasure {
  /** Tensors of the largest graph. */
  readonly tensors: number;
  readonly stages: readonly MeasuredStage[];
  /** Scratch memory of the largest graph of those that are the same whatever is kept. Bytes. */
  readonly #other: number;

  constructor(tensors: number, stages: readonly MeasuredStage[], other: number) {
    this.tensors = tensors;
    this.stages = stages;
    this.#other = other;
  }

  /** Scratch memory of the largest graph of a step in which these units' results are kept. Bytes. */
  scratch(kept: ReadonlySet<number>): number {
    const each = this.stages.map(({ unit, scratch }) => (kept.has(unit) ? scratch.kept : scratch.again));
    return Math.max(this.#other, ...each);
  }
}

/** Throws GraphError where the device cannot run a graph of a step. */
export function measureStep(known: Measured, parameters: Parameters, shape: BatchShape): StepMeasure {
  const { spec, model, device } = known;
  const graphs = new GraphMemory(device.memory, () => {});
  let tensors = 0;
  let other = 0;
  try {
    const stages = withNowhere((nowhere) => {
      const operands = new NoMemory(nowhere, spec, parameters, shape, device.kind);
      const measure = (...builds: ((g: Graph) => unknown)[]) => {
        let most = 0;
        for (const build of builds) {
          const room = buildGraph(device, HEADERS, (g) => {
            build(g);
            g.checkSupport();
            most = Math.max(most, graphs.measure(g.handle));
          });
          tensors = Math.max(tensors, room);
        }
        return most;
      };
      const seen = new Map<string, Pick<MeasuredStage, "keeping" | "scratch">>();
      const measureStage = (unit: Unit, wanted: WantedOfUnit) => {
        const keeping = keepingOver(operands, device, unit, wanted);
        const kept = { keeping, memory: nowhere };
        const again = measure(
          (g) => buildForward(g, unit, operands),
          (g) => buildBackward(g, unit, operands, wanted),
        );
        const scratch =
          keeping.bytes === 0
            ? again
            : measure(
                (g) => buildForward(g, unit, operands, kept),
                (g) => buildBackward(g, unit, operands, wanted, kept),
              );
        return { keeping, scratch: { again, kept: scratch } };
      };
      const found: MeasuredStage[] = [];
      for (const unit of model.units) {
        const wanted = wantedOf(parameters, unit.index);
        const key = stageKey(unit, wanted, parameters);
        const isBackward = unit.stage.kind !== "head" && (wanted.x || wanted.parameters.length > 0);
        const one = seen.get(key) ?? (isBackward ? measureStage(unit, wanted) : undefined);
        if (one) {
          seen.set(key, one);
          found.push({ unit: unit.index, ...one });
        } else if (unit.stage.kind === "head") {
          other = Math.max(
            other,
            measure((g) => buildHead(g, unit, spec.vocab_size, operands, wanted, 1)),
          );
        } else
          other = Math.max(
            other,
            measure((g) => buildForward(g, unit, operands)),
          );
      }
      return found;
    });
    return new StepMeasure(tensors, stages, other);
  } finally {
    graphs.dispose();
  }
}

/** What stages keep for micro-batches of any shape. */
export class Keepings {
  readonly #known: Measured;
  readonly #parameters: Parameters;
  readonly #found = new Map<string, Map<string, Keeping>>();

  constructor(known: Measured, parameters: Parameters) {
    this.#known = known;
    this.#parameters = parameters;
  }

  of(unit: Unit, { sequences, length }: BatchShape): Keeping {
    const { spec, device } = this.#known;
    const shape = `${sequences} ${length}`;
    if (this.#found.size >= SHAPES && !this.#found.has(shape)) this.#found.clear();
    const known = this.#found.get(shape) ?? new Map<string, Keeping>();
    this.#found.set(shape, known);
    const wanted = wantedOf(this.#parameters, unit.index);
    const key = stageKey(unit, wanted, this.#parameters);
    let keeping = known.get(key);
    if (!keeping) {
      keeping = withNowhere((nowhere) => {
        const batch = { sequences, length };
        const operands = new NoMemory(nowhere, spec, this.#parameters, batch, device.kind);
        return keepingOver(operands, device, unit, wanted);
      });
      known.set(key, keeping);
    }
    return keeping;
  }
}

function keepingOver(
  operands: NoMemory,
  device: KnownModel["device"],
  unit: Unit,
  wanted: WantedOfUnit,
): Keeping {
  let keeping: Keeping | undefined;
  buildGraph(device, HEADERS, (g) => {
    keeping = keepingOfUnit(g, unit, operands, wanted);
  });
  return keeping as Keeping;
}

/** Stages of one key have the same graphs. */
function stageKey(unit: Unit, wanted: WantedOfUnit, { lowRank }: Parameters): string {
  const shapes = Object.entries(unit.matrices).map(([key, m]) => `${key}:${m.dtype}:${m.ne.join("x")}`);
  const ranks = lowRank.flatMap((use) => (use.unit === unit.index ? `${use.key}+${use.target.r}` : []));
  return [unit.stage.kind, ...shapes, ...ranks, ...wanted.parameters, wanted.x].join(" ");
}

/** Keys that train in a unit, and whether anything below it does. */
export function wantedOf({ ofUnit, lowest }: Parameters, unit: number): WantedOfUnit {
  const keys = (ofUnit.get(unit) ?? []).map(({ key }) => key);
  return { parameters: keys, x: unit > lowest };
}

/** Bytes of a token of a micro-batch: its id, position, place and target. */
const TOKEN_BYTES = 16;

/** RAM beside the tensors of a step: micro-batches, the next one as it is made, and the headers of its graphs. */
export function hostBytes(
  { sequences, length }: BatchShape,
  tensors: number,
): { batches: number; headers: number } {
  return {
    batches: 2 * TOKEN_BYTES * sequences * length,
    headers: HeaderArena.bytes(tensors, { graph: true }) + tensors * OBJECT_BYTES,
  };
}
