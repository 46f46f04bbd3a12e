// Trainings whose disk is slow, stutters, fails or is full: whatever it is that was on its way, a step either comes out as it
// should, bit for bit, or rejects with an error that names the file; it never hangs, and nothing wrong is trained on.

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { AbortError, DisposedError, IoError, NumericsError, SpillwayError } from "../src/base/errors.ts";
import { rejection, temporaryFolder } from "../src/formats/testing.ts";
import { AutoModelForCausalLM } from "../src/generate/causal-lm.ts";
import { systemError } from "../src/memory/testing.ts";
import type { TrainerOptions } from "../src/train/open/options.ts";
import { Trainer } from "../src/train/trainer.ts";
import { expectStillRight, readGolden } from "./golden/golden.ts";
import { leavesNothing } from "./support/leaks.ts";
import { OddDisk } from "./support/odd-disk.ts";
import { expectedOf, finish, PARTS, RAM, STEPS } from "./support/train-parts.ts";
import {
  batchOf,
  checkpointHashes,
  oneStep,
  type Run,
  stateOf,
  steps,
  training,
} from "./support/train-runs.ts";

/** A step that hangs fails its test then. Milliseconds. */
const LIMIT = { timeout: 120_000 };
const NAMES = Object.keys(PARTS);

/** Training with a part on a disk. */
function runOn(disk: OddDisk, part: string, more: TrainerOptions = {}): Run {
  return { model: disk.options.model, trainer: { ...disk.options.trainer, ...PARTS[part], ...more } };
}

describe("a disk that is odd but right changes nothing", () => {
  const oddities: readonly (readonly [string, (disk: OddDisk) => void])[] = [
    [
      "slow, and out of order",
      (disk) => {
        let calls = 0;
        disk.answer = () => sleep((calls++ * 7) % 5);
      },
    ],
    [
      "moves less than asked",
      (disk) => {
        let calls = 0;
        disk.answer = (call) => {
          // A piece may end within a block, but the disk does not stop in its first one for ever.
          if (calls++ % 3 !== 2 && call.length > 4096) call.length = Math.max(4096, (call.length >> 1) + 777);
        };
      },
    ],
    ["is interrupted again and again", (disk) => disk.interrupt()],
  ];
  describe.each(oddities)("%s", (_what, begin) => {
    test.each(NAMES)("%s", LIMIT, async (part) => {
      const disk = new OddDisk();
      begin(disk);
      const whole = await expectedOf(part);
      await training(runOn(disk, part), (trainer) => finish(trainer, whole));
    });
  });
});

/** The training goes on as if nothing was, or it has to be resumed. */
type Outcome = "kept" | "lost" | "kept or lost";

/** Steps until something fails; an update's failure is told by the call after it. */
async function untilItFails(trainer: Trainer): Promise<unknown> {
  return rejection(
    (async () => {
      await oneStep(trainer);
      await oneStep(trainer);
      await trainer.evaluate(batchOf(1));
    })(),
  );
}

describe("a disk that fails once", () => {
  const EIO = ["EIO", /the disk or its connection failed; see the system's log/] as const;
  const ENOSPC = ["ENOSPC", /the disk is full; free some of it or name another folder/] as const;
  const cases: readonly (readonly [string, "stream" | "read" | "write", Outcome])[] = [
    ["weights that train", "stream", "kept"],
    ["weights that train", "read", "lost"], // for their update: others of the same step have been made by then
    ["weights that train", "write", "lost"],
    ["frozen weights", "stream", "kept"],
    ["optimizer states", "read", "lost"],
    ["optimizer states", "write", "lost"],
    ["gradients", "read", "kept or lost"], // to be added to; later for the updates
    ["gradients", "write", "kept"],
    ["activations", "read", "kept"],
    ["activations", "write", "kept"],
  ];

  describe.each(cases)("%s, in a %s: %s", (part, kind, outcome) => {
    test.each(kind === "write" ? [EIO, ENOSPC] : [EIO])("%s", LIMIT, async (code, hint) => {
      const dir = temporaryFolder();
      const disk = new OddDisk();
      const whole = await expectedOf(part);
      await training(runOn(disk, part), async (trainer) => {
        const counted = disk.count(kind);
        expect(await oneStep(trainer)).toEqual(whole.facts[0]);
        await trainer.evaluate(batchOf(1)); // now the updates are over too
        disk.heal();
        const afters = [0, Math.floor(counted.calls / 3), counted.calls - 1];
        await trainer.save(dir);
        const seen = new Set<string>();
        for (const after of afters) {
          await trainer.resume(dir);
          disk.failOnce(kind, after, code);
          const error = await untilItFails(trainer);
          disk.heal();
          expect(error).toBeInstanceOf(IoError);
          expect((error as IoError).path).toMatch(/spillway\.state\.tmp-[0-9a-f-]+$|\.safetensors$/);
          expect((error as IoError).message).toMatch(hint);
          const lost = /resume from a checkpoint/.test((error as IoError).message);
          seen.add(lost ? "lost" : "kept");
          if (lost) {
            // It stays so, whatever is asked for, until the state is written anew.
            for (const again of [trainer.step(batchOf(1)), trainer.evaluate(batchOf(1)), trainer.save(dir)])
              expect(await rejection(again)).toBe(error);
            expect(readdirSync(dir)).toEqual(["checkpoint-1"]);
            await trainer.resume(dir);
          }
          await finish(trainer, whole);
        }
        expect(disk.failures).toBe(afters.length);
        expect([...seen].sort().join(" or ")).toBe(outcome);
      });
    });
  });

  test("a disk that stays full is told each time, and resuming onto it too", LIMIT, async () => {
    const dir = temporaryFolder();
    const disk = new OddDisk();
    const whole = await expectedOf("optimizer states");
    await training(runOn(disk, "optimizer states"), async (trainer) => {
      await oneStep(trainer);
      await trainer.save(dir);
      disk.answer = ({ kind }) => {
        if (kind === "write") throw systemError("ENOSPC");
      };
      expect(await untilItFails(trainer)).toBeInstanceOf(IoError);
      expect(await rejection(trainer.resume(dir))).toBeInstanceOf(IoError);
      expect(await rejection(trainer.resume(dir))).toBeInstanceOf(IoError);
      disk.heal();
      expect(await rejection(oneStep(trainer))).toBeInstanceOf(IoError);
      await trainer.resume(dir);
      await finish(trainer, whole);
    });
  });

  test("one that never answers a read with anything is given up", LIMIT, async () => {
    const disk = new OddDisk();
    const whole = await expectedOf("activations");
    await training(runOn(disk, "activations"), async (trainer) => {
      disk.answer = ({ kind }) => {
        if (kind === "read") throw systemError("EAGAIN");
      };
      const error = await rejection(oneStep(trainer));
      expect(error).toBeInstanceOf(IoError);
      expect((error as Error).message).toMatch(/moved nothing 8 times in a row/);
      disk.heal();
      await finish(trainer, whole);
    });
  });
});

describe("creating a trainer", () => {
  test.each(["weights that train", "optimizer states", "gradients", "activations"])(
    "%s: a disk that refuses leaves the model as it was",
    LIMIT,
    async (part) => {
      const { dir, prompts } = await readGolden("llama");
      await leavesNothing(async () => {
        const disk = new OddDisk();
        await using model = await AutoModelForCausalLM.from_pretrained(dir, {
          ...{ device: "cpu", threads: 1, kv_dtype: "float32", offload_folder: temporaryFolder() },
          ...disk.options.model,
        });
        for (const [after, code] of [
          [0, "EIO"],
          [1, "ENOSPC"],
          [3, "EIO"],
          [4, "ENOSPC"],
        ] as const) {
          disk.failOnce("write", after, code);
          const options = { max_length: 16, ...disk.options.trainer, ...PARTS[part] };
          expect(await rejection(Trainer.create(model, options))).toBeInstanceOf(IoError);
          await expectStillRight(model, prompts);
        }
        expect(disk.failures).toBe(4);
      });
    },
  );
});

describe("a step that is given up", () => {
  const ALL = { optimizer: "disk", gradients: "disk", activations: "disk", weights: "disk" } as const;

  test("aborted at any transfer, it can be made again", LIMIT, async () => {
    const disk = new OddDisk();
    const whole = await expectedOf("gradients");
    await training(runOn(disk, "gradients", { offload: ALL }), async (trainer) => {
      for (const after of [0, 3, 10, 30, 60]) {
        const abort = new AbortController();
        let left = after;
        disk.answer = () => {
          if (left-- === 0) abort.abort();
        };
        expect(await rejection(oneStep(trainer, abort.signal))).toBeInstanceOf(AbortError);
        expect(trainer.steps).toBe(0);
      }
      disk.heal();
      await finish(trainer, whole);
    });
  });

  test("gradients that are not finite: the next call is answered too", LIMIT, async () => {
    const options = { offload: ALL, learning_rate: 1e30, non_finite: "error" } as const;
    await training({ trainer: options }, async (trainer) => {
      await oneStep(trainer);
      for (let i = 0; i < 2; i++) expect(await rejection(oneStep(trainer))).toBeInstanceOf(NumericsError);
      expect(trainer.steps).toBe(1);
    });
  });

  test(
    "with updates made as backward goes along, an error in the middle has to be resumed",
    LIMIT,
    async () => {
      const dir = temporaryFolder();
      const disk = new OddDisk();
      const options = { offload: { ...ALL, weights: "cpu" }, non_finite: "error", max_grad_norm: 0 } as const;
      await training(runOn(disk, "gradients", options), async (trainer) => {
        await oneStep(trainer);
        await trainer.save(dir);
        const facts = await steps(trainer, 2);
        const state = await stateOf(trainer);
        for (const code of ["EIO", "abort"]) {
          await trainer.resume(dir);
          const abort = new AbortController();
          let writes = 0;
          // Moments are written by the first updates, long before backward is through.
          disk.answer = ({ kind }) => {
            if (kind !== "write" || ++writes !== 60) return;
            if (code === "abort") abort.abort();
            else throw systemError(code);
          };
          const first = await rejection(
            (async () => {
              await oneStep(trainer, abort.signal);
              await trainer.evaluate(batchOf(1));
            })(),
          );
          disk.heal();
          expect(first).toBeInstanceOf(code === "abort" ? AbortError : IoError);
          const told = await rejection(trainer.step(batchOf(1)));
          expect(told).toBeInstanceOf(SpillwayError);
          expect((told as Error).message).toMatch(/resume from a checkpoint/);
          await trainer.resume(dir);
          expect(await steps(trainer, 2)).toEqual(facts);
          expect(await stateOf(trainer)).toEqual(state);
        }
      });
    },
  );

  test("a model whose training was lost gives no texts, also when the trainer is gone", LIMIT, async () => {
    const { dir } = await readGolden("llama");
    const disk = new OddDisk();
    await using model = await AutoModelForCausalLM.from_pretrained(dir, {
      ...{ device: "cpu", threads: 1, offload_folder: temporaryFolder() },
    });
    const trainer = await Trainer.create(model, {
      ...{ max_length: 24, micro_batch_size: 2, ...disk.options.trainer, ...PARTS["optimizer states"] },
      update_ahead: false, // which would be made again
    });
    disk.failOnce("write", 5, "EIO");
    expect(await untilItFails(trainer)).toBeInstanceOf(IoError);
    const text = () => model.generate({ input_ids: [[1, 2, 3]], max_new_tokens: 2 });
    expect(await rejection(text())).toBeInstanceOf(IoError);
    await trainer.dispose();
    expect(await rejection(text())).toBeInstanceOf(IoError);
  });
});

describe("a model that is disposed under its trainer", () => {
  test.each(NAMES)("%s: waits for updates and frees both; later calls say so", LIMIT, async (part) => {
    const { dir } = await readGolden("llama");
    await leavesNothing(async () => {
      const model = await AutoModelForCausalLM.from_pretrained(dir, {
        ...{ device: "cpu", threads: 1, offload_folder: temporaryFolder() },
      });
      const trainer = await Trainer.create(model, { max_length: 24, micro_batch_size: 2, ...PARTS[part] });
      await oneStep(trainer); // whose updates are under way
      await model.dispose();
      expect(await rejection(oneStep(trainer))).toBeInstanceOf(DisposedError);
      await trainer.dispose();
      await trainer.dispose();
    });
  });
});

describe("saving", () => {
  test.each(["EIO", "ENOSPC"])(
    "%s at any call: older checkpoints stay, and training goes on",
    LIMIT,
    async (code) => {
      const dir = temporaryFolder();
      const disk = new OddDisk();
      const whole = await expectedOf("activations");
      await training({ trainer: { ...disk.options.trainer, offload: RAM } }, async (trainer) => {
        await oneStep(trainer);
        await trainer.save(dir);
        const first = await checkpointHashes(join(dir, "checkpoint-1"));
        await oneStep(trainer);
        let saved = false;
        for (let after = 0; !saved; after++) {
          disk.failOnce(undefined, after, code);
          const error = await trainer.save(dir).then(
            () => undefined,
            (reason: unknown) => reason,
          );
          saved = disk.failures === after; // one call less than there are
          if (saved) expect(error).toBeUndefined();
          else {
            expect(error).toBeInstanceOf(IoError);
            expect((error as IoError).path).toContain(dir);
            if (code === "ENOSPC")
              expect((error as Error).message).toMatch(/needs \d+ bytes .*free some of the disk/);
            expect(readdirSync(dir)).toEqual(["checkpoint-1"]);
          }
        }
        expect(disk.failures).toBeGreaterThan(8);
        disk.heal();
        expect(readdirSync(dir).sort()).toEqual(["checkpoint-1", "checkpoint-2"]);
        expect(await checkpointHashes(join(dir, "checkpoint-1"))).toEqual(first);
        await trainer.resume(join(dir, "checkpoint-1"));
        await finish(trainer, whole);
      });
    },
  );

  test.each(["slow", "interrupted"])("%s: it is saved as it is", LIMIT, async (what) => {
    const dir = temporaryFolder();
    const disk = new OddDisk();
    const whole = await expectedOf("optimizer states");
    await training(runOn(disk, "optimizer states"), async (trainer) => {
      await steps(trainer, STEPS);
      const expected = await checkpointHashes(await trainer.save(join(dir, "plain")));
      if (what === "interrupted") disk.interrupt();
      else disk.answer = ({ length }) => sleep(length % 3);
      const odd = await trainer.save(join(dir, "odd"));
      await trainer.resume(odd);
      if (what === "interrupted") expect(disk.failures).toBeGreaterThan(50);
      expect(await checkpointHashes(odd)).toEqual(expected);
      disk.heal();
      await finish(trainer, whole);
    });
  });

  test("state that cannot be read is not saved, and training goes on", LIMIT, async () => {
    const dir = temporaryFolder();
    const disk = new OddDisk();
    const whole = await expectedOf("optimizer states");
    await training(runOn(disk, "optimizer states"), async (trainer) => {
      await oneStep(trainer);
      await trainer.evaluate(batchOf(0)); // updates are over
      for (const after of [0, 7, 40]) {
        disk.failOnce("read", after, "EIO");
        const error = await rejection(trainer.save(dir));
        expect(error).toBeInstanceOf(IoError);
        expect((error as Error).message).toMatch(/tensor exp_avg.* the disk or its connection failed/);
        expect(readdirSync(dir)).toEqual([]);
      }
      disk.heal();
      await finish(trainer, whole);
    });
  });
});
