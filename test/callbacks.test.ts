// Callbacks that throw: the caller's own error comes out, the same object, nothing stays behind, and what was open before
// can be used as before. Promises that callbacks give count as much as what they throw at once.
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { mergeAdapter } from "../src/adapters/merge.ts";
import { ConfigError, DisposedError } from "../src/base/errors.ts";
import { rejection, temporaryFolder } from "../src/formats/testing.ts";
import { AutoModelForCausalLM, type CausalLM } from "../src/generate/causal-lm.ts";
import { TextStreamer } from "../src/generate/text/text-streamer.ts";
import { openStateFileCount } from "../src/memory/stores/state-file.ts";
import type { FitOptions } from "../src/train/fit/fit-options.ts";
import { Trainer } from "../src/train/trainer.ts";
import { FIXTURES } from "./golden/golden.ts";
import { PEFT_ADAPTER } from "./support/adapters.ts";
import { leavesNothing } from "./support/leaks.ts";
import { CPU, labelled } from "./support/training.ts";

const LLAMA = join(FIXTURES, "llama");
const PROMPT = [[1, 2, 3]];
const TRAINING = { learning_rate: 1e-3, max_length: 16 };
const open = (options: Parameters<typeof AutoModelForCausalLM.from_pretrained>[1] = {}) =>
  AutoModelForCausalLM.from_pretrained(LLAMA, { ...CPU, ...options });

/** A callback that throws at its call `n`, and one whose promise is rejected there. */
const failing = (error: unknown, n = 0) => {
  let calls = 0;
  return () => {
    if (calls++ === n) throw error;
  };
};
const rejecting = (error: unknown, n = 0) => {
  const call = failing(error, n);
  return async () => call();
};
const ways = [
  ["throws", failing],
  ["gives a promise that is rejected", rejecting],
] as const;

describe.each(ways)("while a model is opened, one that %s", (_name, bad) => {
  test.each([
    ["at the first tensor", 0, {}],
    ["at a later one", 5, {}],
    ["while everything is read first", 1, { low_cpu_mem_usage: false }],
  ])("%s", async (_when, n, options) => {
    const mine = new Error("mine");
    await leavesNothing(async () => {
      expect(await rejection(open({ ...options, progress_callback: bad(mine, n) }))).toBe(mine);
    });
  });

  test("when all is read", async () => {
    const mine = new Error("mine");
    const call = bad(mine);
    await leavesNothing(async () => {
      const last = open({ progress_callback: ({ status }) => (status === "done" ? call() : undefined) });
      expect(await rejection(last)).toBe(mine);
    });
  });

  test("at a warning", async () => {
    const dir = join(temporaryFolder(), "model");
    cpSync(LLAMA, dir, { recursive: true });
    const config = JSON.parse(readFileSync(join(dir, "config.json"), "utf8")) as object;
    writeFileSync(join(dir, "config.json"), JSON.stringify({ ...config, nobody_reads_this: 1 }));
    const mine = new Error("mine");
    await leavesNothing(async () => {
      const opened = AutoModelForCausalLM.from_pretrained(dir, { ...CPU, warning_callback: bad(mine) });
      expect(await rejection(opened)).toBe(mine);
    });
  });

  test("while a converted copy is written: no part of it stays", async () => {
    const offload_folder = temporaryFolder();
    const mine = new Error("mine");
    const converted = { dtype: "float16", device_map: "disk", offload_folder } as const;
    expect(await rejection(open({ ...converted, progress_callback: bad(mine, 1) }))).toBe(mine);
    expect(readdirSync(offload_folder, { recursive: true })).toEqual([]);
    await using again = await open(converted);
    expect(await again.generate({ input_ids: PROMPT, max_new_tokens: 1 })).toHaveLength(1);
  });
});

describe.each(ways)("while text is generated, one that %s", (_name, bad) => {
  let model: CausalLM;
  let expected: number[][];
  const plain = () => model.generate({ input_ids: PROMPT, max_new_tokens: 4 });
  beforeAll(async () => {
    model = await open();
    expected = await plain();
    await model.tokenizer();
  });
  afterAll(() => model.dispose());

  const put = (n: number) => (mine: unknown) => ({ put: bad(mine, n), end: () => {} });
  test.each([
    ["with the prompt", put(0)],
    ["with the first token", put(1)],
    ["with the last token", put(4)],
    ["at the end", (mine: unknown) => ({ put: () => {}, end: bad(mine) })],
  ])("%s", async (_when, streamer) => {
    const mine = new Error("mine");
    const run = () => model.generate({ input_ids: PROMPT, max_new_tokens: 4, streamer: streamer(mine) });
    await leavesNothing(async () => expect(await rejection(run())).toBe(mine));
    expect(await plain()).toEqual(expected);
  });

  test.each(["callback_function", "token_callback_function"] as const)(
    "%s of a TextStreamer",
    async (name) => {
      const mine = new Error("mine");
      const tokenizer = await model.tokenizer();
      const streamer = new TextStreamer(tokenizer, { callback_function: () => {}, [name]: bad(mine) });
      const run = model.generate({ input_ids: PROMPT, max_new_tokens: 4, streamer });
      expect(await rejection(run)).toBe(mine);
      expect(await plain()).toEqual(expected);
    },
  );

  test("in the body of a loop over a stream", async () => {
    const mine = new Error("mine");
    const read = async () => {
      for await (const _ of model.stream([1, 2, 3], { max_new_tokens: 20 })) await bad(mine)();
    };
    expect(await rejection(read())).toBe(mine);
    expect(await plain()).toEqual(expected);
  });
});

describe.each(ways)("while training, one that %s", (_name, bad) => {
  const data = () => {
    const file = join(temporaryFolder(), "data.jsonl");
    writeFileSync(file, `${JSON.stringify({ text: "hello world hello" })}\n`.repeat(8));
    return file;
  };

  test("a trainer is not made, and the model is as it was", async () => {
    const mine = new Error("mine");
    await leavesNothing(async () => {
      await using model = await open();
      const before = await model.generate({ input_ids: PROMPT, max_new_tokens: 4 });
      const made = Trainer.create(model, { ...TRAINING, progress_callback: bad(mine, 2) });
      expect(await rejection(made)).toBe(mine);
      expect(await model.generate({ input_ids: PROMPT, max_new_tokens: 4 })).toEqual(before);
      await using trainer = await Trainer.create(model, TRAINING);
      expect((await trainer.step(labelled(PROMPT))).step).toBe(1);
    });
    expect(openStateFileCount()).toBe(0);
  });

  const callbacks = ["on_step", "on_save", "check_callback"] as const;
  test.each(callbacks)("%s ends the run; the trainer goes on", async (name) => {
    await using model = await open();
    await using trainer = await Trainer.create(model, TRAINING);
    // As a disk that is full would throw it: a callback's own error is never taken for one of saving.
    const mine = Object.assign(new Error("mine"), { code: "ENOSPC" });
    const options: FitOptions = {
      ...{ data: data(), output_dir: temporaryFolder(), max_steps: 3, save_steps: 1, max_length: 16 },
      [name]: bad(mine),
    };
    expect(await rejection(trainer.fit(options))).toBe(mine);
    const { step } = await trainer.step(labelled(PROMPT));
    expect(step).toBe(name === "check_callback" ? 1 : 2);
  });

  test("on_resume, before anything is trained", async () => {
    await using model = await open();
    await using trainer = await Trainer.create(model, TRAINING);
    const mine = new Error("mine");
    const options = {
      data: data(),
      output_dir: temporaryFolder(),
      max_steps: 1,
      max_length: 16,
      resume: true,
    };
    expect(await rejection(trainer.fit({ ...options, on_resume: bad(mine) }))).toBe(mine);
    expect(trainer.steps).toBe(0);
    expect((await trainer.fit(options)).steps).toBe(1);
  });

  test("batches that fail while they are evaluated", async () => {
    await using model = await open();
    await using trainer = await Trainer.create(model, TRAINING);
    const mine = new Error("mine");
    async function* batches() {
      yield labelled(PROMPT);
      await bad(mine)();
    }
    expect(await rejection(trainer.evaluate(batches()))).toBe(mine);
    expect((await trainer.step(labelled(PROMPT))).step).toBe(1);
  });

  test("a merge is given up, and nothing is left of it", async () => {
    const out = join(temporaryFolder(), "merged");
    const mine = new Error("mine");
    await leavesNothing(async () => {
      const merging = mergeAdapter(LLAMA, PEFT_ADAPTER, out, { progress: bad(mine) });
      expect(await rejection(merging)).toBe(mine);
    });
    expect(existsSync(out)).toBe(false);
  });
});

describe("what is no function is refused by name, before anything is done", () => {
  test.each([
    ["progress_callback", () => open({ progress_callback: 5 as never })],
    ["warning_callback", () => open({ warning_callback: "x" as never })],
    [
      "progress",
      () => mergeAdapter(LLAMA, PEFT_ADAPTER, join(temporaryFolder(), "m"), { progress: 5 as never }),
    ],
  ])("%s", async (name, work) => {
    const error = await rejection(work());
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as Error).message).toContain(`${name} must be a function`);
  });

  test("of a trainer and of its runs", async () => {
    await using model = await open();
    for (const name of ["progress_callback", "beforeTransfer", "beforeWrite"])
      expect(await rejection(Trainer.create(model, { ...TRAINING, [name]: 5 }))).toBeInstanceOf(ConfigError);
    await using trainer = await Trainer.create(model, TRAINING);
    const run = { data: "x", output_dir: temporaryFolder() };
    const names = ["on_step", "on_save", "on_resume", "on_save_failed", "check_callback", "warning_callback"];
    for (const name of names) {
      const error = await rejection(trainer.fit({ ...run, [name]: {} }));
      expect((error as Error).message).toContain(`${name} must be a function`);
    }
    const tokenizer = { encode: () => [] } as never;
    expect(await rejection(trainer.fit({ ...run, tokenizer }))).toBeInstanceOf(ConfigError);
  });
});

describe("calls that cross the making of a trainer", () => {
  test("a second trainer is refused; the first one works", async () => {
    await leavesNothing(async () => {
      await using model = await open();
      const made = await Promise.allSettled([
        Trainer.create(model, TRAINING),
        Trainer.create(model, TRAINING),
      ]);
      expect(made.map(({ status }) => status)).toEqual(["fulfilled", "rejected"]);
      const [first, second] = made as [PromiseFulfilledResult<Trainer>, PromiseRejectedResult];
      expect(second.reason).toBeInstanceOf(ConfigError);
      expect((second.reason as Error).message).toMatch(/is being trained/);
      await using trainer = first.value;
      expect((await trainer.step(labelled(PROMPT))).step).toBe(1);
    });
  });

  test("text that is asked for meanwhile comes before or after", async () => {
    await using model = await open();
    const expected = await model.generate({ input_ids: PROMPT, max_new_tokens: 4 });
    const texts: Promise<number[][]>[] = [];
    const ask = () => void texts.push(model.generate({ input_ids: PROMPT, max_new_tokens: 4 }));
    await using _ = await Trainer.create(model, { ...TRAINING, progress_callback: ask });
    expect(texts.length).toBeGreaterThan(1);
    for (const text of await Promise.all(texts)) expect(text).toEqual(expected);
  });

  test("a model that is disposed meanwhile takes the trainer with it", async () => {
    await leavesNothing(async () => {
      const model = await open();
      let disposing: Promise<void> | undefined;
      const dispose = () => {
        disposing ??= model.dispose();
      };
      const trainer = await Trainer.create(model, { ...TRAINING, progress_callback: dispose });
      await disposing;
      expect(await rejection(trainer.step(labelled(PROMPT)))).toBeInstanceOf(DisposedError);
      await trainer.dispose();
    });
    expect(openStateFileCount()).toBe(0);
  });
});
