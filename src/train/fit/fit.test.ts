import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { CheckpointError, ConfigError, IoError } from "../../base/errors.ts";
import { RoomError } from "../../base/files/room.ts";
import { rejection, temporaryFolder } from "../../formats/testing.ts";
import { LockedError } from "../../memory/locks/file-lock.ts";
import { readTrainingLog } from "../../report/training-log.ts";
import { listCheckpoints } from "../checkpoints/index.ts";
import { jsonl, numbers } from "../data/testing.ts";
import { moreCheckpoints } from "../resume/room.ts";
import { FakeTrainer } from "../testing-fit.ts";
import type { SaveOptions } from "../trainer-face.ts";
import { fit } from "./fit.ts";
import type { FitOptions } from "./fit-options.ts";
import type { FitResult, ResumeInfo } from "./fit-result.ts";
import { NothingTrainedError } from "./skips.ts";

/** 24 rows of four tokens, the end token included; one row to a sequence unless a test packs. */
const TEXTS = Array.from({ length: 24 }, (_, i) => ({ text: `${i + 1} ${i + 2} ${i + 3}` }));

function setUp(rows: readonly unknown[] = TEXTS) {
  const dir = temporaryFolder();
  const data = join(dir, "rows.jsonl");
  writeFileSync(data, jsonl(rows));
  const output_dir = join(dir, "out");
  const base = { data, output_dir, tokenizer: numbers, max_length: 8, packing: false, seed: 3 };
  const log = () => readTrainingLog(join(output_dir, "log.jsonl"));
  return { dir, data, output_dir, base, log };
}

/** Everything of a result that does not depend on the clock. */
const lasting = ({ seconds, ...rest }: FitResult) => rest;

describe("a run", () => {
  test("goes through the data once, writes its logs and saves at the end", async () => {
    const { base, log, output_dir } = setUp();
    const trainer = new FakeTrainer();
    const result = await fit(trainer, { ...base, gradient_accumulation_steps: 4, max_length: 4 });
    expect(lasting(result)).toEqual({
      ...{ steps: 6, loss: 1 / trainer.weight, best_eval: undefined, tokens: 24 * 4 },
      ...{ checkpoint: join(output_dir, "checkpoints", "checkpoint-6") },
      ...{ resumed_from: undefined, interrupted: false, updates: 6, skipped: 0 },
    });
    const records = await log();
    expect(records.map((r) => r.step)).toEqual([1, 2, 3, 4, 5, 6]);
    expect(records.map((r) => r.tokens)).toEqual([16, 32, 48, 64, 80, 96]);
    expect(records[0]).toMatchObject({ epoch: 4 / 24, tokens_per_second: 32, learning_rate: 0.1 });
    expect(records[5]).toMatchObject({ epoch: 1, loss: result.loss });
    expect(trainer.evaluations).toEqual([]);
  });

  test("max_steps goes on into further epochs; both given, the first that is reached ends it", async () => {
    const steps = async (some: Partial<FitOptions>) =>
      (await fit(new FakeTrainer(), { ...setUp().base, ...some })).steps;
    expect(await steps({ max_steps: 30 })).toBe(30);
    expect(await steps({ max_steps: 5, epochs: 1 })).toBe(5);
    expect(await steps({ max_steps: 500, epochs: 2 })).toBe(48);
    expect(await steps({ epochs: 2, packing: true })).toBeLessThan(48);
  });

  test("a step that was skipped has a line of its own and counts as a step, not as an update", async () => {
    const { base, log } = setUp();
    const trainer = new FakeTrainer({ skips: [2, 3] });
    const result = await fit(trainer, { ...base, max_steps: 4 });
    expect([result.steps, trainer.steps]).toEqual([4, 2]);
    expect((await log()).map((r) => [r.step, r.skipped ?? false])).toEqual([
      [1, false],
      [2, true],
      [3, true],
      [4, false],
    ]);
  });

  test("logs are written only where they are wanted", async () => {
    const { base, output_dir } = setUp();
    await fit(new FakeTrainer(), { ...base, max_steps: 1, logging: { jsonl: false, tensorboard: false } });
    expect(() => readFileSync(join(output_dir, "log.jsonl"))).toThrow("ENOENT");
  });
});

describe("a run that stops and is resumed", () => {
  test("goes on with the next batch and ends with the same weight, losses and data as one that never stopped", async () => {
    const packing = { packing: true, gradient_accumulation_steps: 2, max_steps: 19 };
    const whole = setUp();
    const expected = new FakeTrainer();
    await fit(expected, { ...whole.base, ...packing });

    const { base, log } = setUp();
    const stop = new AbortController();
    const first = new FakeTrainer({ before: (step) => step === 7 && stop.abort() });
    const interrupted = await fit(first, { ...base, ...packing, signal: stop.signal });
    expect(interrupted).toMatchObject({ interrupted: true, steps: 7 });

    const second = new FakeTrainer();
    const result = await fit(second, { ...base, ...packing, resume: true });
    expect(result).toMatchObject({ interrupted: false, resumed_from: 7, steps: 19 });
    expect([...first.seen, ...second.seen]).toEqual(expected.seen);
    expect(second.weight).toBe(expected.weight);
    const comparable = (records: Awaited<ReturnType<typeof log>>) =>
      records.map(({ elapsed, resumed_from, ...rest }) => rest);
    expect(comparable(await log())).toEqual(comparable(await whole.log()));
    const said = (await log()).filter((record) => record.resumed_from !== undefined);
    expect(said.map(({ step, resumed_from }) => [step, resumed_from])).toEqual([[8, 7]]);
  });

  test("steps after the checkpoint are made again, and no step is twice in the log", async () => {
    const { base, log } = setUp();
    const broken = new FakeTrainer({
      before: (step) => {
        if (step === 9) throw new IoError("the disk is gone", "state");
      },
    });
    await expect(fit(broken, { ...base, max_steps: 12, save_steps: 5 })).rejects.toThrow("the disk is gone");
    expect((await log()).map((r) => r.step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    // Weights may be lost after such an error: nothing is saved over what is known to be whole.
    expect(broken.saves.map((s) => s.step)).toEqual([5]);
    const trainer = new FakeTrainer();
    const result = await fit(trainer, { ...base, max_steps: 12, save_steps: 5, resume: true });
    expect(result.resumed_from).toBe(5);
    expect((await log()).map((r) => r.step)).toEqual(Array.from({ length: 12 }, (_, i) => i + 1));
    expect(trainer.seen.slice(0, 3)).toEqual(broken.seen.slice(5));
  });

  test("a run that is complete makes no step and writes nothing", async () => {
    const { base } = setUp();
    const first = await fit(new FakeTrainer(), { ...base, max_steps: 3 });
    const again = new FakeTrainer();
    const result = await fit(again, { ...base, max_steps: 3, resume: true });
    expect(lasting(result)).toEqual({ ...lasting(first), resumed_from: 3, updates: 0 });
    expect([again.seen, again.saves]).toEqual([[], []]);
  });

  test("resume: true starts anew where there is no checkpoint yet, so that one command does for every start", async () => {
    const { base, log } = setUp();
    const refuses = new FakeTrainer({
      before: (step) => {
        if (step === 3) throw new IoError("no");
      },
    });
    await expect(fit(refuses, { ...base, max_steps: 4 })).rejects.toThrow(IoError);
    const result = await fit(new FakeTrainer(), { ...base, max_steps: 4, resume: true });
    expect(result).toMatchObject({ resumed_from: undefined, steps: 4 });
    expect((await log()).map((r) => r.step)).toEqual([1, 2, 3, 4]);
  });

  test("a new run is not mixed with an earlier one in its folder", async () => {
    const { base, output_dir } = setUp();
    await fit(new FakeTrainer(), { ...base, max_steps: 4, save_steps: 2 });
    await expect(fit(new FakeTrainer(), { ...base, max_steps: 4 })).rejects.toThrow(
      /holds an earlier run, up to step 4: resume it/,
    );
    const early = join(output_dir, "checkpoints", "checkpoint-2");
    await expect(fit(new FakeTrainer(), { ...base, max_steps: 4, resume: early })).rejects.toThrow(
      /up to step 4, later than .*checkpoint-2/,
    );
    const elsewhere = { ...base, output_dir: `${output_dir}-2`, max_steps: 4 };
    expect((await fit(new FakeTrainer(), { ...elsewhere, resume: early })).resumed_from).toBe(2);
  });

  test("other data is refused, and a checkpoint that fit did not save", async () => {
    const { base, data, output_dir } = setUp();
    await fit(new FakeTrainer(), { ...base, max_steps: 4 });
    writeFileSync(data, jsonl([...TEXTS, { text: "9 9" }]));
    await expect(fit(new FakeTrainer(), { ...base, max_steps: 9, resume: true })).rejects.toThrow(
      /data: file 1 \(rows.jsonl\) has other contents \(456 bytes, now 471\)/,
    );
    const bare = new FakeTrainer();
    bare.steps = 5;
    await bare.save(join(output_dir, "checkpoints"));
    await expect(fit(new FakeTrainer(), { ...base, max_steps: 9, resume: true })).rejects.toThrow(
      /checkpoint-5 does not say where it was in its data/,
    );
  });
});

describe("evaluation", () => {
  test("every eval_steps and after the last step, always on the same held-out rows", async () => {
    const { base, log } = setUp();
    const trainer = new FakeTrainer();
    const options = { ...base, validation_size: 4, eval_steps: 2, max_steps: 5 };
    const result = await fit(trainer, options);
    const records = await log();
    expect(records.map((r) => r.eval_loss !== undefined)).toEqual([false, true, false, true, true]);
    expect(trainer.evaluations).toEqual([16, 16, 16]);
    expect(result.best_eval).toEqual({ step: 5, loss: records[4]?.eval_loss });
  });

  test("on a file of its own", async () => {
    const { base, dir } = setUp();
    const validation = join(dir, "held-out.jsonl");
    writeFileSync(validation, jsonl([{ text: "1 2" }, { text: "3 4" }]));
    const trainer = new FakeTrainer();
    await fit(trainer, { ...base, validation, max_steps: 3 });
    expect(trainer.evaluations).toEqual([6]);
  });

  test("with keep_best the best one is saved when it is measured, between the regular checkpoints", async () => {
    const { base } = setUp();
    const losses: Record<number, number> = { 1: 5, 2: 3, 3: 1, 4: 2, 5: Number.NaN, 6: 4 };
    const trainer = new FakeTrainer({ evalLoss: (steps) => losses[steps] as number });
    const result = await fit(trainer, {
      ...{ ...base, validation_size: 4, eval_steps: 1, save_steps: 4, max_steps: 6 },
      ...{ keep: 2, keep_best: true },
    });
    expect(result.best_eval).toEqual({ step: 3, loss: 1 });
    expect(trainer.saves.map((s) => [s.step, s.options.eval_loss])).toEqual([
      [1, 5],
      [2, 3],
      [3, 1],
      [4, 2],
      [6, 4],
    ]);
    for (const { options } of trainer.saves) expect(options).toMatchObject({ keep: 2, keep_best: true });
  });

  test("the best one is remembered over an interruption", async () => {
    const { base } = setUp();
    const evalLoss = (steps: number) => steps;
    const options = { ...base, validation_size: 4, eval_steps: 1 };
    await fit(new FakeTrainer({ evalLoss }), { ...options, max_steps: 2 });
    const result = await fit(new FakeTrainer({ evalLoss }), { ...options, max_steps: 4, resume: true });
    expect(result.best_eval).toEqual({ step: 1, loss: 1 });
  });
});

describe("an end before the end", () => {
  test("a signal lets the step under way finish, logs it and saves it; nothing is evaluated any more", async () => {
    const { base, log } = setUp();
    const stop = new AbortController();
    const trainer = new FakeTrainer({ before: (step) => step === 3 && stop.abort() });
    const saved: string[] = [];
    const result = await fit(trainer, {
      ...{ ...base, max_steps: 9, validation_size: 4, eval_steps: 1, save_steps: 2 },
      ...{ signal: stop.signal, on_save: (path: string) => void saved.push(path) },
    });
    expect(result).toMatchObject({ steps: 3, interrupted: true, checkpoint: saved.at(-1) });
    expect(saved).toHaveLength(2);
    expect((await log()).map((r) => r.eval_loss !== undefined)).toEqual([true, true, false]);
  });

  test("a signal before the first step is an AbortError", async () => {
    const signal = AbortSignal.abort();
    await expect(fit(new FakeTrainer(), { ...setUp().base, signal })).rejects.toThrow("aborted");
  });

  test("what the caller's on_step throws ends the run, with the steps made saved", async () => {
    const { base } = setUp();
    const trainer = new FakeTrainer();
    const on_step = ({ step }: { step: number }) => {
      if (step === 4) throw new Error("enough");
    };
    await expect(fit(trainer, { ...base, max_steps: 9, on_step })).rejects.toThrow("enough");
    expect(trainer.saves.map((s) => s.step)).toEqual([4]);
  });

  test("a batch the trainer refuses leaves what came before it saved", async () => {
    const { base } = setUp();
    const trainer = new FakeTrainer({
      before: (step) => {
        if (step === 4) throw new ConfigError("input_ids: row 0: 999 is not a token");
      },
    });
    await expect(fit(trainer, { ...base, max_steps: 9 })).rejects.toThrow("999 is not a token");
    expect(trainer.saves.map((s) => s.step)).toEqual([3]);
  });
});

const written = (dir: string, rows: readonly unknown[]) => {
  const path = join(dir, "held.jsonl");
  writeFileSync(path, jsonl(rows));
  return path;
};

describe("mistakes are found before the first step", () => {
  test("a bad row is named by file and line", async () => {
    const { base, data } = setUp([{ text: "1 2" }, { txet: "3 4" }]);
    const trainer = new FakeTrainer();
    await expect(fit(trainer, { ...base, max_steps: 2 })).rejects.toThrow(`${data}`);
    await expect(fit(trainer, { ...base, max_steps: 2 })).rejects.toThrow(/line 2/);
    expect(trainer.seen).toEqual([]);
  });

  test.each<[string, Partial<FitOptions>, (dir: string) => Partial<FitOptions>, RegExp]>([
    [
      "held-out rows that cannot be used",
      { max_steps: 2 },
      (dir) => ({ validation: written(dir, [{ text: "1 2" }, { txet: "3" }]) }),
      /held\.jsonl: line 2: holds "txet"/,
    ],
    [
      "held-out rows with nothing to learn",
      { max_steps: 2 },
      (dir) => ({ validation: written(dir, [{ text: "" }]) }),
      /validation, of 1 rows none has a token to learn/,
    ],
    [
      "a share that keeps none",
      { validation_size: 1e-9 },
      () => ({}),
      /validation_size 1e-9 keeps none of 24 rows/,
    ],
    [
      "a bad row with only max_steps",
      { max_steps: 1 },
      (dir) => ({ data: written(dir, [...TEXTS, {}]) }),
      /line 25/,
    ],
    ["an option that fit has not", {}, () => ({ lr: 1 }) as Partial<FitOptions>, /lr is no option of fit/],
  ])("%s", async (_what, options, more, message) => {
    const { base, dir } = setUp();
    const trainer = new FakeTrainer();
    await expect(fit(trainer, { ...base, ...options, ...more(dir) })).rejects.toThrow(message);
    expect(trainer.seen).toEqual([]);
  });

  test("columns that nothing uses are said once", async () => {
    const warnings: string[] = [];
    const { base, data } = setUp([{ text: "1 2", id: 1 }]);
    const warning_callback = (warning: string) => void warnings.push(warning);
    await fit(new FakeTrainer(), { ...base, max_steps: 2, warning_callback });
    expect(warnings).toEqual([`${data}: the column "id" is not used`]);
  });

  test.each<[Partial<FitOptions>, string]>([
    [{ output_dir: "" }, "output_dir: name a folder"],
    [{ max_steps: 0 }, "max_steps is 0, expected a whole number above 0"],
    [{ save_steps: 1.5 }, "save_steps is 1.5"],
    [{ eval_steps: 2 }, "eval_steps needs held-out data"],
    [{ keep_best: true }, "keep_best needs held-out data"],
    [{ validation: "x", validation_size: 0.1 }, "give one of them"],
    [{ validation_size: 24 }, "none would be left to train on"],
    [{ max_length: 1 }, "max_length is 1"],
  ])("%j", async (options, message) => {
    await expect(fit(new FakeTrainer(), { ...setUp().base, ...options })).rejects.toThrow(message);
  });
});

describe("going on with other settings", () => {
  test.each([
    ["larger", { max_steps: 16 }, { gradient_accumulation_steps: 4 }, 16 + 2],
    ["smaller", { max_steps: 3, gradient_accumulation_steps: 4 }, {}, 3 + 12],
    ["micro", { max_steps: 9 }, { micro_batch_size: 3 }, 9 + 5],
  ])("a %s batch: an epoch is every row once, and that is said", async (_, before, after, steps) => {
    const { base, log } = setUp();
    await fit(new FakeTrainer(), { ...base, ...before });
    const changes: string[] = [];
    const second = new FakeTrainer();
    const result = await fit(second, {
      ...{ ...base, ...after, epochs: 1, resume: true },
      on_resume: (info) => void changes.push(...info.changes),
    });
    expect(result.steps).toBe(steps);
    expect((await log()).at(-1)).toMatchObject({ step: steps, epoch: 1, tokens: 24 * 4 });
    expect(changes.join()).toMatch(/(micro_batch_size|gradient_accumulation_steps) was \d and is \d/);
  });

  test.each<[string, Partial<FitOptions>, RegExp]>([
    ["packing", { packing: true }, /packing was false and is true/],
    ["append_eos", { append_eos: false }, /append_eos was true and is false/],
    ["seed", { seed: 4 }, /seed was 3 and is 4/],
    ["max_length", { max_length: 7 }, /max_length was 8 and is 7/],
    ["validation_size", { validation_size: 2 }, /validation_size was 0 and is 2/],
    [
      "tokenizer",
      { tokenizer: { ...numbers, encode: (text) => [...numbers.encode(text)].reverse() } },
      /tokenizer was/,
    ],
  ])("%s is refused by name: rows would become other examples", async (_, change, message) => {
    const { base } = setUp();
    await fit(new FakeTrainer(), { ...base, max_steps: 4 });
    const error = await rejection(fit(new FakeTrainer(), { ...base, ...change, max_steps: 9, resume: true }));
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as ConfigError).message).toMatch(message);
  });

  test("files in another order, or edited without a change of size, are refused; accepted, it goes on at the row", async () => {
    const { base, dir, data } = setUp();
    const other = join(dir, "other.jsonl");
    writeFileSync(other, jsonl(TEXTS));
    writeFileSync(data, jsonl(TEXTS).replace('"1 2 3"', '"1 2 9"'));
    const options = { ...base, data: [data, other], max_steps: 20 };
    await fit(new FakeTrainer(), options);
    const on = { ...options, max_steps: 48, resume: true };
    await expect(fit(new FakeTrainer(), { ...on, data: [other, data] })).rejects.toThrow(
      /file 1 \(other.jsonl\) was file 2, file 2 \(rows.jsonl\) was file 1/,
    );
    writeFileSync(other, jsonl(TEXTS).replace('"24 25 26"', '"24 25 27"'));
    await expect(fit(new FakeTrainer(), on)).rejects.toThrow(
      /file 2 \(other.jsonl\) has other contents \(\d+ bytes as before\).*accept_data_changes/,
    );
    const result = await fit(new FakeTrainer(), { ...on, accept_data_changes: true });
    expect(result).toMatchObject({ resumed_from: 20, steps: 48 });
    writeFileSync(other, jsonl(TEXTS.slice(1)));
    await expect(fit(new FakeTrainer(), { ...on, max_steps: 60, accept_data_changes: true })).rejects.toThrow(
      /rows was 48 and is 47/,
    );
  });

  test("a file that was only copied is the same", async () => {
    const { base, dir } = setUp();
    await fit(new FakeTrainer(), { ...base, max_steps: 4 });
    const copy = join(dir, "rows.jsonl.copy");
    writeFileSync(copy, readFileSync(base.data));
    expect((await fit(new FakeTrainer(), { ...base, data: copy, max_steps: 6, resume: true })).steps).toBe(6);
  });
});

describe("a damaged checkpoint", () => {
  test("is never taken for none, with resume or without, though an older one is there", async () => {
    const { base, output_dir, log } = setUp();
    await fit(new FakeTrainer(), { ...base, max_steps: 8, save_steps: 4 });
    const record = join(output_dir, "checkpoints", "checkpoint-8", "training_state.json");
    writeFileSync(record, readFileSync(record, "utf8").slice(0, -40));
    for (const resume of [true, false, join(output_dir, "checkpoints")]) {
      const error = await rejection(fit(new FakeTrainer(), { ...base, max_steps: 12, resume }));
      expect(error, String(resume)).toBeInstanceOf(CheckpointError);
      expect((error as Error).message).toMatch(/checkpoint-8\/training_state.json: .*to go on from step 4/);
    }
    expect((await log()).length).toBe(8);
    rmSync(join(output_dir, "checkpoints", "checkpoint-8"), { recursive: true });
    expect(await fit(new FakeTrainer(), { ...base, max_steps: 12, resume: true })).toMatchObject({
      resumed_from: 4,
    });
  });

  test("nothing to resume is said as such", async () => {
    const infos: ResumeInfo[] = [];
    const { base } = setUp();
    await fit(new FakeTrainer(), {
      ...{ ...base, max_steps: 2, resume: true },
      on_resume: (info) => void infos.push(info),
    });
    expect(infos).toEqual([{ step: 0, total: 2, checkpoint: undefined, changes: [] }]);
  });
});

describe("a disk that is full", () => {
  class Full extends FakeTrainer {
    /** Saves that fail, from 1. */
    full: readonly number[] = [];
    tries = 0;
    override async save(dir: string, options: SaveOptions = {}): Promise<string> {
      if (this.full.includes(++this.tries)) throw new RoomError("no room", dir, { needed: 2, free: 1 });
      return super.save(dir, options);
    }
  }

  test("a save that fails is left to the next one", async () => {
    const { base } = setUp();
    const trainer = new Full();
    trainer.full = [2];
    const failures: unknown[] = [];
    const result = await fit(trainer, {
      ...{ ...base, max_steps: 8, save_steps: 2 },
      on_save_failed: (_, info) => void failures.push(info),
    });
    expect(failures).toEqual([{ step: 4, last: false }]);
    expect(trainer.saves.map(({ step }) => step)).toEqual([2, 6, 8]);
    expect(result.checkpoint).toMatch(/checkpoint-8$/);
  });

  test("the last one that fails is an error, unless another folder is named", async () => {
    const { base, dir, output_dir } = setUp();
    const trainer = new Full();
    trainer.full = [2];
    await expect(fit(trainer, { ...base, max_steps: 4, save_steps: 2 })).rejects.toThrow(RoomError);
    expect((await listCheckpoints(join(output_dir, "checkpoints"))).map(({ step }) => step)).toEqual([2]);
    const other = new Full();
    other.full = [1];
    const result = await fit(other, {
      ...{ ...base, max_steps: 6, resume: true },
      on_save_failed: () => join(dir, "elsewhere"),
    });
    expect(result.checkpoint).toBe(join(dir, "elsewhere", "checkpoint-6"));
  });

  test("is found out before the first step where a checkpoint's size is known", async () => {
    const { base } = setUp();
    const trainer = Object.assign(new FakeTrainer(), { checkpoint_bytes: 2 ** 52 });
    const error = await rejection(fit(trainer, { ...base, max_steps: 4, save_steps: 2 }));
    expect(error).toBeInstanceOf(RoomError);
    expect((error as Error).message).toMatch(/2 checkpoints .* logs .* needed on this disk, .*or keep fewer/);
    expect(trainer.seen).toEqual([]);
  });

  test.each([
    ["no limit", {}, 0, 5],
    ["keep", { keep: 2 }, 0, 3],
    ["keep, and those of before", { keep: 2 }, 2, 1],
    ["keep the best too", { keep: 1, keep_best: true }, 0, 3],
  ])("checkpoints there at once: %s", (_, options, there, expected) => {
    const settings = { keep: undefined, keep_best: false, ...options, save_steps: 10 };
    expect(moreCheckpoints(settings, { done: 0, total: 45 }, there)).toBe(expected);
  });
});

describe("steps that are skipped", () => {
  const all = Array.from({ length: 100 }, (_, i) => i + 1);

  test.each([
    ["all of them", all, 6, /all 6 steps were skipped, so nothing was trained/],
    ["all after the first", all.slice(1), 8, /the last 7 of 8 steps were skipped/],
    ["fifty in a row", all.slice(1), 90, /the last 50 of 51 steps were skipped/],
  ])(
    "%s: an error, with what the run came to, and nothing saved over what was",
    async (_, skips, max_steps, message) => {
      const { base } = setUp();
      const warnings: string[] = [];
      const trainer = new FakeTrainer({ skips });
      const warning_callback = (warning: string) => void warnings.push(warning);
      const error = await rejection(fit(trainer, { ...base, max_steps, save_steps: 7, warning_callback }));
      expect(error).toBeInstanceOf(NothingTrainedError);
      expect((error as Error).message).toMatch(message);
      expect((error as NothingTrainedError).result.skipped).toBeGreaterThan(5);
      expect(warnings).toEqual([expect.stringMatching(/5 steps in a row were skipped/)]);
      expect(trainer.saves).toEqual([]);
    },
  );

  test("a few of them, the last one too, are no error", async () => {
    const { base } = setUp();
    const trainer = new FakeTrainer({ skips: [1, 2, 5, 9, 10] });
    expect(await fit(trainer, { ...base, max_steps: 10 })).toMatchObject({ updates: 5, skipped: 5 });
  });
});

describe("two runs in one folder", () => {
  test("the second is refused while the first lives", async () => {
    const { base } = setUp();
    let second: unknown;
    await fit(new FakeTrainer(), {
      ...{ ...base, max_steps: 3 },
      on_step: async ({ step }) => {
        if (step === 2) second = await rejection(fit(new FakeTrainer(), { ...base, resume: true }));
      },
    });
    expect(second).toBeInstanceOf(LockedError);
    expect((await fit(new FakeTrainer(), { ...base, max_steps: 4, resume: true })).steps).toBe(4);
  });
});
