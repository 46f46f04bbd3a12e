// Makes the plan: on one device, or on a GPU and the CPU beside it. Pure arithmetic: no device is touched.
import { ConfigError } from "../base/errors.ts";
import type { Tier } from "../memory/tiers.ts";
import { planHybrid } from "./hybrid.ts";
import { residentBytes, stageRing, unitRing } from "./placement.ts";
import { byWish, finish, type Plan, type PlanRequest, place, roomyRule } from "./plan.ts";

/** Places every unit. Throws BudgetError with the smallest budget that works. */
export function makePlan(r: PlanRequest): Plan {
  if (r.hybrid) return planHybrid(r, r.hybrid);
  const lasting = r.fixed.vectors + (r.fixed.adapter ?? 0);
  const training = r.fixed.training?.[r.compute] ?? 0;
  const { kv, activations, scratch, products = 0 } = r.fixed;
  const onDevice = kv + activations + scratch + lasting + training + products;
  return r.compute === "gpu" ? planGpu(r, onDevice) : planCpu(r, onDevice, lasting);
}

/** `lasting`: the part of `onDevice` that is there from loading on. */
function planCpu(r: PlanRequest, onDevice: number, lasting: number): Plan {
  const { sizes, wanted, fixed, units } = r;
  const kept = byWish(sizes.cpu, wanted);
  const gpuUnit = kept.gpu.map((u) => units[u.index]).find((u) => (u?.bytes ?? 0) > 0);
  if (gpuUnit) {
    throw new ConfigError(
      `device_map puts ${gpuUnit.name} on gpu, but the model runs on the CPU; use device: "auto"`,
    );
  }
  const { disk: gone, open } = kept;
  // While loading, staging is there and what the passes need is not yet.
  const passes = onDevice + fixed.rows + (fixed.logits ?? 0);
  const beside = Math.max(passes, lasting + fixed.staging);
  const base = beside + kept.cpu.reduce((sum, u) => sum + u.resident, 0);
  const budget = r.budgets.cpu ?? Number.POSITIVE_INFINITY;
  const space = budget - base;
  const rule = r.wholeStages ? stageRing : roomyRule([...open, ...gone], space);
  const chosen = place(open, gone, space, { tier: "cpu", base, budget }, rule);
  const { resident, ring, packed, unpacking } = chosen;
  for (const u of kept.cpu) resident.add(u.index);
  const homes = sizes.cpu.map((u): Tier => (resident.has(u.index) ? "cpu" : "disk"));
  const inPlace = sizes.cpu.map((u) =>
    packed.has(u.index) ? { ...u, resident: u.packed ?? u.resident } : u,
  );
  const weights = residentBytes(inPlace, resident);
  const cpu = weights + Math.max(passes + ring + unpacking, lasting + fixed.staging);
  return finish(r, homes, packed, {
    ring,
    wholeStages: rule === stageRing,
    staging: 0,
    unpacking,
    gpu: 0,
    cpu,
  });
}

function planGpu(r: PlanRequest, onDevice: number): Plan {
  const { sizes, wanted, fixed } = r;
  const gpuBudget = r.budgets.gpu ?? Number.POSITIVE_INFINITY;
  const cpuBudget = r.budgets.cpu ?? Number.POSITIVE_INFINITY;
  const { gpu: keptOnGpu, open, ...elsewhere } = byWish(sizes.gpu, wanted);
  const away = [...elsewhere.cpu, ...elsewhere.disk].sort((a, b) => a.index - b.index);
  const gpuBase = onDevice + keptOnGpu.reduce((sum, u) => sum + u.resident, 0);
  const device = place(
    open,
    away,
    gpuBudget - gpuBase,
    { tier: "gpu", base: gpuBase, budget: gpuBudget },
    stageRing,
  );
  for (const u of keptOnGpu) device.resident.add(u.index);

  const rest = sizes.cpu.filter((u) => !device.resident.has(u.index));
  const { cpu: keptInRam, disk: gone, open: left } = byWish(rest, wanted);
  const beside = fixed.rows + (fixed.logits ?? 0) + (fixed.training?.cpu ?? 0);
  const cpuBase = Math.max(beside, fixed.staging) + keptInRam.reduce((sum, u) => sum + u.resident, 0);
  const host = place(
    left,
    gone,
    cpuBudget - cpuBase,
    { tier: "cpu", base: cpuBase, budget: cpuBudget },
    unitRing,
  );
  for (const u of keptInRam) host.resident.add(u.index);
  const homes = sizes.gpu.map(
    (u): Tier => (device.resident.has(u.index) ? "gpu" : host.resident.has(u.index) ? "cpu" : "disk"),
  );
  const gpu = onDevice + residentBytes(sizes.gpu, device.resident) + device.ring;
  const weights = residentBytes(sizes.cpu, host.resident);
  const cpu = weights + Math.max(beside + host.ring, fixed.staging);
  const rings = { ring: device.ring, wholeStages: true, staging: host.ring, unpacking: 0 };
  return finish(r, homes, new Set(), { ...rings, gpu, cpu });
}
