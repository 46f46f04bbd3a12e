// What a training step costs under a plan: bytes to and from disk, and seconds by which ways to keep training's parts are
// compared. Arithmetic over the plan: nothing is measured here.
import { bytesOf } from "../../backend/ggml/dtypes.ts";
import type { Tier } from "../../memory/tiers.ts";
import { USUAL_DISK } from "../../plan/cost.ts";
import type { Plan } from "../../plan/plan.ts";
import type { Unit } from "../../plan/units.ts";
import type { KnownModel } from "../../runtime/open/training-hooks.ts";
import type { UpdateRule } from "../optimizer/rules/rule.ts";
import { stateBytes } from "../optimizer/state.ts";
import type { BatchShape } from "../step/batch-inputs.ts";
import { hasOwnMaster, type TrainingHomes } from "./homes.ts";
import type { Parameter, Parameters } from "./parameters.ts";

/**
 * Floating-point operations a second of wide products, and bytes a second from RAM to a GPU, of machines that nobody has
 * measured: plans are the same from run to run. They weigh memory for activations against memory for weights, which differ
 * by more than machines do: a byte kept of a stage of width h spares h/2 operations, a resident byte two bytes of reading.
 */
const USUAL_FLOPS = { cpu: 1e11, gpu: 1e13 } as const;
const USUAL_UPLOAD = 12 * 2 ** 30;
/** Of what is done beside the longest part of a step, this share is waited for all the same. */
const NOT_BESIDE = 0.1;
/** With fewer updates under way a step from disk takes longer: measured, 1.03 to 1.2 times as long (bench/training.mjs). */
const FEWER_UPDATES_COST = 1.1;

/** Bytes that one step moves between memory and disk. */
export interface DiskTraffic {
  readonly read: number;
  readonly written: number;
}

/** What the cost of a step depends on beside the plan. */
export interface StepWork {
  readonly known: Pick<KnownModel, "model" | "device">;
  readonly parameters: Parameters;
  readonly rule: UpdateRule;
  readonly homes: TrainingHomes;
  readonly shape: BatchShape;
  /** Bytes of stage inputs that are brought away. */
  readonly storedInputs: number;
  /** Whether as many updates are under way as are of use. */
  readonly allUpdates: boolean;
  /** Floating-point operations that backward spares, because results of forward are kept. */
  readonly sparedFlops: number;
}

/** Of a step of `micro` micro-batches. */
export function diskTraffic(work: StepWork, plan: Plan, micro: number): DiskTraffic {
  const { known, parameters, rule, homes } = work;
  const { kind } = known.device;
  const { all } = parameters;
  const units = ownerUnits(known.model.units);
  const homeOf = (p: Parameter): Tier =>
    p.kind === "matrix" ? (plan.homes[units.get(p.name) ?? -1] ?? kind) : kind;
  const bytes = { masters: 0, working: 0, states: 0, gradients: 0 };
  for (const p of all) {
    const home = homeOf(p);
    const own = hasOwnMaster(p, kind, home);
    // A master copy that computes is read and written where the weight is.
    if (own ? homes.optimizer === "disk" : home === "disk") bytes.masters += p.elements * 4;
    if (own && home === "disk") bytes.working += bytesOf(p.dtype, p.elements);
    if (homes.optimizer === "disk") bytes.states += moments(rule, p);
    if (homes.gradients === "disk") bytes.gradients += p.elements * 4;
  }
  const { masters, working, states, gradients } = bytes;
  const activations = homes.activations === "disk" ? micro * work.storedInputs : 0;
  const head = known.model.units.at(-1);
  // The head is computed and differentiated in one go.
  const once = head && plan.homes[head.index] === "disk" ? head.bytes : 0;
  return {
    read: micro * (2 * plan.streamed.disk - once) + masters + states + micro * gradients + activations,
    written: masters + working + states + micro * gradients + activations,
  };
}

/** Seconds of a step of one micro-batch on a usual machine, in which the disk, uploads and arithmetic go on side by side. */
export function stepSeconds(work: StepWork, plan: Plan): number {
  const { read, written } = diskTraffic(work, plan, 1);
  const disk = ((read + written) * (work.allUpdates ? 1 : FEWER_UPDATES_COST)) / USUAL_DISK;
  const uploads = (2 * plan.streamed.cpu) / USUAL_UPLOAD;
  const compute = stepFlops(work) / USUAL_FLOPS[work.known.device.kind];
  const longest = Math.max(disk, uploads, compute);
  return longest + NOT_BESIDE * (disk + uploads + compute - longest);
}

/**
 * Floating-point operations of a micro-batch: forward, as much of it again in backward as is not kept, and gradients of
 * inputs and of weights: two per parameter and token each.
 */
export function stepFlops({ known, parameters, shape, sparedFlops }: StepWork): number {
  const tokens = shape.sequences * shape.length;
  return tokens * (6 * known.model.parameters + 2 * parameters.elements) - sparedFlops;
}

/** Bytes of a parameter's moments. */
export function moments(rule: UpdateRule, p: Parameter): number {
  return stateBytes(rule, p.elements).moments.reduce((a, b) => a + b, 0);
}

const owners = new WeakMap<readonly Unit[], ReadonlyMap<string, number>>();

/** Index of the unit that a matrix is placed with, by its name. */
function ownerUnits(units: readonly Unit[]): ReadonlyMap<string, number> {
  let found = owners.get(units);
  if (!found) {
    const first = units.toReversed();
    found = new Map(first.flatMap((unit) => unit.owned.map((m) => [m.name, unit.index] as const)));
    owners.set(units, found);
  }
  return found;
}
