// Learning-rate schedules as pure functions of the step: nothing to save, nothing to restore.
// The formulas are those of transformers' get_scheduler (transformers/optimization.py); only the clamp past the end is ours.

import { ConfigError } from "../../base/errors.ts";
import { shown } from "../../base/shown.ts";

/** After the warm-up: stay, fall along a line to 0, or fall along half a cosine to `min_lr_ratio`. */
export const SCHEDULES = ["constant", "linear", "cosine"] as const;

export type ScheduleName = (typeof SCHEDULES)[number];

export interface ScheduleOptions {
  /** The highest rate: reached when the warm-up ends. */
  readonly learning_rate: number;
  /** Default "constant". */
  readonly lr_scheduler_type?: ScheduleName | undefined;
  /** Optimizer steps in all. Needed by everything but a constant rate whose warm-up is given in steps. */
  readonly max_steps?: number | undefined;
  /** Steps over which the rate climbs from 0 along a line. Default 0. */
  readonly warmup_steps?: number | undefined;
  /** The same as a share of `max_steps`, rounded up. Give one of the two. */
  readonly warmup_ratio?: number | undefined;
  /** Where the cosine ends, as a share of `learning_rate` (transformers' `cosine_with_min_lr`). Default 0. */
  readonly min_lr_ratio?: number | undefined;
}

/** The rate of the update that comes after `step` updates: the first update has step 0. */
export type Schedule = (step: number) => number;

/**
 * With W warm-up steps of T: step / max(1, W) of the rate while step < W; from there on, with
 * progress = (step - W) / max(1, T - W), held at 1 once step passes T:
 * constant 1, linear max(0, (T - step) / max(1, T - W)), cosine m + (1 - m) (1 + cos(pi progress)) / 2 with m `min_lr_ratio`.
 * Throws ConfigError that names the option.
 */
export function learningRateSchedule(options: ScheduleOptions): Schedule {
  const { learning_rate, lr_scheduler_type: type = "constant", max_steps, min_lr_ratio = 0 } = options;
  check("learning_rate", learning_rate, isNumber(learning_rate) && learning_rate >= 0, "0 or more");
  check("lr_scheduler_type", type, SCHEDULES.includes(type), `one of ${SCHEDULES.join(", ")}`);
  check("min_lr_ratio", min_lr_ratio, isShare(min_lr_ratio), "from 0 to 1");
  if (min_lr_ratio > 0 && type !== "cosine") {
    throw new ConfigError(`min_lr_ratio ${min_lr_ratio} belongs to the cosine schedule, not to "${type}"`);
  }
  if (max_steps !== undefined)
    check("max_steps", max_steps, isCount(max_steps) && max_steps > 0, "a whole number above 0");
  else if (type !== "constant") {
    throw new ConfigError(
      `lr_scheduler_type "${type}" ends somewhere: give max_steps, the number of optimizer steps`,
    );
  }
  const warmup = warmupSteps(options);
  const decaySteps = (max_steps ?? warmup) - warmup;
  const shape = SHAPES[type];
  return (step) => {
    if (!isCount(step))
      throw new ConfigError(`step is ${shown(step)}, expected the number of updates made so far`);
    if (step < warmup) return learning_rate * (step / Math.max(1, warmup));
    return learning_rate * shape(step - warmup, decaySteps, min_lr_ratio);
  };
}

/** Share of the highest rate `at` steps past the warm-up, of which there are `steps`. */
const SHAPES: Readonly<Record<ScheduleName, (at: number, steps: number, floor: number) => number>> = {
  constant: () => 1,
  linear: (at, steps) => Math.max(0, (steps - at) / Math.max(1, steps)),
  cosine: (at, steps, floor) => {
    const progress = Math.min(1, at / Math.max(1, steps));
    return floor + (1 - floor) * 0.5 * (1 + Math.cos(Math.PI * progress));
  },
};

export function warmupSteps({
  warmup_steps = 0,
  warmup_ratio = 0,
  max_steps,
}: Partial<ScheduleOptions>): number {
  check("warmup_steps", warmup_steps, isCount(warmup_steps), "a whole number, 0 or more");
  check("warmup_ratio", warmup_ratio, isShare(warmup_ratio), "from 0 to 1");
  if (warmup_ratio === 0) return warmup_steps;
  if (warmup_steps > 0) {
    throw new ConfigError(
      `warmup_steps ${warmup_steps} and warmup_ratio ${warmup_ratio} say the same thing twice: give one of them`,
    );
  }
  if (max_steps === undefined)
    throw new ConfigError(`warmup_ratio ${warmup_ratio} is a share of max_steps: give max_steps`);
  return Math.ceil(max_steps * warmup_ratio);
}

function isNumber(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

function isShare(value: unknown): boolean {
  return isNumber(value) && value >= 0 && value <= 1;
}

function isCount(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}

function check(name: string, value: unknown, fine: boolean, expected: string): void {
  if (!fine) throw new ConfigError(`${name} is ${shown(value)}, expected ${expected}`);
}
