import { describe, expect, test } from "vitest";
import { ConfigError } from "../../base/errors.ts";
import { learningRateSchedule, type ScheduleOptions } from "./schedule.ts";

/** The rate before each of `steps` updates. */
function rates(options: ScheduleOptions, ...steps: number[]): number[] {
  return steps.map(learningRateSchedule(options));
}

const near = (values: number[]) => values.map((value) => expect.closeTo(value, 12));

describe("learningRateSchedule", () => {
  test("a constant rate needs no end and has no warm-up by default", () => {
    expect(rates({ learning_rate: 3 }, 0, 1, 1_000_000)).toEqual([3, 3, 3]);
  });

  test("the warm-up climbs from 0 and reaches the rate at step W", () => {
    const options = { learning_rate: 2, warmup_steps: 4 };
    expect(rates(options, 0, 1, 2, 3, 4, 5)).toEqual([0, 0.5, 1, 1.5, 2, 2]);
  });

  test("a warm-up ratio is a share of the steps, rounded up", () => {
    const options = { learning_rate: 1, max_steps: 25, warmup_ratio: 0.1 }; // 2.5 -> 3
    expect(rates(options, 0, 1, 2, 3)).toEqual(near([0, 1 / 3, 2 / 3, 1]));
  });

  test("linear falls to 0 at the last step and stays there", () => {
    const options: ScheduleOptions = {
      learning_rate: 1,
      lr_scheduler_type: "linear",
      max_steps: 10,
      warmup_steps: 2,
    };
    expect(rates(options, 0, 1, 2, 4, 6, 9, 10, 12)).toEqual(near([0, 0.5, 1, 0.75, 0.5, 0.125, 0, 0]));
  });

  test("cosine is at half the rate half-way and at 0 at the end, and does not climb again", () => {
    const options: ScheduleOptions = { learning_rate: 1, lr_scheduler_type: "cosine", max_steps: 12 };
    // cos(30 degrees) = sqrt(3)/2 at step 2, cos(60 degrees) = 1/2 at step 4
    const values = [1, 0.5 + Math.sqrt(3) / 4, 0.75, 0.5, 0.25, 0, 0];
    expect(rates(options, 0, 2, 4, 6, 8, 12, 24)).toEqual(near(values));
  });

  test("cosine with a floor: m + (1 - m) of the plain cosine", () => {
    const options: ScheduleOptions = {
      learning_rate: 10,
      lr_scheduler_type: "cosine",
      max_steps: 14,
      warmup_steps: 2,
      min_lr_ratio: 0.1,
    };
    expect(rates(options, 1, 2, 6, 8, 14, 99)).toEqual(near([5, 10, 0.1 * 10 + 0.9 * 7.5, 5.5, 1, 1]));
  });

  test("a warm-up as long as the training leaves nothing to fall along", () => {
    const options: ScheduleOptions = {
      learning_rate: 1,
      lr_scheduler_type: "linear",
      max_steps: 4,
      warmup_steps: 4,
    };
    expect(rates(options, 3, 4, 5)).toEqual([0.75, 0, 0]);
  });

  test.each<[string, ScheduleOptions, RegExp]>([
    ["no end", { learning_rate: 1, lr_scheduler_type: "cosine" }, /give max_steps/],
    [
      "an unknown name",
      { learning_rate: 1, lr_scheduler_type: "cosin" as "cosine" },
      /"cosin".*constant, linear, cosine/,
    ],
    ["a negative rate", { learning_rate: -1 }, /learning_rate is -1/],
    ["not a number", { learning_rate: Number.NaN }, /learning_rate/],
    ["both warm-ups", { learning_rate: 1, max_steps: 9, warmup_steps: 1, warmup_ratio: 0.5 }, /twice/],
    ["a ratio of nothing", { learning_rate: 1, warmup_ratio: 0.5 }, /max_steps/],
    ["a ratio above 1", { learning_rate: 1, max_steps: 9, warmup_ratio: 5 }, /warmup_ratio is 5/],
    ["half a step", { learning_rate: 1, warmup_steps: 0.5 }, /warmup_steps is 0.5/],
    ["a floor without a cosine", { learning_rate: 1, min_lr_ratio: 0.1 }, /cosine/],
    ["no steps", { learning_rate: 1, max_steps: 0 }, /max_steps is 0/],
  ])("refuses %s", (_what, options, message) => {
    expect(() => learningRateSchedule(options)).toThrow(ConfigError);
    expect(() => learningRateSchedule(options)).toThrow(message);
  });

  test("refuses a step that is no count of updates", () => {
    const rate = learningRateSchedule({ learning_rate: 1 });
    for (const step of [-1, 0.5, Number.NaN]) expect(() => rate(step)).toThrow(ConfigError);
  });
});
