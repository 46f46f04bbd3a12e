// What a trainer does beside learning: which batches it takes, what it does with gradients that are not finite, what the
// model says between steps, and what is left when it is closed.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { BudgetError, ConfigError, DisposedError, NumericsError } from "../src/base/errors.ts";
import { rejection, temporaryFolder } from "../src/formats/testing.ts";
import { AutoModelForCausalLM, type CausalLM } from "../src/generate/causal-lm.ts";
import { openStateFileCount } from "../src/memory/stores/state-file.ts";
import { learningRateSchedule } from "../src/train/fit/schedule.ts";
import type { OffloadOptions, TrainerOptions } from "../src/train/open/options.ts";
import type { TrainingBatch } from "../src/train/step/batch.ts";
import { Trainer } from "../src/train/trainer.ts";
import { FIXTURES } from "./golden/golden.ts";
import { copyOfFixture } from "./support/checkpoints.ts";
import { leavesNothing } from "./support/leaks.ts";
import {
  CPU,
  expectNear,
  expectSameRun,
  exported,
  furthest,
  labelled,
  sameBits,
  savedState,
  train,
  withTrainer,
} from "./support/training.ts";

const LLAMA = join(FIXTURES, "llama");
const IDS = Array.from({ length: 16 }, (_, i) => (i * 37 + 11) % 499);
const BATCH = labelled([IDS]);
const BASE: TrainerOptions = { learning_rate: 1e-2, max_length: 16 };

const inRam: OffloadOptions = { optimizer: "cpu", gradients: "cpu", activations: "cpu", weights: "cpu" };
const onDisk: OffloadOptions = {
  ...{ optimizer: "disk", gradients: "disk", activations: "disk", weights: "disk" },
};
const BOTH: [string, OffloadOptions][] = [
  ["in RAM", inRam],
  ["on disk", onDisk],
];

const logitsOf = async (model: CausalLM) => (await model.forward({ input_ids: [IDS] })).logits.data;

describe("between steps", () => {
  test.each(BOTH)("the model says what the exported weights say, %s", (_where, offload) =>
    withTrainer(LLAMA, { trainer: { ...BASE, offload } }, async (trainer, model) => {
      const dir = temporaryFolder();
      const first = await logitsOf(model);
      await trainer.step(BATCH);
      await trainer.step(BATCH);
      const said = await logitsOf(model);
      const text = await model.generate({ input_ids: [IDS], max_new_tokens: 5, ignore_eos: true });
      expect(said).not.toEqual(first);
      await trainer.export(dir);
      await using fresh = await AutoModelForCausalLM.from_pretrained(dir, CPU);
      expect(said).toEqual(await logitsOf(fresh));
      expect(text).toEqual(await fresh.generate({ input_ids: [IDS], max_new_tokens: 5, ignore_eos: true }));
    }),
  );

  test("a step resolves before its update, and what is said then waits for the update", async () => {
    const expected = await withTrainer(LLAMA, { trainer: BASE }, async (trainer, model) => {
      await trainer.step(BATCH);
      return logitsOf(model);
    });
    let held: Promise<void> | undefined;
    let waiting = 0;
    const beforeTransfer = async () => {
      if (!held) return;
      waiting++;
      await held;
    };
    const trainer = { ...BASE, offload: { ...inRam, optimizer: "disk" as const }, beforeTransfer };
    await withTrainer(LLAMA, { trainer }, async (trained, model) => {
      let release = () => {};
      held = new Promise((resolve) => {
        release = resolve;
      });
      await trained.step(BATCH);
      let answered = false;
      const said = logitsOf(model).finally(() => {
        answered = true;
      });
      while (waiting === 0) await new Promise((resolve) => setImmediate(resolve));
      for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
      expect(answered).toBe(false);
      held = undefined;
      release();
      expect(await said).toEqual(expected);
    });
  });

  test.each(BOTH)("evaluating changes nothing, and is the loss of a step, %s", async (_where, offload) => {
    const trainer = { ...BASE, offload };
    const steps = [BATCH, labelled([IDS.slice(3)]), BATCH];
    const alone = await train(LLAMA, { trainer, steps });
    await withTrainer(LLAMA, { trainer }, async (trained) => {
      for (const [i, batch] of steps.entries()) {
        const before = await savedState(trained);
        const { loss, tokens } = await trained.evaluate([batch]);
        expect(await savedState(trained)).toBe(before);
        expect(tokens).toBe((batch.input_ids[0] as number[]).length - 1);
        const step = await trained.step(batch);
        expect(step.loss).toBe(alone.losses[i]);
        expect(loss).toBe(step.loss);
      }
      const both = await trained.evaluate(steps.slice(0, 2));
      const each = await Promise.all(steps.slice(0, 2).map((batch) => trained.evaluate([batch])));
      const sum = each.reduce((total, { loss, tokens }) => total + loss * tokens, 0);
      expectNear([both.loss], [sum / both.tokens], 1e-9);
      expect(await rejection(trained.evaluate([]))).toBeInstanceOf(ConfigError);
    });
  });
});

describe("batches", () => {
  test("shorter rows are filled up, and nothing sees that", async () => {
    const rows = [IDS, IDS.slice(0, 5), IDS.slice(4, 13)];
    const trainer = { ...BASE, micro_batch_size: 3 };
    const ragged = await train(LLAMA, { trainer, steps: [labelled(rows)] });
    const apart = await train(LLAMA, { trainer, steps: [rows.map((row) => labelled([row]))] });
    expect(ragged.results[0]).toMatchObject({ tokens: 30, target_tokens: 27 });
    expectNear(ragged.losses, apart.losses, 1e-6);
    expectNear(ragged.gradNorms, apart.gradNorms, 1e-5);
  });

  const bad: [string, unknown, RegExp][] = [
    ["no micro-batches", [], /no token has a target/],
    ["no sequences", { input_ids: [], labels: [] }, /at least one sequence/],
    ["an empty sequence", { input_ids: [[]], labels: [[]] }, /at least one token/],
    ["no targets", { input_ids: [IDS], labels: [IDS.map(() => -100)] }, /no token has a target/],
    ["a single token", labelled([[5]]), /no token has a target/],
    ["labels of another length", { input_ids: [IDS], labels: [IDS.slice(1)] }, /labels: row 0 has 15/],
    ["labels of too few rows", { input_ids: [IDS, IDS], labels: [IDS] }, /1 rows for 2/],
    [
      "a label outside the vocabulary",
      { input_ids: [IDS], labels: [IDS.with(3, 512)] },
      /labels: row 0: 512/,
    ],
    ["a negative label", { input_ids: [IDS], labels: [IDS.with(3, -1)] }, /labels: row 0: -1/],
    ["a label that is no token", { input_ids: [IDS], labels: [IDS.with(3, 1.5)] }, /labels: row 0: 1.5/],
    [
      "an id outside the vocabulary",
      { input_ids: [IDS.with(3, 512)], labels: [IDS] },
      /input_ids: row 0: 512/,
    ],
    ["no labels", { input_ids: [IDS] }, /labels/],
    ["no ids", { labels: [IDS] }, /input_ids/],
    ["nothing", undefined, /batch/],
    ["rows that are none", { input_ids: [5], labels: [5] }, /input_ids/],
    ["a second micro-batch that is bad", [BATCH, labelled([[1, 600]])], /600/],
    ["more positions than the model has", labelled([Array.from({ length: 300 }, () => 1)]), /256 positions/],
  ];
  test.each(BOTH)("what cannot be used is refused and changes nothing, %s", async (_where, offload) => {
    const alone = await train(LLAMA, { trainer: { ...BASE, offload }, steps: [BATCH, BATCH] });
    await withTrainer(LLAMA, { trainer: { ...BASE, offload } }, async (trainer) => {
      expect((await trainer.step(BATCH)).loss).toBe(alone.losses[0]);
      const before = await savedState(trainer);
      for (const [what, batch, message] of bad) {
        const error = await rejection(trainer.step(batch as TrainingBatch));
        expect(error, what).toBeInstanceOf(ConfigError);
        expect((error as Error).message, what).toMatch(message);
      }
      for (const larger of [labelled([[...IDS, 1]]), labelled([IDS, IDS]), labelled([IDS, IDS, IDS, IDS])]) {
        const error = await rejection(trainer.step(larger));
        expect(error).toBeInstanceOf(BudgetError);
        expect((error as Error).message).toMatch(/micro_batch_size/);
        expect(await rejection(trainer.evaluate([larger]))).toBeInstanceOf(BudgetError);
      }
      expect(await savedState(trainer)).toBe(before);
      expect(trainer.steps).toBe(1);
      expect((await trainer.step(BATCH)).loss).toBe(alone.losses[1]);
      expect(await savedState(trainer)).toBe(alone.state);
    });
  });

  test("an aborted step changes nothing", () =>
    withTrainer(LLAMA, { trainer: { ...BASE, offload: onDisk } }, async (trainer) => {
      await trainer.step(BATCH);
      const before = await savedState(trainer);
      expect(await rejection(trainer.step(BATCH, AbortSignal.abort()))).toMatchObject({ code: "aborted" });
      const late = new AbortController();
      const step = trainer.step([BATCH, BATCH, BATCH], late.signal);
      setImmediate(() => late.abort());
      expect(await rejection(step)).toMatchObject({ code: "aborted" });
      expect(await savedState(trainer)).toBe(before);
      expect((await trainer.step(BATCH)).step).toBe(2);
    }));
});

describe("gradients that are not finite", () => {
  const POISON = 505;
  const POISONED = labelled([IDS.with(4, POISON)]);

  /** A copy of the fixture in which the embedding of one token is infinite. */
  function poisoned(): string {
    const dir = copyOfFixture("llama");
    const path = join(dir, "model.safetensors");
    const bytes = readFileSync(path);
    const start = 8 + Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.subarray(8, start).toString());
    const { data_offsets, shape } = header["model.embed_tokens.weight"];
    bytes.writeFloatLE(Number.POSITIVE_INFINITY, start + data_offsets[0] + 4 * POISON * shape[1]);
    writeFileSync(path, bytes);
    return dir;
  }

  test.each(BOTH)(
    "skip: weights and moments stay, and the run goes on as if nothing had been, %s",
    async (_w, offload) => {
      const dir = poisoned();
      const trainer = { ...BASE, offload };
      const alone = await train(dir, { trainer, steps: [BATCH, BATCH] });
      await withTrainer(dir, { trainer }, async (trained) => {
        await trained.step(BATCH);
        const before = await savedState(trained);
        const skipped = await trained.step([BATCH, POISONED]);
        expect(skipped).toMatchObject({ skipped: true, step: 1 });
        expect(Number.isFinite(skipped.loss)).toBe(false);
        expect(trained.steps).toBe(1);
        expect(await savedState(trained)).toBe(before);
        expect(await trained.step(BATCH)).toMatchObject({ skipped: false, step: 2, loss: alone.losses[1] });
        expect(await savedState(trained)).toBe(alone.state);
      });
    },
  );

  test.each(BOTH)("error: nothing has changed either, and the run can go on, %s", async (_where, offload) => {
    const dir = poisoned();
    const trainer: TrainerOptions = { ...BASE, offload, non_finite: "error" };
    const alone = await train(dir, { trainer, steps: [BATCH, BATCH] });
    await withTrainer(dir, { trainer }, async (trained) => {
      await trained.step(BATCH);
      const error = await rejection(trained.step(POISONED));
      expect(error).toBeInstanceOf(NumericsError);
      expect((error as Error).message).toMatch(/step 2.*learning_rate/);
      expect(trained.steps).toBe(1);
      expect((await trained.step(BATCH)).loss).toBe(alone.losses[1]);
      expect(await savedState(trained)).toBe(alone.state);
    });
  });

  test("a rate that blows the weights up is skipped too, not propagated", () =>
    withTrainer(
      LLAMA,
      { trainer: { ...BASE, optimizer: "sgd", learning_rate: 1e30, max_grad_norm: 0 } },
      async (trainer) => {
        expect((await trainer.step(BATCH)).skipped).toBe(false);
        const before = await savedState(trainer);
        for (let i = 0; i < 2; i++) expect((await trainer.step(BATCH)).skipped).toBe(true);
        expect(await savedState(trainer)).toBe(before);
      },
    ));
});

describe("rates and decay", () => {
  test("a schedule is applied: the first step of a warm-up is none, the second that of half the rate", async () => {
    const schedule = {
      learning_rate: 0.1,
      lr_scheduler_type: "cosine",
      warmup_steps: 2,
      max_steps: 5,
    } as const;
    const sgd = { ...BASE, optimizer: "sgd" } as const;
    const run = await train(LLAMA, { trainer: { ...sgd, ...schedule }, steps: Array(6).fill(BATCH) });
    const rate = learningRateSchedule(schedule);
    expect(run.results.map((r) => r.learning_rate)).toEqual([0, 1, 2, 3, 4, 5].map(rate));
    expect(run.losses[1]).toBe(run.losses[0]);
    const two = await train(LLAMA, { trainer: { ...sgd, ...schedule }, steps: [BATCH, BATCH] });
    const one = await train(LLAMA, { trainer: { ...sgd, learning_rate: 0.05 }, steps: [BATCH] });
    expect(furthest(two.weights, one.weights)).toBe(0);
    expect(run.losses[2]).toBeLessThan(run.losses[0] as number);
  });

  // What transformers' Trainer.get_decay_parameter_names leaves out of its models of these families.
  test.each([
    ["llama", /layernorm|model\.norm/, 7],
    ["qwen2", /layernorm|model\.norm|bias/, 16],
    ["gpt2", /\.ln_|bias/, 26],
  ])("norms and biases of %s do not decay unless told", async (name, spared, count) => {
    const weights = async (options: TrainerOptions) =>
      (await train(join(FIXTURES, name), { trainer: { ...BASE, ...options }, steps: [BATCH] })).weights;
    const [without, byDefault] = [await weights({ weight_decay: 0 }), await weights({ weight_decay: 0.5 })];
    const same = [...byDefault].filter(([key, values]) => sameBits(values, without.get(key) as Float32Array));
    expect(same).toHaveLength(count);
    for (const [key] of same) expect(key).toMatch(spared);
  });

  test("no_decay: what it names is as without decay, all else as with it", async () => {
    const dir = join(FIXTURES, "qwen2"); // norms and biases
    const weights = async (options: TrainerOptions) =>
      (await train(dir, { trainer: { ...BASE, ...options }, steps: [BATCH] })).weights;
    const without = await weights({ weight_decay: 0 });
    const all = await weights({ weight_decay: 0.5, no_decay: [] });
    const some = await weights({ weight_decay: 0.5, no_decay: ["norm", "bias"] });
    let spared = 0;
    for (const [name, values] of some) {
      const named = /norm|bias$/.test(name);
      if (named) spared++;
      const same = (as: typeof all) => sameBits(values, as.get(name) as Float32Array);
      expect(same(named ? without : all), name).toBe(true);
      if (named && !name.endsWith("bias")) expect(same(all), name).toBe(false); // biases begin as zeros
    }
    expect(spared).toBeGreaterThan(10);
  });
});

describe("closing", () => {
  test.each(BOTH)(
    "frees everything of the trainer's; the model goes on with the weights as trained, %s",
    (_w, offload) => {
      const offload_folder = temporaryFolder();
      return leavesNothing(async () => {
        await using model = await AutoModelForCausalLM.from_pretrained(LLAMA, CPU);
        const stateFiles = openStateFileCount();
        const trainer = await Trainer.create(model, { ...BASE, offload, offload_folder });
        await trainer.step(BATCH);
        const said = await logitsOf(model);
        await trainer.step(BATCH);
        await Promise.all([trainer.dispose(), trainer.dispose()]);
        expect(await rejection(trainer.step(BATCH))).toBeInstanceOf(DisposedError);
        const trained = await logitsOf(model);
        expect(trained).not.toEqual(said);
        expect(await logitsOf(model)).toEqual(trained);
        const what = model.memory().entries.map((entry) => entry.what);
        for (const part of [
          "moments",
          "exp_avg",
          "gradients",
          "stage inputs",
          "batch inputs",
          "optimizer slots",
        ]) {
          expect(what).not.toContain(part);
        }
        // Weights that were trained on disk stay there.
        expect(openStateFileCount()).toBe(stateFiles + (offload.weights === "disk" ? 1 : 0));
        if (offload.weights !== "disk") expect(model.memory().used.disk).toBe(0);
      });
    },
  );

  test("one that was trained is not trained again from its checkpoint unawares", async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(LLAMA, CPU);
    const trainer = await Trainer.create(model, BASE);
    expect(await rejection(Trainer.create(model, BASE))).toBeInstanceOf(ConfigError);
    expect((await trainer.step(BATCH)).step).toBe(1);
    await trainer.dispose();
    expect(await rejection(Trainer.create(model, BASE))).toBeInstanceOf(ConfigError);
  });
});

test("accumulated, evaluated and saved in between: still the run it is without", async () => {
  const trainer = { ...BASE, offload: onDisk };
  const steps = [BATCH, [BATCH, labelled([IDS.slice(8)])], BATCH];
  const alone = await train(LLAMA, { trainer, steps });
  const busy = await withTrainer(LLAMA, { trainer }, async (trained, model) => {
    const results = [];
    for (const batch of steps) {
      await logitsOf(model);
      results.push(await trained.step(batch));
      await trained.evaluate([BATCH]);
    }
    return {
      results,
      losses: results.map((r) => r.loss),
      gradNorms: results.map((r) => r.grad_norm),
      weights: await exported(trained),
      state: await savedState(trained),
    };
  });
  expectSameRun(busy, alone, "in between");
});

describe("an attention mask", () => {
  const [a, b] = [
    [105, 109, 33, 77, 20],
    [64, 8, 2],
  ];
  const left = {
    input_ids: [a, [0, 0, ...b]],
    labels: [a, [-100, -100, -100, 8, 2]],
    attention_mask: [
      [1, 1, 1, 1, 1],
      [0, 0, 1, 1, 1],
    ],
  };
  const right = {
    input_ids: [a, [...b, 0, 0]],
    labels: [a, [...b, -100, -100]],
    attention_mask: [
      [1, 1, 1, 1, 1],
      [1, 1, 1, 0, 0],
    ],
  };
  const labelledPadding = { ...right, input_ids: [a, [...b, 7, 9]], labels: [a, [...b, 7, 9]] };
  const holes = { ...labelled([[5, 6, 7, 8, 9, 10]]), attention_mask: [[1, 1, 0, 1, 0, 1]] };

  // transformers 5.18, the same in its eager and sdpa attention.
  test.each([
    ["llama", [7.581682, 7.581682, 8.466257, 12.352381]],
    ["qwen2", [6.627119, 6.627119, 7.006149, 6.355164]],
    ["gpt2", [7.07354, 7.247944, 6.81314, 7.250368]],
  ])("%s: losses with padding on the left, on the right, labelled, and with holes", async (name, losses) => {
    const options = { model: { context_length: 8 }, trainer: { max_length: 8, micro_batch_size: 2 } };
    await withTrainer(join(FIXTURES, name), options, async (trainer) => {
      for (const [i, batch] of [left, right, labelledPadding, holes].entries()) {
        const { loss } = await trainer.evaluate([batch]);
        expect(loss, `batch ${i}`).toBeCloseTo(losses[i] as number, 4);
      }
      expect((await trainer.step(left)).loss).toBeCloseTo(losses[0] as number, 4);
      expect(Number.isFinite((await trainer.step(right)).grad_norm)).toBe(true);
    });
  });

  test("a target that nothing visible predicts, other values and keys that nothing reads are refused", async () => {
    const options = { trainer: { max_length: 8, micro_batch_size: 2 } };
    await withTrainer(LLAMA, options, async (trainer) => {
      for (const [changes, message] of [
        [{ labels: [a, [-100, -100, ...b]] }, /labels: row 1 has a target at token 2, .* hides all/],
        [
          {
            attention_mask: [
              [1, 1, 1, 1, 1],
              [0, 0, 1, 1, 2],
            ],
          },
          /row 1 has 2, expected 0 or 1/,
        ],
        [{ attention_mask: [[1, 1, 1, 1, 1]] }, /attention_mask: 1 rows for 2 sequences/],
        [{ position_ids: left.input_ids }, /position_ids .*give positions, and document_ids/],
        [{ lables: left.labels }, /did you mean labels\?/],
      ] as const) {
        const error = await rejection(trainer.step({ ...left, ...changes } as typeof left));
        expect(error).toBeInstanceOf(ConfigError);
        expect(String(error)).toMatch(message);
      }
    });
  });
});
