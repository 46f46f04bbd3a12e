// The clock of training: steps one after the other, each with its time and its bytes.

import { expect } from "vitest";
import { needsLinux, testUnless } from "../../src/base/testing-unproven.ts";
import { timedSteps } from "./training-runner.mjs";

/** An engine that remembers its batches. */
function recorder() {
  /** @type {number[]} */
  const seen = [];
  /** @param {number[][]} batch */
  const step = async ([[id = -1] = []]) => {
    seen.push(id);
    const stalled = { disk: 0, copy: 0, optimizer: 0 };
    return { loss: id, grad_norm: 1, read_bytes: 7, written_bytes: 9, stalled };
  };
  return { seen, step };
}

const batches = [[[0]], [[1]], [[2]]];

testUnless(needsLinux("/proc"))("the warm-up is in the losses, not in the measured steps", async () => {
  const run = await timedSteps(recorder(), batches, { steps: 2, warmupSteps: 1 });
  expect(run.losses).toEqual([0, 1, 2]);
  expect(run.steps.map(({ loss }) => loss)).toEqual([1, 2]);
  expect(run.steps[0]).toMatchObject({ read_bytes: 7, written_bytes: 9 });
  for (const { seconds, kernel_read_bytes } of run.steps) {
    expect(seconds).toBeGreaterThanOrEqual(0);
    expect(kernel_read_bytes).toBeGreaterThanOrEqual(0);
  }
});

testUnless(needsLinux("/proc"))(
  "a run that goes on takes the batches where the one before left off",
  async () => {
    const engine = recorder();
    await timedSteps(engine, batches, { steps: 3, warmupSteps: 0, done: 5 });
    expect(engine.seen).toEqual([2, 0, 1]);
    await expect(timedSteps(engine, [], { steps: 1, warmupSteps: 0 })).rejects.toThrow(/no batches/);
  },
);
