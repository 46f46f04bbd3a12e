import { describe, expect, test } from "vitest";
import type { TrainingPlanSummary } from "../../train/trainer-face.ts";
import { planReport, trainingPlanLines } from "./train-plan.ts";
import { measureMatmulRate } from "./train-rate.ts";

const GiB = 2 ** 30;

const PLAN: TrainingPlanSummary = {
  ...{ parameters: 1.2e9, trained: 1.2e9, device: "cuda:0", flops_per_step: 8e13 },
  homes: { weights: { gpu: 10, cpu: 0, disk: 25 }, optimizer: "disk", gradients: "cpu", activations: "cpu" },
  update_ahead: true,
  kept_activations: { stages: 0, of: 0, bytes: 0, spared: 0 },
  parts: [
    { tier: "gpu", what: "weights", bytes: 2 * GiB },
    { tier: "gpu", what: "stage inputs", bytes: GiB },
    { tier: "gpu", what: "weights", bytes: GiB },
    { tier: "disk", what: "moments", bytes: 9 * GiB },
    { tier: "disk", what: "gaps", bytes: 0 },
  ],
  bytes: { gpu: 4 * GiB, cpu: 0, disk: 9 * GiB },
  budgets: { gpu: 6 * GiB },
  disk_per_step: { read: 12 * GiB, written: 8 * GiB },
};

describe("the plan of a run", () => {
  test("in words: memory by part, where things live, the disk's share, and the time", () => {
    const report = planReport(
      PLAN,
      { model: "m", steps: 100 },
      { flops_per_second: 2e13, disk_bandwidth: 2 * GiB },
    );
    expect(trainingPlanLines(report)).toEqual([
      "plan                 budget  planned",
      "  gpu               6.0 GiB  4.0 GiB",
      "    weights                  3.0 GiB",
      "    stage inputs             1.0 GiB",
      "  disk            unlimited  9.0 GiB",
      "    moments                  9.0 GiB",
      "",
      "computes on        cuda:0",
      "parameters         1.2 B, of these 1.2 B are trained",
      "weights            10 units on gpu, 25 units on disk",
      "optimizer          disk, updated ahead of the gradient's norm",
      "gradients          cpu",
      "activations        cpu",
      "disk per step      12.0 GiB read, 8.0 GiB written",
      "disk in 100 steps  1.2 TiB read, 800.0 GiB written, beside checkpoints",
      "step               about 10.0 s: 4.0 s to compute at 20.0 TFLOP/s, 10.0 s for the disk at 2.0 GiB/s, at the same time",
      "100 steps          about 16 min 40 s",
    ]);
  });

  test("in numbers: a step takes the longer of computing and the disk", () => {
    const run = { model: "m", steps: 10 };
    const slow = planReport(PLAN, run, { flops_per_second: 1e12, disk_bandwidth: GiB });
    expect(slow.prediction).toEqual({
      ...{ flops_per_second: 1e12, disk_bandwidth: GiB, compute_seconds: 80, disk_seconds: 20 },
      ...{ seconds_per_step: 80, seconds: 800 },
    });
    expect(slow.disk_in_all).toEqual({ read: 120 * GiB, written: 80 * GiB });
  });

  test("without a disk and without an end there is nothing to say of either", () => {
    const resident = { ...PLAN, disk_per_step: { read: 0, written: 0 } };
    const measured = { flops_per_second: 2e13, disk_bandwidth: null };
    const report = planReport(resident, { model: "m", steps: undefined }, measured);
    expect(report).toMatchObject({ steps: null, disk_in_all: null });
    expect(report.prediction.seconds).toBeNull();
    const lines = trainingPlanLines(report);
    expect(lines.at(-2)).toBe("disk per step  nothing");
    expect(lines.at(-1)).toBe("step           about 4.0 s: 4.0 s to compute at 20.0 TFLOP/s");
  });
});

describe("the rate of products of matrices", () => {
  test.each(["f32", "bf16"] as const)("in %s is measured on the device", async (dtype) => {
    const rate = await measureMatmulRate("cpu", { dtype, threads: 1, seconds: 0.01 });
    expect(rate).toBeGreaterThan(1e6);
    expect(rate).toBeLessThan(1e15);
  });

  test("can be interrupted", async () => {
    const options = { dtype: "f32", threads: 1, signal: AbortSignal.abort() } as const;
    await expect(measureMatmulRate("cpu", options)).rejects.toThrow("aborted");
  });
});
