// spillway train --plan: where training would live and what it would cost in memory, disk and time, without a step of it.
import { formatBytes, formatCount, formatDuration, formatRate } from "../../memory/sizes.ts";
import { TIERS, type Tier } from "../../memory/tiers.ts";
import { tableLines } from "../../report/table.ts";
import type { TrainingPlanSummary } from "../../train/trainer-face.ts";

/** What was measured for a prediction. */
export interface Measured {
  /** Floating-point operations per second in products of matrices. */
  readonly flops_per_second: number;
  /** Bytes per second; null where a step does not touch the disk. */
  readonly disk_bandwidth: number | null;
}

/** Seconds. */
export interface StepPrediction extends Measured {
  readonly compute_seconds: number;
  /** Written bytes are taken to go as fast as read ones. */
  readonly disk_seconds: number;
  /** The longer of the two: reading and writing go on while it computes. */
  readonly seconds_per_step: number;
  readonly seconds: number | null;
}

/** What `train --plan --json` prints. */
export interface TrainPlanReport extends TrainingPlanSummary {
  readonly model: string;
  /** Of the whole run; null where neither data nor max_steps say. */
  readonly steps: number | null;
  readonly disk_in_all: { readonly read: number; readonly written: number } | null;
  readonly prediction: StepPrediction;
}

export function planReport(
  plan: TrainingPlanSummary,
  run: { readonly model: string; readonly steps: number | undefined },
  measured: Measured,
): TrainPlanReport {
  const { read, written } = plan.disk_per_step;
  const steps = run.steps ?? null;
  const compute_seconds = plan.flops_per_step / measured.flops_per_second;
  const disk_seconds = measured.disk_bandwidth === null ? 0 : (read + written) / measured.disk_bandwidth;
  const seconds_per_step = Math.max(compute_seconds, disk_seconds);
  return {
    model: run.model,
    ...plan,
    steps,
    disk_in_all: steps === null ? null : { read: read * steps, written: written * steps },
    prediction: {
      ...{ ...measured, compute_seconds, disk_seconds, seconds_per_step },
      seconds: steps === null ? null : seconds_per_step * steps,
    },
  };
}

export function trainingPlanLines(r: TrainPlanReport): string[] {
  const memory: string[][] = [["plan", "budget", "planned"]];
  for (const tier of TIERS) {
    const budget = r.budgets[tier];
    if (r.bytes[tier] === 0 && budget === undefined) continue;
    memory.push([`  ${tier}`, formatBytes(budget ?? Number.POSITIVE_INFINITY), formatBytes(r.bytes[tier])]);
    for (const [what, bytes] of partsOn(r, tier)) memory.push([`    ${what}`, "", formatBytes(bytes)]);
  }
  return [...tableLines(memory), "", ...tableLines(facts(r), ["left", "left"])];
}

/** Parts of one name together, the largest first. */
function partsOn({ parts }: TrainPlanReport, tier: Tier): [string, number][] {
  const byName = new Map<string, number>();
  for (const part of parts) {
    if (part.tier === tier) byName.set(part.what, (byName.get(part.what) ?? 0) + part.bytes);
  }
  return [...byName].filter(([, bytes]) => bytes > 0).sort(([, a], [, b]) => b - a);
}

/** Where things live and how a run is set up, a name and a value each. */
export function homesOf(plan: TrainingPlanSummary): [string, string][] {
  const { homes, device, parameters, trained } = plan;
  const ahead = plan.update_ahead ? ", updated ahead of the gradient's norm" : "";
  const units = TIERS.filter((tier) => homes.weights[tier] > 0);
  return [
    ["computes on", device],
    ["parameters", `${formatCount(parameters)}, of these ${formatCount(trained)} are trained`],
    ["weights", units.map((tier) => `${homes.weights[tier]} units on ${tier}`).join(", ")],
    ["optimizer", `${homes.optimizer}${ahead}`],
    ["gradients", homes.gradients],
    ["activations", homes.activations],
    ...keptLine(plan),
  ];
}

function keptLine({ kept_activations: kept }: TrainingPlanSummary): [string, string][] {
  if (kept.of === 0) return [];
  if (kept.stages === 0) return [["recomputed", `all of ${kept.of} stages, in backward`]];
  const share = `${Math.round(100 * kept.spared)} % of what backward would compute again`;
  return [["kept", `${kept.stages} of ${kept.of} stages in ${formatBytes(kept.bytes)}, sparing ${share}`]];
}

function facts(r: TrainPlanReport): [string, string][] {
  const { prediction: p, disk_per_step: disk } = r;
  const moved = (some: { read: number; written: number }) =>
    some.read + some.written === 0
      ? "nothing"
      : `${formatBytes(some.read)} read, ${formatBytes(some.written)} written`;
  const times = [`${formatDuration(p.compute_seconds)} to compute at ${formatFlops(p.flops_per_second)}`];
  if (p.disk_bandwidth !== null) {
    times.push(`${formatDuration(p.disk_seconds)} for the disk at ${formatRate(p.disk_bandwidth)}`);
  }
  const rows: [string, string][] = [...homesOf(r), ["disk per step", moved(disk)]];
  if (r.disk_in_all && r.steps !== null) {
    rows.push([`disk in ${r.steps} steps`, `${moved(r.disk_in_all)}, beside checkpoints`]);
  }
  const together = times.length > 1 ? ", at the same time" : "";
  rows.push(["step", `about ${formatDuration(p.seconds_per_step)}: ${times.join(", ")}${together}`]);
  if (p.seconds !== null) rows.push([`${r.steps} steps`, `about ${formatDuration(p.seconds)}`]);
  return rows;
}

/** "85.2 GFLOP/s" */
function formatFlops(perSecond: number): string {
  return perSecond >= 1e12
    ? `${(perSecond / 1e12).toFixed(1)} TFLOP/s`
    : `${(perSecond / 1e9).toFixed(1)} GFLOP/s`;
}
