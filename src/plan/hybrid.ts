// Divides the stages between a GPU and the CPU beside it: as many as fit are computed on the GPU, from the end of the model,
// the others where their weights are, in RAM or as they come from disk. Pure arithmetic.
import { ConfigError } from "../base/errors.ts";
import type { Tier } from "../memory/tiers.ts";
import { type RingRule, residentBytes, stageRing, type UnitSize, unitRing } from "./placement.ts";
import {
  byWish,
  type Chosen,
  finish,
  HOST,
  type HybridRequest,
  MAIN,
  type Plan,
  type PlanRequest,
  place,
  roomyRule,
  type Site,
} from "./plan.ts";
import { byStage, type StageUnits } from "./units.ts";

/** Throws BudgetError with the smallest budget that works, ConfigError where map and device contradict each other. */
export function planHybrid(r: PlanRequest, h: HybridRequest): Plan {
  const stages = byStage(r.units);
  const computeOf = stages.map((stage) => sideOf(r, h, stage));
  const { sizes, wanted, fixed } = r;
  const gpuBudget = r.budgets.gpu ?? Number.POSITIVE_INFINITY;
  const cpuBudget = r.budgets.cpu ?? Number.POSITIVE_INFINITY;
  const unitsOf = (site: Site) =>
    new Set(stages.flatMap(({ units }, i) => (computeOf[i] === site ? units.map((u) => u.index) : [])));

  // What has to be on the GPU, or to pass through it.
  const base = fixed.scratch + fixed.activations;
  const held = (i: number) => h.kvOf(i) + h.lastingOf(i);
  const forced = unitsOf(MAIN);
  const own = sizes.gpu.filter((u) => forced.has(u.index));
  const { gpu: kept, open: movable, ...elsewhere } = byWish(own, wanted);
  const needed = computeOf.reduce<number>((sum, site, i) => sum + (site === MAIN ? held(i) : 0), 0);
  const gpuBase = (own.length > 0 ? base : 0) + needed + kept.reduce((sum, u) => sum + u.resident, 0);
  const device: Chosen = place(
    movable,
    [...elsewhere.cpu, ...elsewhere.disk].sort((a, b) => a.index - b.index),
    gpuBudget - gpuBase,
    { tier: "gpu", base: gpuBase, budget: gpuBudget },
    stageRing,
  );
  for (const u of kept) device.resident.add(u.index);
  let gpu =
    gpuBase + device.ring + residentBytes(sizes.gpu, device.resident) - residentBytes(kept, device.resident);

  // Then as many of the others as fit, whole and without a ring.
  for (const { index, units } of [...stages].reverse()) {
    if (computeOf[index] !== undefined || units.some((u) => wanted[u.index] !== undefined)) continue;
    const bytes = units.reduce((sum, u) => sum + (sizes.gpu[u.index]?.resident ?? 0), 0) + held(index);
    const first = gpu === 0 ? base : 0;
    if (gpu + first + bytes > gpuBudget) continue;
    gpu += first + bytes;
    computeOf[index] = MAIN;
    for (const u of units) device.resident.add(u.index);
  }
  const sites = computeOf.map((site): Site => site ?? HOST);
  // Rows are looked up where the first stage that computes with them is.
  const looksUp = h.computeOf[0] === undefined && stages[0]?.units.every((u) => u.rowsOnly);
  if (looksUp && sites[0] === HOST && sites[1] === MAIN && gpu + held(0) <= gpuBudget) {
    sites[0] = MAIN;
    gpu += held(0);
  }

  const onHost = new Set(
    stages.flatMap(({ units }, i) => (sites[i] === HOST ? units.map((u) => u.index) : [])),
  );
  const rest = sizes.cpu
    .map((u) => (onHost.has(u.index) ? (h.sizes[u.index] as UnitSize) : u))
    .filter((u) => !device.resident.has(u.index));
  const total = (of: (stage: number) => number) =>
    sites.reduce<number>((sum, site, i) => sum + (site === HOST ? of(i) : 0), 0);
  const computes = sites.includes(HOST);
  const share = {
    kv: total(h.kvOf),
    lasting: total(h.lastingOf),
    activations: computes ? h.host.activations : 0,
    scratch: computes ? h.host.scratch : 0,
    products: computes ? h.host.products : 0,
  };
  const passes =
    fixed.rows +
    (fixed.logits ?? 0) +
    share.kv +
    share.lasting +
    share.activations +
    share.scratch +
    share.products;
  const beside = Math.max(passes, share.lasting + fixed.staging);
  const { cpu: keptInRam, disk: gone, open } = byWish(rest, wanted);
  const cpuBase = beside + keptInRam.reduce((sum, u) => sum + u.resident, 0);
  const space = cpuBudget - cpuBase;
  const streaming = [...open, ...gone];
  const hostRule =
    r.wholeStages === true
      ? stageRing
      : roomyRule(
          streaming.filter((u) => onHost.has(u.index)),
          space,
        );
  const rule = twoRings((u) => onHost.has(u.index), hostRule);
  const chosen = place(open, gone, space, { tier: "cpu", base: cpuBase, budget: cpuBudget }, rule);
  for (const u of keptInRam) chosen.resident.add(u.index);

  const homes = sizes.gpu.map(
    (u): Tier => (device.resident.has(u.index) ? "gpu" : chosen.resident.has(u.index) ? "cpu" : "disk"),
  );
  const away = rest.filter((u) => !chosen.resident.has(u.index));
  const passing = away.filter((u) => !onHost.has(u.index));
  const direct = away.filter((u) => onHost.has(u.index));
  const full = unitRing.full(passing) + hostRule.full(direct) <= chosen.ring;
  const staging = full ? unitRing.full(passing) : unitRing.smallest(passing);
  const ring = full ? hostRule.full(direct) : hostRule.smallest(direct);
  const cpu =
    residentBytes(rest, chosen.resident) + Math.max(passes + staging + ring, share.lasting + fixed.staging);
  const kv = sites.reduce<number>((sum, site, i) => sum + (site === MAIN ? h.kvOf(i) : 0), 0);
  return finish(
    { ...r, fixed: { ...fixed, kv } },
    homes,
    new Set(),
    { ring: device.ring, wholeStages: true, staging, unpacking: 0, gpu, cpu },
    { computeOf: sites, host: { ...share, ring, wholeStages: hostRule === stageRing } },
  );
}

/** Where a stage is computed as far as the map of devices or of weights says. */
function sideOf(r: PlanRequest, h: HybridRequest, { index, stage, units }: StageUnits): Site | undefined {
  const said = h.computeOf[index];
  const homes = units.filter((u) => u.bytes > 0).map((u) => r.wanted[u.index]);
  if (said === HOST && homes.includes("gpu"))
    throw new ConfigError(
      `device_map puts ${stage.name} on gpu, but compute has it computed by the CPU: leave one of the two out`,
    );
  if (said !== undefined) return said;
  if (homes.includes("gpu")) return MAIN;
  return homes.some((home) => home !== undefined) ? HOST : undefined;
}

/** The ring the CPU computes from, and beside it the one that weights pass through on their way to a GPU. */
function twoRings(onHost: (u: UnitSize) => boolean, hostRule: RingRule): RingRule {
  const sum = (of: "smallest" | "full") => (units: readonly UnitSize[]) =>
    hostRule[of](units.filter(onHost)) + unitRing[of](units.filter((u) => !onHost(u)));
  return { smallest: sum("smallest"), full: sum("full") };
}
