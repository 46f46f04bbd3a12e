// How much memory training needs beside the model's weights, on each tier, for every way its parts can be placed. Arithmetic
// over shapes: nothing is taken.
import { wholeBlocks } from "../../memory/io/direct-io.ts";
import type { Tier } from "../../memory/tiers.ts";
import type { Plan } from "../../plan/plan.ts";
import type { Way } from "../../runtime/open/prepared.ts";
import type { KnownModel } from "../../runtime/open/training-hooks.ts";
import { gatheredRowBytes } from "../../runtime/step/measure.ts";
import { PIECE } from "../checkpoints/staging.ts";
import { DRAFTS } from "../optimizer/draft.ts";
import { updaterBytes } from "../optimizer/slots.ts";
import { activationBytes } from "../step/activations.ts";
import { type BatchShape, batchInputBytes, type InputSizes } from "../step/batch-inputs.ts";
import { gradientPoolBytes } from "../step/gradient-store.ts";
import { KEPT } from "../step/kept-activations.ts";
import { type Ahead, aheadOf, hasDraft, hasOwnMaster, type TrainingHomes } from "./homes.ts";
import { hostBytes, measureStep, type StepMeasure } from "./measure-step.ts";
import type { KeepActivations, TrainerSettings } from "./options.ts";
import type { Parameter, Parameters } from "./parameters.ts";
import { type DiskTraffic, diskTraffic, moments, stepFlops, stepSeconds } from "./step-cost.ts";

/** Updates under way at the same time, while some wait for the disk another computes: preferred, and with less memory. */
const UPDATES_UNDER_WAY = [4, 2] as const;
/** Memory of a disk store for blocks that are only used in part. */
const BOUNCE_BYTES = 256 * 1024;
/** RAM that is taken for a while again and again: planned for, and free in between. */
export const PASSING: readonly PlannedPart[] = [
  { tier: "cpu", what: "gradient norms", bytes: 64 * 1024 },
  // saving, resuming and exporting: a training that could not be saved is of no use
  { tier: "cpu", what: "checkpoint staging", bytes: 2 * PIECE },
];
const SLICE_ELEMENTS = 2 ** 20;
const SMALL_SLICE_ELEMENTS = 2 ** 18;
/** Budgets below this get small slices. Bytes. */
const SMALL_BUDGET = 2 ** 30;

interface PlannedPart {
  readonly tier: Tier;
  readonly what: string;
  readonly bytes: number;
}

/** What of forward is kept for backward. */
export interface KeptStages {
  /** Bytes of each, by the unit's index. */
  readonly bytes: ReadonlyMap<number, number>;
  /** Stages that backward goes through and that compute products forward. */
  readonly of: number;
  /** Floating-point operations of a micro-batch that backward spares, and all that it would compute again. */
  readonly flops: { readonly spared: number; readonly all: number };
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
  readonly kept: KeptStages;
  /** Bytes of all that training keeps, by what it is, on each tier. */
  readonly parts: readonly PlannedPart[];
  /** Of a step of `micro` micro-batches under a plan. */
  traffic(plan: Plan, micro: number): DiskTraffic;
  /** Floating-point operations of a micro-batch of the planned shape. */
  readonly flops: number;
}

/**
 * Every way the settings allow, those that use the disk least first. Where results of forward may be kept, there are ways that
 * keep those of no stage, of half of them and of all, and the chosen one has variants of every number of stages.
 */
export function trainingWays(
  known: KnownModel,
  parameters: Parameters,
  settings: TrainerSettings,
): TrainingWay[] {
  const shape = plannedShape(known, settings);
  const measured = measureStep(known, parameters, shape);
  const keepable = byWorth(measured);
  const { levels, counts } = keepLevels(settings.keep_activations, keepable);
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
              const make = (stages: readonly Keepable[]) =>
                makeWay(known, parameters, settings, measured, {
                  ...{ homes, ahead, gradientPool, updatesUnderWay, shape },
                  kept: keptStages(stages, keepable),
                });
              for (const kept of levels) {
                ways.push({
                  ...make(kept),
                  // Made once this way has been chosen: there are as many as there are stages.
                  variants: () => counts.map((count) => make(keepable.slice(0, count))),
                });
              }
            }
          }
        }
      }
    }
  }
  return ways;
}

type Keepable = StepMeasure["stages"][number];

/**
 * Which stages the ways keep among which one is chosen, and how many its variants keep. What is kept and where the rest lives
 * are chosen together, but not in every combination: there would be thousands.
 */
function keepLevels(
  keep: KeepActivations,
  all: readonly Keepable[],
): { levels: (readonly Keepable[])[]; counts: number[] } {
  if (keep === "none" || all.length === 0) return { levels: [[]], counts: [] };
  if (keep === "all") return { levels: [all], counts: [] };
  return { levels: [[], all.slice(0, Math.ceil(all.length / 2)), all], counts: [...all.keys(), all.length] };
}

/** Stages that have something to keep, those first that spare most for a byte; of equals the first of the model. */
function byWorth({ stages }: StepMeasure): Keepable[] {
  const worth = ({ keeping }: Keepable) => keeping.flops / keeping.bytes;
  return stages.filter(({ keeping }) => keeping.bytes > 0).sort((a, b) => worth(b) - worth(a));
}

function keptStages(stages: readonly Keepable[], all: readonly Keepable[]): KeptStages {
  return {
    bytes: new Map(stages.map(({ unit, keeping }) => [unit, keeping.bytes])),
    of: all.length,
    flops: { spared: sum(stages, (s) => s.keeping.flops), all: sum(all, (s) => s.keeping.flops) },
  };
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
  measured: StepMeasure,
  o: Pick<TrainingWay, "homes" | "ahead" | "gradientPool" | "updatesUnderWay" | "shape" | "kept">,
): TrainingWay {
  const { homes, ahead, gradientPool, updatesUnderWay, shape, kept } = o;
  const { tensors } = measured;
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
  const inputs = activationBytes(count, hidden, kind, stored);
  add(kind, "batch inputs", batchInputBytes(shape, inputSizes(known, parameters)));
  const beside = hostBytes(shape, tensors);
  add("cpu", "batches", beside.batches);
  add("cpu", "graph headers", beside.headers);
  add(kind, "gradients of stage inputs", 2 * wholeBlocks(hidden));
  add(kind, "stage inputs", inputs.device);
  add("cpu", "stage inputs on their way", inputs.staging);
  add(homes.activations, "stage inputs", inputs.store);

  add(kind, KEPT, sum([...kept.bytes.values()], wholeBlocks));

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
  const work = {
    ...{ known, parameters, rule, homes, shape },
    storedInputs: inputs.store,
    allUpdates: updatesUnderWay === UPDATES_UNDER_WAY[0],
    sparedFlops: kept.flops.spared,
  };
  return {
    ...o,
    ...{ tensors, sliceElements, parts },
    scratch: measured.scratch(new Set(kept.bytes.keys())),
    bytes: { gpu: on("gpu"), cpu: on("cpu") },
    flops: stepFlops(work),
    traffic: (plan, micro) => diskTraffic(work, plan, micro),
    cost: (plan) => stepSeconds(work, plan),
  };
}

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((total, item) => total + of(item), 0);
}
