// States on disk updated ahead, before the norm of the gradient is known: whether it is then kept, made again with a clipped
// gradient, or taken back, training comes to what it comes to without, bit for bit.

import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { listDevices } from "../src/backend/ggml/device.ts";
import { AbortError, IoError } from "../src/base/errors.ts";
import { testUnless, whyNoGpu } from "../src/base/testing-unproven.ts";
import { systemError } from "../src/memory/testing.ts";
import type { Tier } from "../src/memory/tiers.ts";
import type { EngineOptions } from "../src/runtime/open/prepare.ts";
import type { OffloadOptions, TrainerOptions } from "../src/train/open/options.ts";
import { DRAFTS } from "../src/train/optimizer/draft.ts";
import type { TrainingBatch } from "../src/train/step/batch.ts";
import type { Trainer } from "../src/train/trainer.ts";
import { checkpoint } from "./support/checkpoints.ts";
import { OddDisk } from "./support/odd-disk.ts";
import { expectSameRun, halfOnDisk, labelled, type Trained, train, withTrainer } from "./support/training.ts";

const LAYERS = 2;
/** A tied head, tables of tokens and positions, transposed weights. */
const GPT2 = {
  family: "gpt2",
  dtype: "f32",
  shape: { n_embd: 32, vocab_size: 272, n_layer: LAYERS, n_positions: 64 },
} as const;

const ids = (seed: number) => Array.from({ length: 12 }, (_, i) => (seed * 31 + i * 7) % 257);
const STEPS: TrainingBatch[][] = Array.from({ length: 10 }, (_, step) => [
  labelled([ids(step % 5)]),
  labelled([ids((step % 3) + 9)]),
]);

const RAM = { optimizer: "cpu", gradients: "cpu", activations: "cpu", weights: "cpu" } as const;
const ALL = { optimizer: "disk", gradients: "disk", activations: "disk", weights: "disk" } as const;
const PLACES: [string, OffloadOptions][] = [
  ["states on disk", { ...RAM, optimizer: "disk" }],
  ["states and gradients on disk", { ...RAM, optimizer: "disk", gradients: "disk" }],
  ["half of the weights on disk too", { ...ALL, weights: halfOnDisk("transformer.h", LAYERS) }],
  ["everything on disk", ALL],
];

const COMMON: TrainerOptions = { learning_rate: 1e-2, max_length: 12, weight_decay: 0.01 };

const model = () => checkpoint(GPT2);

/** Bytes that a trainer has set aside to update ahead. */
function draftBytes(trainer: Trainer, on: Tier): number {
  const parts = trainer.plan().parts.filter(({ tier, what }) => tier === on && what === DRAFTS);
  return parts.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** A limit that some steps reach, and others do not, right after one another. */
async function limitInBetween(trainer: TrainerOptions): Promise<{ limit: number; clipped: boolean[] }> {
  const { gradNorms } = await train(await model(), {
    trainer: { ...trainer, offload: RAM, max_grad_norm: 0 },
    steps: STEPS,
  });
  const limit = [...gradNorms].sort((a, b) => a - b)[Math.floor(gradNorms.length / 2)] as number;
  return { limit, clipped: gradNorms.map((norm) => norm > limit) };
}

describe.each(["float32", "bfloat16"] as const)("%s", (precision) => {
  const limits: [string, (trainer: TrainerOptions) => Promise<number>][] = [
    ["never clipped", async () => 1e9],
    ["always clipped", async () => 1e-3],
    ["clipped now and then", async (trainer) => (await limitInBetween(trainer)).limit],
  ];

  describe.each(limits)("%s", (_what, limitOf) => {
    test("the same wherever states are, ahead or not", async () => {
      const common = { ...COMMON, precision };
      const options = { ...common, max_grad_norm: await limitOf(common) };
      const run = async (offload: OffloadOptions, update_ahead: boolean): Promise<Trained> =>
        train(await model(), { trainer: { ...options, offload, update_ahead }, steps: STEPS });
      const reference = await run(RAM, true);
      for (const [where, offload] of PLACES) expectSameRun(await run(offload, true), reference, where);
      expectSameRun(await run(ALL, false), reference, "not ahead");
    });
  });
});

const gpu = listDevices().find((device) => device.kind === "gpu");

testUnless(whyNoGpu(gpu))("on a GPU too, weights there or on disk", { timeout: 240_000 }, async () => {
  const options = { ...COMMON, max_grad_norm: (await limitInBetween(COMMON)).limit };
  const device: EngineOptions = { device: gpu?.name ?? "gpu" };
  const run = async (offload: OffloadOptions, precision: "float32" | "bfloat16", update_ahead: boolean) =>
    train(await model(), {
      model: device,
      trainer: { ...options, offload: { ...RAM, ...offload }, precision, update_ahead },
      steps: STEPS.slice(0, 3),
    });
  for (const precision of ["float32", "bfloat16"] as const) {
    const reference = await run({ weights: "gpu" }, precision, false);
    for (const weights of ["gpu", "disk"] as const) {
      expectSameRun(await run({ optimizer: "disk", weights }, precision, true), reference, weights);
    }
  }
});

test("a limit in between is reached by some steps only", async () => {
  const { clipped } = await limitInBetween(COMMON);
  expect(clipped).toContain(true);
  expect(clipped).toContain(false);
});

describe("when it is done", () => {
  const DEEP = { ...GPT2, shape: { ...GPT2.shape, n_layer: 12 } } as const;

  /** Writes of states that began before each step resolved. Weights come slowly, so that there is time for some. */
  async function writesWithin(options: TrainerOptions, steps: number): Promise<number[]> {
    const disk = new OddDisk();
    const offload = { ...RAM, optimizer: "disk", weights: "disk" } as const;
    const trainer = { ...COMMON, offload, ...options, ...disk.options.trainer };
    return withTrainer(await checkpoint(DEEP), { model: disk.options.model, trainer }, async (trained) => {
      const counts: number[] = [];
      for (let i = 0; i < steps; i++) {
        await trained.evaluate(STEPS[0] as TrainingBatch[]); // the updates of the step before are over
        let writes = 0;
        disk.answer = async ({ kind }) => {
          if (kind === "stream") await sleep(5);
          if (kind === "write") writes++;
        };
        await trained.step(STEPS[i] as TrainingBatch[]);
        counts.push(writes);
        disk.heal();
      }
      return counts;
    });
  }

  test("in every step that is not clipped", async () => {
    for (const count of await writesWithin({ max_grad_norm: 1e9 }, 3)) expect(count).toBeGreaterThan(0);
  });

  test("not in the step after one that was clipped", async () => {
    const [first, ...others] = await writesWithin({ max_grad_norm: 1e-3 }, 3);
    expect(first).toBeGreaterThan(0);
    expect(others).toEqual([0, 0]);
  });

  test("never where it is turned off", async () => {
    expect(await writesWithin({ max_grad_norm: 1e9, update_ahead: false }, 2)).toEqual([0, 0]);
  });
});

describe("what it takes", () => {
  test("as much disk as the states, and RAM for weights that are there; nothing without states on disk", async () => {
    const taken = async (offload: OffloadOptions, precision: "float32" | "bfloat16" = "float32") =>
      withTrainer(await model(), { trainer: { ...COMMON, offload, precision } }, async (trainer) => {
        const { update_ahead, bytes, trained } = trainer.plan();
        const [cpu, disk] = [draftBytes(trainer, "cpu"), draftBytes(trainer, "disk")];
        expect(update_ahead).toBe(disk > 0);
        return { perParameter: cpu / trained, share: disk / bytes.disk };
      });
    const states = { ...RAM, optimizer: "disk" } as const;
    expect(await taken(states)).toEqual({ perParameter: 4, share: 0.5 });
    expect(await taken(states, "bfloat16")).toEqual({ perParameter: expect.closeTo(0, 0), share: 0.5 });
    expect((await taken({ ...states, weights: "disk" })).perParameter).toBeLessThan(0.1);
    expect(await taken({ ...ALL, optimizer: "cpu" })).toEqual({ perParameter: 0, share: 0 });
  });

  test("without room on disk training goes on without it, and leaves nothing", async () => {
    const disk = new OddDisk();
    const trainer = { ...COMMON, offload: ALL, max_grad_norm: 1e9, ...disk.options.trainer };
    const needed = await withTrainer(
      await model(),
      { trainer },
      async (trainer) => trainer.plan().bytes.disk,
    );
    const reference = await train(await model(), {
      trainer: { ...trainer, update_ahead: false },
      steps: STEPS,
    });
    // The disk takes what training needs, and half of what would be set aside.
    let left = 0.7 * needed;
    disk.answer = (call) => {
      if (call.kind !== "write") return;
      left -= call.length;
      if (left < 0) throw systemError("ENOSPC");
    };
    await withTrainer(await model(), { trainer }, async (trainer) => {
      disk.heal();
      expect(draftBytes(trainer, "disk")).toBe(0);
      for (const [i, batch] of STEPS.entries()) {
        expect((await trainer.step(batch)).loss).toBe(reference.losses[i]);
      }
    });
    expect(left).toBeLessThan(0);
  });
});

describe("a step that is given up", () => {
  test.each(PLACES)("aborted at any transfer, nothing has changed, %s", async (_where, offload) => {
    const disk = new OddDisk();
    const trainer = { ...COMMON, offload, max_grad_norm: 1e9, ...disk.options.trainer };
    const reference = await train(await model(), { trainer: { ...trainer, offload: RAM }, steps: STEPS });
    await withTrainer(await model(), { trainer }, async (trained) => {
      const counted = disk.count("write");
      await trained.step(STEPS[0] as TrainingBatch[]);
      for (let i = 0; i < 8; i++) {
        await trained.evaluate(STEPS[0] as TrainingBatch[]);
        const abort = new AbortController();
        let left = Math.floor((counted.calls * i) / 8);
        disk.answer = (call) => {
          if (call.kind === "write" && left-- === 0) abort.abort();
        };
        const outcome = await trained
          .step(STEPS[1] as TrainingBatch[], abort.signal)
          .catch((e: unknown) => e);
        if (!(outcome instanceof AbortError)) break; // so late that the step was made
        expect(trained.steps).toBe(1);
      }
      disk.heal();
      for (let i = trained.steps; i < STEPS.length; i++) {
        expect((await trained.step(STEPS[i] as TrainingBatch[])).loss).toBe(reference.losses[i]);
      }
    });
  });

  test("a disk that fails ahead: the step says so, and can be made again", async () => {
    const disk = new OddDisk();
    const offload = { ...RAM, optimizer: "disk" } as const;
    const trainer = { ...COMMON, offload, max_grad_norm: 1e9, ...disk.options.trainer };
    await withTrainer(await model(), { trainer }, async (trained) => {
      let seen = 0;
      for (const [i, batch] of STEPS.entries()) {
        await trained.evaluate(batch);
        disk.failOnce(i % 2 === 0 ? "read" : "write", i % 4, "EIO");
        const outcome = await trained.step(batch).catch((error: unknown) => error);
        disk.heal();
        if (outcome instanceof Error) {
          seen++;
          expect(outcome).toBeInstanceOf(IoError);
          expect(outcome.message).not.toMatch(/resume/);
          expect(trained.steps).toBe(i);
          await trained.step(batch);
        }
        expect(trained.steps).toBe(i + 1);
      }
      expect(seen).toBeGreaterThan(0);
      expect((await trained.evaluate(STEPS[0] as TrainingBatch[])).loss).toBe(
        await withTrainer(await model(), { trainer: { ...trainer, offload: RAM } }, async (other) => {
          for (const batch of STEPS) await other.step(batch);
          return (await other.evaluate(STEPS[0] as TrainingBatch[])).loss;
        }),
      );
      expect(trained.steps).toBe(STEPS.length);
    });
  });
});
