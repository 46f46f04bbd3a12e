// The three graphs of a training step: a stage forward, a stage backward, and the head with its loss. Knows operands only
// through StageOperands, so that the same graphs can be measured before any memory exists.
import type { Graph } from "../../../backend/ggml/ops.ts";
import type { Tensor } from "../../../backend/ggml/tensor.ts";
import type { Unit } from "../../../plan/units.ts";
import type { TrainingAttention } from "./attention.ts";
import { type Keeping, type KeptMemory, keepingOf, keepsIn, standsIn } from "./keeping.ts";
import { headLoss, lossBlockTokens } from "./loss.ts";
import { recorded, type StageInput, stageBackward, stageForward } from "./stage-backward.ts";

/** Where the operands of stage graphs are. */
export interface StageOperands {
  /** Weights, rows and adapters of a stage; `x` is left out. */
  stage(g: Graph, unit: Unit): Omit<StageInput, "x">;
  context(g: Graph): TrainingAttention;
  /** Input of a unit: f32 [hidden, tokens]. */
  input(g: Graph, unit: Unit): Tensor;
  /** Where the result of a unit goes: the next one's input. */
  result(g: Graph, unit: Unit): Tensor;
  /** Gradient of a unit's result, and where that of its input goes. */
  dy(g: Graph, unit: Unit): Tensor;
  dx(g: Graph, unit: Unit): Tensor;
  /** Memory that a parameter's gradient is added to; undefined where it is fetched from the graph instead. */
  into(g: Graph, unit: Unit, key: string): GradientMemory | undefined;
  /** i32 [count]: tokens that predict something, and what. */
  predicting(g: Graph): Tensor;
  targets(g: Graph): Tensor;
}

export interface GradientMemory {
  readonly memory: Tensor;
  /** It holds nothing yet, and is overwritten. */
  readonly fresh: boolean;
}

/** What backward is asked for at a unit. */
export interface WantedOfUnit {
  /** Keys of the parameters that train. */
  readonly parameters: readonly string[];
  /** Whether anything below trains. */
  readonly x: boolean;
}

/** Gradients that the graph holds, by key. */
export type Fetched = Readonly<Record<string, Tensor>>;

/** `kept`: memory that the results are computed into which backward takes from there. */
export function buildForward(g: Graph, unit: Unit, o: StageOperands, kept?: KeptMemory): void {
  const ctx = o.context(g);
  const input = stageInput(g, unit, o);
  const build = () => stageForward(g, unit.stage, input, ctx);
  const y = kept ? recorded(g, build, keepsIn(g, kept)).result : build();
  g.expand(g.copy(y, o.result(g, unit)));
}

/** `kept`: what forward left there; without it the stage is computed again. */
export function buildBackward(
  g: Graph,
  unit: Unit,
  o: StageOperands,
  wanted: WantedOfUnit,
  kept?: KeptMemory,
): Fetched {
  const input = stageInput(g, unit, o);
  const memory = gradientMemory(g, unit, o, wanted);
  const gradients = stageBackward(
    ...([g, unit.stage, input, o.context(g), o.dy(g, unit)] as const),
    { ...wanted, ...memory },
    kept && standsIn(g, kept),
  );
  if (gradients.x) g.expand(g.copy(gradients.x, o.dx(g, unit)));
  return fetched(g, gradients.parameters, memory.into);
}

/** What forward of a unit can keep for backward: see {@link keepingOf}. */
export function keepingOfUnit(g: Graph, unit: Unit, o: StageOperands, wanted: WantedOfUnit): Keeping {
  const memory = gradientMemory(g, unit, o, wanted);
  const input = stageInput(g, unit, o);
  return keepingOf(g, unit.stage, input, o.context(g), o.dy(g, unit), { ...wanted, ...memory });
}

function stageInput(g: Graph, unit: Unit, o: StageOperands): StageInput {
  const x = unit.stage.kind === "embed" ? undefined : o.input(g, unit);
  return { ...o.stage(g, unit), x };
}

/** The head's loss, f32 [1], and its gradients. `gradScale`: 1 / targets of the whole step. */
export function buildHead(
  g: Graph,
  unit: Unit,
  vocab: number,
  o: StageOperands,
  wanted: WantedOfUnit,
  gradScale: number,
): { sum: Tensor; fetched: Fetched } {
  const { parameters, adapters } = o.stage(g, unit);
  const input = {
    hidden: o.input(g, unit),
    predicting: o.predicting(g),
    targets: o.targets(g),
    parameters,
    adapters,
  };
  const memory = gradientMemory(g, unit, o, wanted);
  const options = { blockTokens: lossBlockTokens(vocab), gradScale, wanted: { ...wanted, ...memory } };
  const { sum, x, parameters: gradients } = headLoss(g, unit.stage, input, options);
  if (x) g.expand(g.copy(x, o.dx(g, unit)));
  return { sum: g.output(sum), fetched: fetched(g, gradients, memory.into) };
}

function gradientMemory(g: Graph, unit: Unit, o: StageOperands, { parameters }: WantedOfUnit) {
  const into: Record<string, Tensor> = {};
  const fresh: string[] = [];
  for (const key of parameters) {
    const place = o.into(g, unit, key);
    if (!place) continue;
    into[key] = place.memory;
    if (place.fresh) fresh.push(key);
  }
  return { into, fresh };
}

/** Copies, so that each has memory of its own until it has been read. */
function fetched(g: Graph, gradients: Fetched, into: Fetched): Fetched {
  const entries = Object.entries(gradients).filter(([key]) => !into[key]);
  return Object.fromEntries(entries.map(([key, gradient]) => [key, g.output(g.cont(gradient))]));
}
