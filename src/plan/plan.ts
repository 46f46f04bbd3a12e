// The plan: where every byte will live, decided before anything is allocated.
import { BudgetError, ConfigError } from "../base/errors.ts";
import { formatBytes } from "../memory/sizes.ts";
import type { Tier } from "../memory/tiers.ts";
import { choosePacked, streamedBytes } from "./packed-placement.ts";
import {
  type Choice,
  chooseResident,
  fullRing,
  residentBytes,
  smallestRing,
  smallestSpace,
  type UnitSize,
} from "./placement.ts";
import type { Matrix, Unit } from "./units.ts";

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
}

/** Where everything goes. All sizes in bytes. */
export interface Plan {
  /** Module path of each unit -> tier. */
  readonly device_map: Readonly<Record<string, Tier>>;
  readonly homes: readonly Tier[];
  /** The device that computes: the one place where that is chosen is {@link computeTier}. */
  readonly compute: "cpu" | "gpu";
  /** Ring that graphs compute from, and host memory between disk and device. */
  readonly ring: number;
  readonly staging: number;
  /** Ring for what stays in RAM packed. */
  readonly unpacking: number;
  /** Indices of the units that do; their home is cpu. */
  readonly packed: ReadonlySet<number>;
  /** What will be taken per tier. */
  readonly bytes: Readonly<Record<Tier, number>>;
  /** Bytes that move to the computing device in every pass, from RAM and from disk. */
  readonly streamed: { readonly cpu: number; readonly disk: number };
  readonly fixed: FixedBytes;
}

/** Which device computes the stages whose weights live on a tier: the GPU if there is one. */
export function computeTier(_home: Tier, compute: "cpu" | "gpu"): "cpu" | "gpu" {
  return compute;
}

/** Places every unit. Throws BudgetError with the smallest budget that works. */
export function makePlan(r: PlanRequest): Plan {
  const lasting = r.fixed.vectors + (r.fixed.adapter ?? 0);
  const training = r.fixed.training?.[r.compute] ?? 0;
  const onDevice =
    r.fixed.kv + r.fixed.activations + r.fixed.scratch + lasting + training + (r.fixed.products ?? 0);
  return r.compute === "gpu" ? planGpu(r, onDevice) : planCpu(r, onDevice, lasting);
}

/** `lasting`: the part of `onDevice` that is there from loading on. */
function planCpu(r: PlanRequest, onDevice: number, lasting: number): Plan {
  const { sizes, wanted, fixed, units } = r;
  const gpuUnit = units.find((u, i) => wanted[i] === "gpu" && u.bytes > 0);
  if (gpuUnit) {
    throw new ConfigError(
      `device_map puts ${gpuUnit.name} on gpu, but the model runs on the CPU; use device: "auto"`,
    );
  }
  const kept = sizes.cpu.filter((u) => wanted[u.index] === "cpu");
  const gone = sizes.cpu.filter((u) => wanted[u.index] === "disk");
  const open = sizes.cpu.filter((u) => wanted[u.index] === undefined);
  // While loading, staging is there and what the passes need is not yet.
  const passes = onDevice + fixed.rows + (fixed.logits ?? 0);
  const beside = Math.max(passes, lasting + fixed.staging);
  const base = beside + kept.reduce((sum, u) => sum + u.resident, 0);
  const budget = r.budgets.cpu ?? Number.POSITIVE_INFINITY;
  const chosen = place(open, gone, budget - base, { tier: "cpu", base, budget });
  const { resident, ring, packed, unpacking } = chosen;
  for (const u of kept) resident.add(u.index);
  const homes = sizes.cpu.map((u): Tier => (resident.has(u.index) ? "cpu" : "disk"));
  const inPlace = sizes.cpu.map((u) =>
    packed.has(u.index) ? { ...u, resident: u.packed ?? u.resident } : u,
  );
  const weights = residentBytes(inPlace, resident);
  const cpu = weights + Math.max(passes + ring + unpacking, lasting + fixed.staging);
  return finish(r, homes, packed, { ring, staging: 0, unpacking, gpu: 0, cpu });
}

function planGpu(r: PlanRequest, onDevice: number): Plan {
  const { sizes, wanted, fixed } = r;
  const gpuBudget = r.budgets.gpu ?? Number.POSITIVE_INFINITY;
  const cpuBudget = r.budgets.cpu ?? Number.POSITIVE_INFINITY;
  const keptOnGpu = sizes.gpu.filter((u) => wanted[u.index] === "gpu");
  const away = sizes.gpu.filter((u) => wanted[u.index] === "cpu" || wanted[u.index] === "disk");
  const open = sizes.gpu.filter((u) => wanted[u.index] === undefined);
  const gpuBase = onDevice + keptOnGpu.reduce((sum, u) => sum + u.resident, 0);
  const device = place(open, away, gpuBudget - gpuBase, { tier: "gpu", base: gpuBase, budget: gpuBudget });
  for (const u of keptOnGpu) device.resident.add(u.index);

  const rest = sizes.cpu.filter((u) => !device.resident.has(u.index));
  const keptInRam = rest.filter((u) => wanted[u.index] === "cpu");
  const gone = rest.filter((u) => wanted[u.index] === "disk");
  const beside = fixed.rows + (fixed.logits ?? 0) + (fixed.training?.cpu ?? 0);
  const cpuBase = Math.max(beside, fixed.staging) + keptInRam.reduce((sum, u) => sum + u.resident, 0);
  const host = place(
    rest.filter((u) => wanted[u.index] === undefined),
    gone,
    cpuBudget - cpuBase,
    { tier: "cpu", base: cpuBase, budget: cpuBudget },
  );
  for (const u of keptInRam) host.resident.add(u.index);
  const homes = sizes.gpu.map(
    (u): Tier => (device.resident.has(u.index) ? "gpu" : host.resident.has(u.index) ? "cpu" : "disk"),
  );
  const gpu = onDevice + residentBytes(sizes.gpu, device.resident) + device.ring;
  const weights = residentBytes(sizes.cpu, host.resident);
  const cpu = weights + Math.max(beside + host.ring, fixed.staging);
  return finish(r, homes, new Set(), { ring: device.ring, staging: host.ring, unpacking: 0, gpu, cpu });
}

/** What {@link place} chose. */
interface Placed {
  readonly resident: Set<number>;
  readonly ring: number;
  readonly packed: ReadonlySet<number>;
  readonly unpacking: number;
}

const NONE_PACKED = { packed: new Set<number>(), unpacking: 0 } as const;

/** Chooses among `open` units what stays in `space`; `gone` ones stream whatever is chosen. */
function place(
  open: readonly UnitSize[],
  gone: readonly UnitSize[],
  space: number,
  numbers: { tier: "gpu" | "cpu"; base: number; budget: number },
): Placed {
  const all = [...open, ...gone].sort((a, b) => a.index - b.index);
  const everything = open.reduce((sum, u) => sum + u.resident, 0);
  for (const ringOf of [fullRing, smallestRing]) {
    const ring = ringOf(gone);
    if (everything + ring <= space) {
      return { resident: new Set(open.map((u) => u.index)), ring, ...NONE_PACKED };
    }
  }
  const plain = chooseUnpacked(open, gone, space);
  const packed = choosePacked(open, gone, space);
  if (packed && (!plain || packed.streamed < streamedBytes(all, plain.resident))) {
    return { ...packed, resident: new Set(packed.resident) };
  }
  if (plain) return { resident: new Set(plain.resident), ring: plain.ring, ...NONE_PACKED };
  const smallest = numbers.base + (gone.length === 0 ? smallestSpace(open) : smallestRing(all));
  refuse(numbers.tier, smallest, numbers.budget, smallest);
}

function chooseUnpacked(
  open: readonly UnitSize[],
  gone: readonly UnitSize[],
  space: number,
): Choice | undefined {
  if (gone.length === 0) return chooseResident(open, space);
  // Some stream by the user's word: the ring is sized for all that may stream.
  for (const ringOf of [fullRing, smallestRing]) {
    const ring = ringOf([...open, ...gone]);
    if (ring <= space) return { resident: chooseResident(open, space - ring)?.resident ?? new Set(), ring };
  }
  return undefined;
}

function refuse(tier: "gpu" | "cpu", needed: number, budget: number, smallest: number): never {
  const mib = Math.ceil(smallest / 2 ** 20);
  throw new BudgetError(
    `does not fit: ${tier} needs at least ${formatBytes(needed)}, the budget is ${formatBytes(budget)}; ` +
      `the smallest budget that works is --${tier} ${mib}MiB (max_memory: { ${tier}: "${mib}MiB" })`,
    { tier, needed, budget, smallest: mib * 2 ** 20 },
  );
}

function finish(
  r: PlanRequest,
  homes: readonly Tier[],
  packed: ReadonlySet<number>,
  sizes: { ring: number; staging: number; unpacking: number; gpu: number; cpu: number },
): Plan {
  const device_map: Record<string, Tier> = {};
  const streamed = { cpu: 0, disk: 0 };
  let disk = 0;
  for (const unit of r.units) {
    const home = homes[unit.index] as Tier;
    device_map[unit.name] = home;
    if (home === "disk") disk += unit.bytes;
    if (unit.rowsOnly || home === "gpu") continue;
    if (home !== computeTier(home, r.compute) || packed.has(unit.index)) streamed[home] += unit.bytes;
  }
  return {
    device_map,
    homes,
    compute: r.compute,
    ring: sizes.ring,
    staging: sizes.staging,
    unpacking: sizes.unpacking,
    packed,
    bytes: { gpu: sizes.gpu, cpu: sizes.cpu, disk },
    streamed,
    fixed: r.fixed,
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
