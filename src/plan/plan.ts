// The plan: where every byte will live, decided before anything is allocated.
import { BudgetError } from "../base/errors.ts";
import { formatBytes } from "../memory/sizes.ts";
import type { Tier } from "../memory/tiers.ts";
import { choosePacked, streamedBytes } from "./packed-placement.ts";
import {
  type Choice,
  chooseResident,
  type RingRule,
  smallestSpace,
  stageRing,
  type UnitSize,
  unitRing,
} from "./placement.ts";
import { byStage, type Matrix, modulePath, type Unit } from "./units.ts";

/** What is taken whatever the placement, in bytes: on the computing device, and in RAM when that is a GPU. */
export interface FixedBytes {
  readonly kv: number;
  readonly activations: number;
  readonly scratch: number;
  readonly vectors: number;
  /** Low-rank updates of an adapter; absent without one. */
  readonly adapter?: number;
  /** What training keeps, taken after loading; absent where nothing is trained. */
  readonly training?: { readonly gpu: number; readonly cpu: number };
  /** Threads that compute wide products, with their scratch; absent where none do. */
  readonly products?: number;
  /** RAM for rows read from disk. */
  readonly rows: number;
  /** RAM for logits: of a token that is chosen, and of a few whose caller wants them. */
  readonly logits?: number;
  /** RAM that loading passes through; given back before the ring is taken. */
  readonly staging: number;
}

/** Sizes of units in the memories they may live in. */
export interface UnitSizes {
  readonly gpu: readonly UnitSize[];
  /** `slot`: in the ring the CPU computes from, or the host staging of a GPU. */
  readonly cpu: readonly UnitSize[];
}

export interface PlanRequest {
  readonly units: readonly Unit[];
  readonly sizes: UnitSizes;
  /** Where arithmetic runs. */
  readonly compute: "cpu" | "gpu";
  readonly budgets: Partial<Record<Tier, number>>;
  /** A tier per unit where the user named one. */
  readonly wanted: readonly (Tier | undefined)[];
  readonly fixed: FixedBytes;
  /** Stages of several units are computed only with all of them there; otherwise also as they come and go. */
  readonly wholeStages?: boolean;
  /** Given where the CPU may compute some stages beside a GPU. */
  readonly hybrid?: HybridRequest | undefined;
}

/** Where everything goes. All sizes in bytes. */
export interface Plan {
  /** Module path of each stage -> tier; where its units are on several, of each matrix, or of each block of its rows. */
  readonly device_map: Readonly<Record<string, Tier>>;
  readonly homes: readonly Tier[];
  /** The device the model was opened on; {@link computeOf} says where it does not compute. */
  readonly compute: "cpu" | "gpu";
  /** Ring that graphs compute from, and host memory between disk and device. */
  readonly ring: number;
  readonly staging: number;
  /** All units of a stage have room in the ring at once; otherwise they are computed as they come and go. */
  readonly wholeStages: boolean;
  /** Ring for what stays in RAM packed. */
  readonly unpacking: number;
  /** Indices of the units that do; their home is cpu. */
  readonly packed: ReadonlySet<number>;
  /** What will be taken per tier. */
  readonly bytes: Readonly<Record<Tier, number>>;
  /** Bytes that move to the computing device in every pass, from RAM and from disk. */
  readonly streamed: { readonly cpu: number; readonly disk: number };
  readonly fixed: FixedBytes;
  /** Where each stage is computed. */
  readonly computeOf: readonly Site[];
  /** What the CPU takes for the stages that it computes beside a GPU; absent where one device computes all. */
  readonly host?: HostShare;
}

/** A device that computes: the one the model was opened on, or the CPU beside that GPU. */
export type Site = typeof MAIN | typeof HOST;
export const MAIN = 0;
export const HOST = 1;

/** What the CPU takes beside a GPU. All in bytes. */
export interface HostShare {
  readonly kv: number;
  readonly activations: number;
  readonly scratch: number;
  /** Threads that compute wide products, with their scratch. */
  readonly products: number;
  /** Norms, biases and what an adapter adds. */
  readonly lasting: number;
  readonly ring: number;
  /** See {@link Plan.wholeStages}, of that ring. */
  readonly wholeStages: boolean;
}

/** What is to be known to divide a model's stages between a GPU and the CPU beside it. */
export interface HybridRequest {
  /** By stage, where it was said; the others are computed where their weights are. */
  readonly computeOf: readonly (Site | undefined)[];
  /** Keys and values of a stage, and what it keeps all the time beside its matrices. Bytes. */
  readonly kvOf: (stage: number) => number;
  readonly lastingOf: (stage: number) => number;
  /** What the CPU takes if it computes any stage. Bytes. */
  readonly host: Pick<HostShare, "activations" | "scratch" | "products">;
  /** Sizes of units where the CPU computes them. */
  readonly sizes: readonly UnitSize[];
}

/** Units by the tier that was named for them. */
export function byWish(
  sizes: readonly UnitSize[],
  wanted: readonly (Tier | undefined)[],
): Readonly<Record<Tier | "open", readonly UnitSize[]>> {
  const found: Record<Tier | "open", UnitSize[]> = { gpu: [], cpu: [], disk: [], open: [] };
  for (const u of sizes) found[wanted[u.index] ?? "open"].push(u);
  return found;
}

/** Rings for whole stages, which let many tokens go through one before its weights make room, take this part of the space. */
const STAGE_RING_SHARE = 1 / 8;

/** How a device that can do either streams these units in `space` bytes. */
export function roomyRule(streaming: readonly UnitSize[], space: number): RingRule {
  return stageRing.full(streaming) <= space * STAGE_RING_SHARE ? stageRing : unitRing;
}

/** What {@link place} chose. */
export interface Chosen {
  readonly resident: Set<number>;
  readonly ring: number;
  readonly packed: ReadonlySet<number>;
  readonly unpacking: number;
}

const NONE_PACKED = { packed: new Set<number>(), unpacking: 0 } as const;

/** Chooses among `open` units what stays in `space`; `gone` ones stream whatever is chosen. */
export function place(
  open: readonly UnitSize[],
  gone: readonly UnitSize[],
  space: number,
  numbers: { tier: "gpu" | "cpu"; base: number; budget: number },
  rule: RingRule,
): Chosen {
  const all = [...open, ...gone].sort((a, b) => a.index - b.index);
  const everything = open.reduce((sum, u) => sum + u.resident, 0);
  for (const ring of [rule.full(gone), rule.smallest(gone)]) {
    if (everything + ring <= space) {
      return { resident: new Set(open.map((u) => u.index)), ring, ...NONE_PACKED };
    }
  }
  const plain = chooseUnpacked(open, gone, space, rule);
  const packed = choosePacked(open, gone, space, rule);
  if (packed && (!plain || packed.streamed < streamedBytes(all, plain.resident))) {
    return { ...packed, resident: new Set(packed.resident) };
  }
  if (plain) return { resident: new Set(plain.resident), ring: plain.ring, ...NONE_PACKED };
  const smallest = numbers.base + (gone.length === 0 ? smallestSpace(open, rule) : rule.smallest(all));
  refuse(numbers.tier, smallest, numbers.budget, smallest);
}

function chooseUnpacked(
  open: readonly UnitSize[],
  gone: readonly UnitSize[],
  space: number,
  rule: RingRule,
): Choice | undefined {
  if (gone.length === 0) return chooseResident(open, space, rule);
  // Some stream by the user's word: the ring is sized for all that may stream.
  const all = [...open, ...gone];
  for (const ring of [rule.full(all), rule.smallest(all)]) {
    if (ring <= space)
      return { resident: chooseResident(open, space - ring, rule)?.resident ?? new Set(), ring };
  }
  return undefined;
}

export function refuse(tier: "gpu" | "cpu", needed: number, budget: number, smallest: number): never {
  const mib = Math.ceil(smallest / 2 ** 20);
  throw new BudgetError(
    `does not fit: ${tier} needs at least ${formatBytes(needed)}, the budget is ${formatBytes(budget)}; ` +
      `the smallest budget that works is --${tier} ${mib}MiB (max_memory: { ${tier}: "${mib}MiB" })`,
    { tier, needed, budget, smallest: mib * 2 ** 20 },
  );
}

export function finish(
  r: PlanRequest,
  homes: readonly Tier[],
  packed: ReadonlySet<number>,
  sizes: Pick<Plan, "ring" | "wholeStages" | "staging" | "unpacking"> & { gpu: number; cpu: number },
  shared: { computeOf: readonly Site[]; host: HostShare } | undefined = undefined,
): Plan {
  const device_map: Record<string, Tier> = {};
  const streamed = { cpu: 0, disk: 0 };
  let disk = 0;
  for (const { stage, units } of byStage(r.units)) {
    const together = (some: readonly Unit[]) => new Set(some.map((u) => homes[u.index])).size === 1;
    for (const unit of units) {
      const matrix = modulePath(unit);
      const blocks = units.filter((u) => modulePath(u) === matrix);
      const name = together(units) ? stage.name : together(blocks) ? matrix : unit.name;
      device_map[name] = homes[unit.index] as Tier;
    }
  }
  for (const unit of r.units) {
    const home = homes[unit.index] as Tier;
    if (home === "disk") disk += unit.bytes;
    if (unit.rowsOnly || home === "gpu") continue;
    const computed = shared?.computeOf[unit.stageIndex] === HOST ? "cpu" : r.compute;
    if (home !== computed || packed.has(unit.index)) streamed[home] += unit.bytes;
  }
  return {
    device_map,
    homes,
    compute: r.compute,
    ring: sizes.ring,
    wholeStages: sizes.wholeStages,
    staging: sizes.staging,
    unpacking: sizes.unpacking,
    packed,
    bytes: { gpu: sizes.gpu, cpu: sizes.cpu, disk },
    streamed,
    fixed: r.fixed,
    computeOf: shared?.computeOf ?? byStage(r.units).map(() => MAIN),
    ...(shared && { host: shared.host }),
  };
}

/** The same plan where what is read from disk, or unpacked from RAM, has another number of bytes than in place. */
export function withPackedBytes(
  plan: Plan,
  units: readonly Unit[],
  bytesOf: (unit: Unit, m: Matrix) => number,
): Plan {
  let kept = 0;
  const streamed = { cpu: plan.packed.size > 0 ? 0 : plan.streamed.cpu, disk: 0 };
  for (const unit of units) {
    const bytes = unit.owned.reduce((sum, m) => sum + (unit.rowsOnly ? m.bytes : bytesOf(unit, m)), 0);
    if (plan.packed.has(unit.index)) streamed.cpu += bytes;
    if (plan.homes[unit.index] !== "disk") continue;
    kept += bytes;
    if (!unit.rowsOnly) streamed.disk += bytes;
  }
  return { ...plan, streamed, bytes: { ...plan.bytes, disk: kept } };
}
