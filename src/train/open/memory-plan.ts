// How much memory training needs beside the model's weights, on each tier, for every way its parts can be placed; and
// how many bytes a step then moves to and from disk. Arithmetic over shapes: nothing is taken.
import { bytesOf } from "../../backend/ggml/dtypes.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import { GraphMemory } from "../../backend/ggml/graph-memory.ts";
import type { Graph } from "../../backend/ggml/ops.ts";
import { wholeBlocks } from "../../memory/io/direct-io.ts";
import type { Tier } from "../../memory/tiers.ts";
import type { Plan } from "../../plan/plan.ts";
import type { Unit } from "../../plan/units.ts";
import type { Way } from "../../runtime/open/prepared.ts";
import type { KnownModel } from "../../runtime/open/training-hooks.ts";
import { buildGraph, gatheredRowBytes, withNowhere } from "../../runtime/step/measure.ts";
import { PIECE } from "../checkpoints/staging.ts";
import { DRAFTS } from "../optimizer/draft.ts";
import type { UpdateRule } from "../optimizer/rules/rule.ts";
import { updaterBytes } from "../optimizer/slots.ts";
import { stateBytes } from "../optimizer/state.ts";
import { activationBytes } from "../step/activations.ts";
import { type BatchShape, batchInputBytes, type InputSizes } from "../step/batch-inputs.ts";
import { gradientPoolBytes } from "../step/gradient-store.ts";
import { buildBackward, buildForward, buildHead, type WantedOfUnit } from "../step/stage-graphs.ts";
import { type Ahead, aheadOf, hasDraft, hasOwnMaster, type TrainingHomes } from "./homes.ts";
import { NoMemory } from "./measure-operands.ts";
import type { TrainerSettings } from "./options.ts";
import type { Parameter, Parameters } from "./parameters.ts";

/** Updates under way at the same time, while some wait for the disk another computes: preferred, and with less memory. */
const UPDATES_UNDER_WAY = [4, 2] as const;
/** With fewer of them a step from disk takes longer: measured, 1.03 to 1.2 times as long (bench/training.mjs). */
const FEWER_UPDATES_COST = 1.1;
/** Memory of a disk store for blocks that are only used in part. */
const BOUNCE_BYTES = 256 * 1024;
/** RAM that is taken for a while again and again: planned for, and free in between. */
export const PASSING: readonly PlannedPart[] = [
  { tier: "cpu", what: "gradient norms", bytes: 64 * 1024 },
  // saving, resuming and exporting: a training that could not be saved is of no use
  { tier: "cpu", what: "checkpoint staging", bytes: 2 * PIECE },
];
/** What the objects of ours that stand for a tensor of a graph take beside its header. Bytes. */
const OBJECT_BYTES = 400;
/** Bytes of a token of a micro-batch: its id, position, place and target. */
const TOKEN_BYTES = 16;
const SLICE_ELEMENTS = 2 ** 20;
const SMALL_SLICE_ELEMENTS = 2 ** 18;
/** Budgets below this get small slices. Bytes. */
const SMALL_BUDGET = 2 ** 30;

interface PlannedPart {
  readonly tier: Tier;
  readonly what: string;
  readonly bytes: number;
}

/** Bytes that one step moves between memory and disk. */
export interface DiskTraffic {
  readonly read: number;
  readonly written: number;
}

export interface TrainingWay extends Way {
  readonly homes: TrainingHomes;
  readonly ahead: Ahead;
  /** RAM for gradients whose home is disk. Bytes. */
  readonly gradientPool: number;
  readonly updatesUnderWay: number;
  readonly sliceElements: number;
  readonly shape: BatchShape;
  /** Tensors of the largest graph of a step. */
  readonly tensors: number;
  /** Bytes of all that training keeps, by what it is, on each tier. */
  readonly parts: readonly PlannedPart[];
  /** Of a step of `micro` micro-batches under a plan. */
  traffic(plan: Plan, micro: number): DiskTraffic;
}

/** Every way the settings allow, those that use the disk least first. */
export function trainingWays(
  known: KnownModel,
  parameters: Parameters,
  settings: TrainerSettings,
): TrainingWay[] {
  const shape = plannedShape(known, settings);
  const { scratch, tensors } = measureTrainingScratch(known, parameters, shape);
  const choices = <T extends Tier>(wanted: T | "auto", auto: readonly T[]) =>
    wanted === "auto" ? auto : [wanted];
  const ways: TrainingWay[] = [];
  for (const optimizer of choices(settings.optimizer, ["cpu", "disk"] as const)) {
    for (const gradients of choices<"cpu" | "disk">(settings.gradients, ["cpu", "disk"])) {
      for (const activations of choices(
        settings.activations,
        known.device.onHost ? (["cpu", "disk"] as const) : (["gpu", "cpu", "disk"] as const),
      )) {
        const homes = { optimizer, gradients, activations };
        const pools =
          gradients === "disk" ? [true, false].map((room) => gradientPoolBytes(parameters, room)) : [0];
        for (const gradientPool of pools) {
          for (const ahead of aheadOf(settings, homes)) {
            for (const updatesUnderWay of UPDATES_UNDER_WAY) {
              const way = { homes, ahead, gradientPool, updatesUnderWay, shape, tensors, scratch };
              ways.push(makeWay(known, parameters, settings, way));
            }
          }
        }
      }
    }
  }
  return ways;
}

/** The largest micro-batch that memory is planned for. */
function plannedShape({ spec }: KnownModel, settings: TrainerSettings): BatchShape {
  const length = Math.min(settings.max_length ?? Math.min(512, spec.max_positions), spec.max_positions);
  return { sequences: settings.micro_batch_size, length };
}

/** What inputs of a micro-batch depend on. */
export function inputSizes({ model }: Pick<KnownModel, "model">, parameters: Parameters): InputSizes {
  return { rowBytes: gatheredRowBytes(model.units), dropoutWidth: parameters.dropoutWidth };
}

function makeWay(
  known: KnownModel,
  parameters: Parameters,
  settings: TrainerSettings,
  o: Pick<
    TrainingWay,
    "homes" | "ahead" | "gradientPool" | "updatesUnderWay" | "shape" | "tensors" | "scratch"
  >,
): TrainingWay {
  const { homes, ahead, gradientPool, updatesUnderWay, shape, tensors, scratch } = o;
  const { spec, device, budgets } = known;
  const { kind } = device;
  const { rule } = settings;
  const { all } = parameters;
  const parts: PlannedPart[] = [];
  const add = (tier: Tier, what: string, bytes: number) => {
    if (bytes > 0) parts.push({ tier, what, bytes });
  };

  const hidden = spec.hidden_size * shape.sequences * shape.length * 4;
  const count = spec.stages.length - 1;
  const stored = homes.activations !== kind;
  const kept = activationBytes(count, hidden, kind, stored);
  add(kind, "batch inputs", batchInputBytes(shape, inputSizes(known, parameters)));
  const beside = hostBytes(shape, tensors);
  add("cpu", "batches", beside.batches);
  add("cpu", "graph headers", beside.headers);
  add(kind, "gradients of stage inputs", 2 * wholeBlocks(hidden));
  add(kind, "stage inputs", kept.device);
  add("cpu", "stage inputs on their way", kept.staging);
  add(homes.activations, "stage inputs", kept.store);

  const largest = Math.max(...all.map((p) => p.elements));
  for (const p of all) if (p.kind === "low-rank") add(kind, "low-rank weights", p.elements * 4);
  add(
    homes.gradients,
    "gradients",
    sum(all, (p) => p.elements * 4),
  );
  add("cpu", "gradient slots", gradientPool);
  if (kind === "gpu") add("cpu", "gradients on their way", largest * 4);

  // Where weights will be is not known yet: on a GPU every f32 weight may need a master copy of its own.
  const own = (p: Parameter) => hasOwnMaster(p, kind, kind);
  add(
    homes.optimizer,
    "master weights",
    sum(all, (p) => (own(p) ? p.elements * 4 : 0)),
  );
  add(
    homes.optimizer,
    "moments",
    sum(all, (p) => moments(rule, p)),
  );
  // Homes of weights are not known here either: these may be in RAM.
  const saved = all.filter(
    (p) => hasDraft(p, kind, "cpu", { homes, ahead }) && !hasOwnMaster(p, kind, "cpu"),
  );
  add(
    "cpu",
    DRAFTS,
    sum(saved, (p) => p.elements * 4),
  );
  const sliceElements =
    (budgets.cpu ?? Number.POSITIVE_INFINITY) < SMALL_BUDGET ? SMALL_SLICE_ELEMENTS : SLICE_ELEMENTS;
  const away = homes.optimizer !== "cpu";
  const slots = Math.max(
    ...all.map((p) =>
      updaterBytes(
        rule,
        p.elements,
        { master: away || p.kind === "matrix", moments: away, ...(own(p) && { working: p.dtype }) },
        sliceElements,
      ),
    ),
  );
  add("cpu", "optimizer slots", updatesUnderWay * slots);
  add("cpu", "staging", 2 * BOUNCE_BYTES); // of the states' file and of the weights'
  parts.push(...PASSING);

  const on = (tier: Tier) =>
    sum(
      parts.filter((part) => part.tier === tier),
      (part) => part.bytes,
    );
  const traffic = (plan: Plan, micro: number): DiskTraffic => {
    const homeOf = (p: Parameter): Tier =>
      p.kind === "matrix" ? (plan.homes[unitIndexOf(known.model.units, p)] ?? kind) : kind;
    const onDisk = all.filter((p) => homeOf(p) === "disk");
    // A master copy that computes is read and written where the weight is.
    const masters =
      sum(
        onDisk.filter((p) => !hasOwnMaster(p, kind, "disk")),
        (p) => p.elements * 4,
      ) +
      (homes.optimizer === "disk"
        ? sum(
            all.filter((p) => hasOwnMaster(p, kind, homeOf(p))),
            (p) => p.elements * 4,
          )
        : 0);
    const working = sum(
      onDisk.filter((p) => hasOwnMaster(p, kind, "disk")),
      (p) => bytesOf(p.dtype, p.elements),
    );
    const states = homes.optimizer === "disk" ? sum(all, (p) => moments(rule, p)) : 0;
    const gradients = homes.gradients === "disk" ? sum(all, (p) => p.elements * 4) : 0;
    const activations = homes.activations === "disk" ? micro * kept.store : 0;
    const head = known.model.units.at(-1);
    // The head is computed and differentiated in one go.
    const once = head && plan.homes[head.index] === "disk" ? head.bytes : 0;
    return {
      read: micro * (2 * plan.streamed.disk - once) + masters + states + micro * gradients + activations,
      written: masters + working + states + micro * gradients + activations,
    };
  };
  return {
    homes,
    ahead,
    gradientPool,
    updatesUnderWay,
    shape,
    tensors,
    sliceElements,
    parts,
    scratch,
    bytes: { gpu: on("gpu"), cpu: on("cpu") },
    traffic,
    cost: (plan) => {
      const { read, written } = traffic(plan, 1);
      return (read + written) * (updatesUnderWay < UPDATES_UNDER_WAY[0] ? FEWER_UPDATES_COST : 1);
    },
  };
}

function moments(rule: UpdateRule, p: Parameter): number {
  return stateBytes(rule, p.elements).moments.reduce((a, b) => a + b, 0);
}

/** Index of the unit whose home is the parameter's. */
export function unitIndexOf(units: readonly Unit[], p: Parameter): number {
  return units.findIndex((u) => u.owned.some((m) => m.name === p.name));
}

/** Keys that train in a unit, and whether anything below it does. */
export function wantedOf(parameters: Parameters, unit: number): WantedOfUnit {
  const keys: string[] = [];
  let lowest = Number.POSITIVE_INFINITY;
  for (const p of parameters.all) {
    for (const use of p.uses) {
      lowest = Math.min(lowest, use.unit);
      if (use.unit === unit) keys.push(use.key);
    }
  }
  return { parameters: keys, x: unit > lowest };
}

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

/**
 * Scratch memory of the largest graph of a step, in bytes, and the most tensors one has. Throws GraphError where the device
 * cannot run one.
 */
export function measureTrainingScratch(
  { spec, model, device }: KnownModel,
  parameters: Parameters,
  shape: BatchShape,
): { scratch: number; tensors: number } {
  const graphs = new GraphMemory(device.memory, () => {});
  let most = 0;
  let tensors = 0;
  try {
    withNowhere((nowhere) => {
      const operands = new NoMemory(nowhere, spec, parameters, shape, device.kind);
      const measure = (make: (g: Graph) => unknown) => {
        const room = buildGraph(device, 2048, (g) => {
          make(g);
          g.checkSupport();
          most = Math.max(most, graphs.measure(g.handle));
        });
        tensors = Math.max(tensors, room);
      };
      const seen = new Set<string>();
      for (const unit of model.units) {
        const wanted = wantedOf(parameters, unit.index);
        const shapes = Object.entries(unit.matrices).map(([key, m]) => `${key}:${m.dtype}:${m.ne.join("x")}`);
        const key = [unit.stage.kind, ...shapes, ...wanted.parameters, wanted.x].join(" ");
        if (seen.has(key)) continue;
        seen.add(key);
        if (unit.stage.kind === "head") {
          measure((g) => buildHead(g, unit, spec.vocab_size, operands, wanted, 1));
        } else {
          measure((g) => buildForward(g, unit, operands));
          if (wanted.x || wanted.parameters.length > 0)
            measure((g) => buildBackward(g, unit, operands, wanted));
        }
      }
    });
  } finally {
    graphs.dispose();
  }
  return { scratch: most, tensors };
}

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((total, item) => total + of(item), 0);
}
