// A training that is saved, ended and gone on with elsewhere: losses, gradient norms, rates and weights are those of one
// that was never interrupted, bit for bit, wherever its parts live before and after.
import { readdirSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { AbortError, BudgetError, CheckpointError, ConfigError, IoError } from "../src/base/errors.ts";
import { rejection, temporaryFolder } from "../src/formats/testing.ts";
import type { OffloadOptions, TrainerOptions } from "../src/train/open/options.ts";
import type { Trainer } from "../src/train/trainer.ts";
import {
  batchOf,
  checkpointHashes,
  oneStep,
  type StepFacts,
  stateOf,
  steps,
  training,
} from "./support/train-runs.ts";

/** Where the parts of training can be; each kind of part is on each tier at least once. */
const PLACES = {
  ram: { optimizer: "cpu", gradients: "cpu", activations: "cpu", weights: "cpu" },
  disk: { optimizer: "disk", gradients: "disk", activations: "disk", weights: "disk" },
  "states on disk": { optimizer: "disk", gradients: "cpu", activations: "disk", weights: "cpu" },
  "weights on disk": { optimizer: "cpu", gradients: "disk", activations: "cpu", weights: "disk" },
} as const satisfies Record<string, OffloadOptions>;
type Place = keyof typeof PLACES;

const LORA = { r: 4, lora_alpha: 8, lora_dropout: 0.25, target_modules: ["q_proj", "down_proj"] };
/** The rate changes with every step, first up and then down. */
const SCHEDULE = { lr_scheduler_type: "linear", warmup_steps: 2, max_steps: 6 } as const;

const KINDS: readonly (readonly [string, TrainerOptions])[] = [
  ["float32, adamw", { weight_decay: 0.1 }],
  ["float32, adam8bit", { optimizer: "adam8bit" }],
  ["bfloat16, adamw", { precision: "bfloat16" }],
  ["bfloat16, adam8bit", { precision: "bfloat16", optimizer: "adam8bit", weight_decay: 0.1 }],
  ["sgd with momentum", { optimizer: "sgd", momentum: 0.9 }],
  ["an adapter with dropout, adamw", { lora: LORA }],
  ["an adapter with dropout, adam8bit", { lora: LORA, optimizer: "adam8bit" }],
];

/** Steps before and after the interruption. */
const BEFORE = 2;
const AFTER = 2;

describe.each(KINDS)("%s", (_kind, options) => {
  const at = (place: Place): TrainerOptions => ({ ...SCHEDULE, ...options, offload: PLACES[place] });

  test("from any place to any other", async () => {
    const dir = temporaryFolder();
    let facts: StepFacts[] = [];
    const whole = await training({ trainer: at("ram") }, async (trainer) => {
      await steps(trainer, BEFORE);
      await trainer.save(dir); // saving is no interruption
      facts = await steps(trainer, AFTER);
      return stateOf(trainer);
    });
    expect(facts.map((f) => f.step)).toEqual([3, 4]);
    expect(new Set(facts.map((f) => f.learning_rate)).size).toBe(AFTER);

    const pairs: [Place, Place][] = [
      ["ram", "disk"],
      ["disk", "ram"],
      ["states on disk", "weights on disk"],
      ["weights on disk", "states on disk"],
    ];
    const saved = await checkpointHashes(join(dir, "checkpoint-2"));
    for (const [from, to] of pairs) {
      const between = temporaryFolder();
      await training({ trainer: at(from) }, async (trainer) => {
        await steps(trainer, BEFORE);
        await trainer.save(between, { meta: { cursor: from } });
      });
      expect(await checkpointHashes(join(between, "checkpoint-2")), from).toEqual(saved);
      await training({ trainer: at(to) }, async (trainer) => {
        expect(await trainer.resume(between)).toEqual({ cursor: from });
        expect(trainer.steps).toBe(BEFORE);
        expect(await steps(trainer, AFTER), `${from} to ${to}`).toEqual(facts);
        expect(await stateOf(trainer), `${from} to ${to}`).toEqual(whole);
      });
    }
  });
});

/** Trains on from where the trainer stands, and tells what came of it. */
async function continued(trainer: Trainer): Promise<{ facts: StepFacts[]; state: unknown }> {
  return { facts: await steps(trainer, AFTER), state: await stateOf(trainer) };
}

test("rates that are others than before are taken, and said", async () => {
  const dir = temporaryFolder();
  await training({ trainer: { learning_rate: 1e-3, weight_decay: 0.1 } }, async (trainer) => {
    await oneStep(trainer);
    await trainer.save(dir);
  });
  const resumed = (options: TrainerOptions) =>
    training({ trainer: options }, async (trainer) => {
      const said: string[] = [];
      await trainer.resume(dir, { warning_callback: (line) => said.push(line) });
      const { learning_rate } = await oneStep(trainer);
      return { said, learning_rate };
    });
  const same = await resumed({ learning_rate: 1e-3, weight_decay: 0.1 });
  expect(same).toEqual({ said: [], learning_rate: 1e-3 });
  const cosine = { lr_scheduler_type: "cosine", max_steps: 4 } as const;
  const others = { learning_rate: 2e-3, betas: [0.8, 0.9], eps: 1e-6, max_grad_norm: 2, ...cosine } as const;
  const { said, learning_rate } = await resumed(others);
  expect(learning_rate).toBeGreaterThan(1e-3);
  for (const name of ["learning_rate", "lr_scheduler_type", "max_steps", "betas", "eps", "weight_decay"])
    expect(said.join("\n")).toMatch(new RegExp(`^${name} was .* and is `, "m"));
});

describe("in one process", () => {
  test.each(["ram", "disk"] as const)("a trainer can go back to what it saved: %s", async (place) => {
    const dir = temporaryFolder();
    await training({ trainer: { offload: PLACES[place] } }, async (trainer) => {
      await steps(trainer, BEFORE);
      await trainer.save(dir);
      const first = await continued(trainer);
      await trainer.resume(dir);
      expect(await continued(trainer)).toEqual(first);
    });
  });

  test("the latest of several is taken, or the one that is named", async () => {
    const dir = temporaryFolder();
    await training({}, async (trainer) => {
      for (let i = 0; i < 3; i++) {
        await oneStep(trainer);
        await trainer.save(dir, { meta: { i } });
      }
      await trainer.resume(join(dir, "checkpoint-1"));
      expect(trainer.steps).toBe(1);
      expect(await trainer.resume(dir)).toEqual({ i: 2 });
      expect(trainer.steps).toBe(3);
    });
  });

  test("evaluating and giving texts between two steps changes nothing", async () => {
    const run = { trainer: { offload: PLACES.disk, precision: "bfloat16" } } as const;
    const plain = await training(run, async (trainer) => {
      await steps(trainer, BEFORE);
      return continued(trainer);
    });
    await training(run, async (trainer, model) => {
      await steps(trainer, BEFORE);
      await trainer.evaluate(batchOf(50));
      await model.generate({ input_ids: [[1, 2, 3]], max_new_tokens: 4, ignore_eos: true });
      expect(await continued(trainer)).toEqual(plain);
    });
  });
});

describe("a checkpoint that this training cannot go on from", () => {
  const other: readonly (readonly [string, TrainerOptions, TrainerOptions, RegExp])[] = [
    ["optimizer", {}, { optimizer: "adam8bit" }, /optimizer was "adamw" and is "adam8bit"/],
    ["precision", {}, { precision: "bfloat16" }, /precision was "float32" and is "bfloat16"/],
    ["seed", {}, { seed: 8 }, /seed was 7 and is 8/],
    ["an adapter", {}, { lora: LORA }, /lora was null and is 4/],
    ["no adapter", { lora: LORA }, {}, /lora was 4 and is null/],
    ["rank", { lora: LORA }, { lora: { ...LORA, r: 8 } }, /lora was 4 and is 8/],
    ["alpha", { lora: LORA }, { lora: { ...LORA, lora_alpha: 4 } }, /lora_alpha was 8 and is 4/],
    ["dropout", { lora: LORA }, { lora: { ...LORA, lora_dropout: 0 } }, /lora_dropout was 0.25 and is 0/],
    ["scale", { lora: LORA }, { lora: { ...LORA, use_rslora: true } }, /use_rslora was false and is true/],
  ];
  test.each(other)("other settings: %s", async (_what, before, now, message) => {
    const dir = temporaryFolder();
    await training({ trainer: before }, async (trainer) => {
      await oneStep(trainer);
      await trainer.save(dir);
    });
    await training({ trainer: now }, async (trainer) => {
      await oneStep(trainer);
      const state = await stateOf(trainer);
      const error = await rejection(trainer.resume(dir));
      expect(error).toBeInstanceOf(ConfigError);
      expect((error as Error).message).toMatch(message);
      expect(await stateOf(trainer)).toEqual(state);
      expect((await oneStep(trainer)).step).toBe(2);
    });
  });

  test("other modules, or files cut short: CheckpointError, and nothing has changed", async () => {
    const dir = temporaryFolder();
    const path = await training({ trainer: { lora: LORA } }, async (trainer) => {
      await oneStep(trainer);
      return trainer.save(dir);
    });
    const options = { lora: { ...LORA, target_modules: ["v_proj"] } };
    await training({ trainer: options }, async (trainer) => {
      const state = await stateOf(trainer);
      expect(await rejection(trainer.resume(dir))).toBeInstanceOf(CheckpointError);
      expect(await rejection(trainer.resume(temporaryFolder()))).toBeInstanceOf(IoError);
      expect(await stateOf(trainer)).toEqual(state);
    });
    const file = readdirSync(path).find((name) => name.endsWith(".safetensors")) as string;
    truncateSync(join(path, file), 100);
    await training({ trainer: { lora: LORA } }, async (trainer) => {
      const state = await stateOf(trainer);
      expect(await rejection(trainer.resume(path))).toBeInstanceOf(CheckpointError);
      expect(await rejection(trainer.resume(dir))).toBeInstanceOf(CheckpointError); // nor is it taken for none
      expect(await stateOf(trainer)).toEqual(state);
      await oneStep(trainer);
    });
  });
});

describe("resuming that breaks off", () => {
  const failing = (code: string) => Object.assign(new Error(`${code}: i/o error, read`), { code });
  /** Fails the read of the checkpoint that comes `after` others. */
  class Reads {
    left = Number.POSITIVE_INFINITY;
    act = (): void => {
      throw failing("EIO");
    };
    readonly hook = ({ file }: { file: { path: string } }): void => {
      if (file.path.includes("checkpoint-") && this.left-- === 0) this.act();
    };
  }

  test.each(["ram", "disk"] as const)("half-way: nothing goes on until it is whole, %s", async (place) => {
    const dir = temporaryFolder();
    const reads = new Reads();
    const run = { model: { beforeRead: reads.hook }, trainer: { offload: PLACES[place] } };
    await training(run, async (trainer, model) => {
      await steps(trainer, BEFORE);
      await trainer.save(dir);
      const expected = await continued(trainer);
      const abort = new AbortController();
      for (const how of ["error", "abort"] as const) {
        reads.left = 20;
        reads.act = how === "abort" ? () => abort.abort() : new Reads().act;
        const error = await rejection(trainer.resume(dir, { signal: abort.signal }));
        expect(error).toBeInstanceOf(how === "abort" ? AbortError : IoError);
        const told = [
          trainer.step(batchOf(0)),
          trainer.evaluate(batchOf(0)),
          trainer.save(dir),
          trainer.export(join(dir, "exported")),
          model.generate({ input_ids: [[1, 2, 3]], max_new_tokens: 2 }),
        ];
        for (const refused of await Promise.all(told.map(rejection))) {
          expect(refused).toMatchObject({ code: "io" });
          expect((refused as Error).message).toMatch(
            /resuming .* did not complete.* resume from a checkpoint/,
          );
        }
      }
      expect(readdirSync(dir)).toEqual(["checkpoint-2"]);
      await trainer.resume(dir);
      expect(await continued(trainer)).toEqual(expected);
    });
  });

  test("before it has begun: the training stands where it stood", async () => {
    const dir = temporaryFolder();
    const reads = new Reads();
    await training({ model: { beforeRead: reads.hook } }, async (trainer) => {
      await oneStep(trainer);
      await trainer.save(dir);
      await oneStep(trainer);
      const state = await stateOf(trainer);
      reads.left = 0;
      expect(await rejection(trainer.resume(dir))).toBeInstanceOf(IoError);
      expect(await rejection(trainer.resume(dir, { signal: AbortSignal.abort() }))).toBeInstanceOf(
        AbortError,
      );
      expect(await stateOf(trainer)).toEqual(state);
      expect((await oneStep(trainer)).step).toBe(3);
    });
  });
});

describe("memory", () => {
  const MIB = 2 ** 20;

  test.each(["ram", "disk"] as const)("saving and resuming take at most 16 MiB more: %s", async (place) => {
    const dir = temporaryFolder();
    const run = { trainer: { offload: PLACES[place], precision: "bfloat16" } } as const;
    await training(run, async (trainer, model) => {
      await steps(trainer, BEFORE);
      const peak = model.memory().peak.cpu;
      const { used } = model.memory();
      await trainer.save(dir);
      await trainer.resume(dir);
      expect(model.memory().peak.cpu).toBeLessThanOrEqual(peak + 16 * MIB);
      expect(model.memory().used).toEqual(used);
    });
  });

  test("a budget that training fits in has room for saving and resuming", async () => {
    const offload = PLACES.disk;
    const refusal = await rejection(
      training({ model: { max_memory: { cpu: "1MiB" } }, trainer: { offload } }, async () => {}),
    );
    expect(refusal).toBeInstanceOf(BudgetError);
    const least = (refusal as BudgetError).needed;
    const dir = temporaryFolder();
    await training({ model: { max_memory: { cpu: least } }, trainer: { offload } }, async (trainer) => {
      await steps(trainer, BEFORE);
      await trainer.save(dir);
      await trainer.resume(dir);
      await trainer.export(join(dir, "exported"));
      await oneStep(trainer);
    });
  });
});
