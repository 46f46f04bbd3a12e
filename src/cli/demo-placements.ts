// Which placements the demo shows: everything resident, then budgets small enough that every tier has to hold weights.
// Found by planning, so that it works for any checkpoint.

import { isGpu, listDevices } from "../backend/ggml/device.ts";
import { BudgetError, UnsupportedError } from "../base/errors.ts";
import type { Tier } from "../memory/tiers.ts";
import type { Plan } from "../plan/plan.ts";
import { type EngineOptions, prepare } from "../runtime/open/prepare.ts";
import { closeDevices } from "../runtime/open/prepared.ts";

export interface Placement {
  readonly title: string;
  readonly device: string;
  /** Bytes. */
  readonly max_memory: Readonly<Partial<Record<Tier, number>>>;
  readonly context_length: number;
}

/** Where between the smallest budget that works and everything a squeezed tier is put. */
const SQUEEZE = 0.4;

/** Placements for sequences of `tokens` tokens: on the CPU, and on the first GPU if there is one. */
export async function demoPlacements(dir: string, tokens: number, threads?: number): Promise<Placement[]> {
  const common = { context_length: tokens, ...(threads !== undefined && { threads }) };
  const placements: Placement[] = [
    { title: "all in RAM", device: "cpu", max_memory: {}, context_length: tokens },
    {
      title: "RAM and disk",
      device: "cpu",
      max_memory: { cpu: await squeezed(dir, { ...common, device: "cpu" }, "cpu") },
      context_length: tokens,
    },
  ];
  const gpu = listDevices().find(isGpu)?.name;
  if (gpu === undefined) return placements;
  const options = { ...common, device: gpu };
  const onGpu = await squeezed(dir, options, "gpu");
  const inRam = await squeezed(dir, { ...options, max_memory: { gpu: onGpu } }, "cpu");
  return [
    ...placements,
    { title: "all on GPU", device: gpu, max_memory: {}, context_length: tokens },
    {
      title: "GPU, RAM and disk",
      device: gpu,
      max_memory: { gpu: onGpu, cpu: inRam },
      context_length: tokens,
    },
  ];
}

/** A budget on one tier under which part of what it would hold has to go elsewhere. */
async function squeezed(dir: string, options: EngineOptions, tier: "gpu" | "cpu"): Promise<number> {
  const free = { gpu: Number.MAX_SAFE_INTEGER, cpu: Number.MAX_SAFE_INTEGER, ...options.max_memory };
  const everything = (
    await plan(dir, { ...options, max_memory: { ...free, [tier]: Number.MAX_SAFE_INTEGER } })
  ).bytes[tier];
  const least = await smallest(dir, tier, { ...options, max_memory: { ...free, [tier]: 0 } });
  if (least >= everything) {
    throw new UnsupportedError(
      `${dir}: too small to split: one of its units at a time takes as much ${tier} memory as all of them`,
    );
  }
  return Math.floor(least + (everything - least) * SQUEEZE);
}

async function plan(dir: string, options: EngineOptions): Promise<Plan> {
  const prepared = await prepare(dir, options);
  await closeDevices(prepared);
  return prepared.plan;
}

/** What a tier without budget is refused for: the bytes it needs at least. */
async function smallest(dir: string, tier: Tier, options: EngineOptions): Promise<number> {
  try {
    return (await plan(dir, options)).bytes[tier];
  } catch (error) {
    if (error instanceof BudgetError) return error.needed;
    throw error;
  }
}
