// Whatever a caller in plain JavaScript gives to a trainer: an error of a class of Spillway's, and a trainer that is as it
// was. Only what the caller's own code throws comes back as it is.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ConfigError, SpillwayError } from "../base/errors.ts";
import { fixture, rejection, temporaryFolder } from "../formats/testing.ts";
import { AutoModelForCausalLM, type CausalLM } from "../generate/causal-lm.ts";
import { ODD, Own } from "../generate/testing-odd.ts";
import { numbers } from "./data/testing.ts";
import { fit } from "./fit/fit.ts";
import { FakeTrainer } from "./testing-fit.ts";
import { Trainer } from "./trainer.ts";

const LLAMA = fixture("llama");
const CPU = { device: "cpu", threads: 1, context_length: 32 } as const;
const BATCH = { input_ids: [[1, 2, 3]], labels: [[1, 2, 3]] };
const LORA = { r: 2, target_modules: ["q_proj"] };

let model: CausalLM;
let trainer: Trainer;
let loss: number;
beforeAll(async () => {
  model = await AutoModelForCausalLM.from_pretrained(LLAMA, CPU);
  trainer = await Trainer.create(model, { max_length: 16, lora: LORA, learning_rate: 0 });
  ({ loss } = await trainer.evaluate([BATCH]));
});
afterAll(async () => {
  await trainer.dispose();
  await model.dispose();
});

/** A folder's name is taken within a folder of the test's own. */
const ownFolder = (name: string, value: unknown) =>
  /_(dir|folder)$/.test(name) && typeof value === "string" && value !== ""
    ? join(temporaryFolder(), value)
    : value;

/** Runs each odd value and lists what was neither fine nor a typed error. */
async function untyped(work: (value: unknown) => unknown, not: readonly string[] = []): Promise<string[]> {
  const wrong: string[] = [];
  for (const [what, value] of Object.entries(ODD)) {
    if (not.includes(what)) continue;
    const error = await rejection((async () => work(value))()).catch(() => undefined);
    if (error === undefined || error instanceof SpillwayError || error instanceof Own) continue;
    if (what === "revoked proxy" && /revoked/.test(String(error))) continue;
    wrong.push(`${what}: ${error instanceof Error ? `${error.name}: ${error.message}` : String(error)}`);
  }
  return wrong;
}

describe("the argument of", () => {
  const step = (batch: unknown, signal?: unknown) => trainer.step(batch as never, signal as never);
  const calls: [string, (value: unknown) => unknown][] = [
    ["step(value)", (v) => step(v)],
    ["step([value])", (v) => step([v])],
    ["step(batch, value)", (v) => step(BATCH, v)],
    ["step({ input_ids: value })", (v) => step({ input_ids: v, labels: v })],
    ["step({ input_ids: [value] })", (v) => step({ input_ids: [v], labels: [v] })],
    ["step({ input_ids: [[value]] })", (v) => step({ input_ids: [[1, v]], labels: [[1, v]] })],
    ["step({ labels: [[value]] })", (v) => step({ input_ids: [[1, 2]], labels: [[1, v]] })],
    ...["positions", "document_ids", "attention_mask"].flatMap(
      (name): [string, (value: unknown) => unknown][] => [
        [`step({ ${name}: value })`, (v) => step({ ...BATCH, [name]: v })],
        [`step({ ${name}: [value] })`, (v) => step({ ...BATCH, [name]: [v] })],
        [`step({ ${name}: [[value]] })`, (v) => step({ ...BATCH, [name]: [[v, v, v]] })],
      ],
    ),
    ["evaluate(value)", (v) => trainer.evaluate(v as never)],
    ["evaluate([value])", (v) => trainer.evaluate([v] as never)],
    ["evaluate(batches, value)", (v) => trainer.evaluate([BATCH], v as never)],
    ["save(value)", (v) => (typeof v === "string" && v ? 0 : trainer.save(v as never))],
    ["resume(value)", (v) => trainer.resume(v as never)],
    ["resume(dir, value)", (v) => trainer.resume("nowhere", v as never)],
    ["export(value)", (v) => (typeof v === "string" && v ? 0 : trainer.export(v as never))],
    ["plan(value)", (v) => trainer.plan(v as never)],
    ["Trainer.create(value)", (v) => Trainer.create(v as never)],
    ["Trainer.create(model, value)", (v) => (v === undefined ? 0 : Trainer.create(model, v as never))],
    ["fit(value)", (v) => trainer.fit(v as never)],
    ["fit(value, options)", (v) => fit(v as never, { data: "missing", output_dir: temporaryFolder() })],
  ];
  test.each(calls)("%s", async (_, call) => {
    expect(await untyped(call)).toEqual([]);
    expect(await trainer.evaluate([BATCH])).toEqual({ loss, tokens: 2 });
  });

  test.each(["meta", "eval_loss", "keep", "keep_best", "signal", "x"])("save: %s", async (name) => {
    const dir = temporaryFolder();
    // Any object is meta, and what its own getters throw is the caller's.
    expect(await untyped((v) => trainer.save(dir, { [name]: v }))).toEqual([]);
  });

  test.each(["dtype", "chat_template", "signal", "x"])("export: %s", async (name) => {
    const call = (v: unknown) => trainer.export(join(temporaryFolder(), "out"), { [name]: v });
    expect(await untyped(call)).toEqual([]);
  });
});

const CREATE =
  "optimizer betas eps momentum weight_decay no_decay max_grad_norm non_finite update_ahead precision offload lora adapter " +
  "micro_batch_size max_length offload_folder seed signal progress_callback beforeTransfer beforeWrite learning_rate " +
  "lr_scheduler_type max_steps warmup_steps warmup_ratio min_lr_ratio";
const FIT =
  "micro_batch_size gradient_accumulation_steps packing append_eos eos_token_id template_options chat_template data " +
  "validation validation_size tokenizer max_length epochs max_steps seed eval_steps save_steps output_dir keep keep_best " +
  "resume accept_data_changes logging on_step on_save on_resume on_save_failed room_beside lock check_callback " +
  "warning_callback signal";

describe("each option of", () => {
  /** What is opened anew: refused before that, the model is as it was. */
  test.each(CREATE.split(" "))("Trainer.create: %s", async (name) => {
    await using fresh = await AutoModelForCausalLM.from_pretrained(LLAMA, CPU);
    const call = async (value: unknown) => {
      const made = await Trainer.create(fresh, {
        max_length: 16,
        lora: LORA,
        [name]: ownFolder(name, value),
      });
      await made.dispose();
    };
    // What can train is loaded anew for each value: a few kinds of values stand for the rest.
    const fine = ["class", "function"];
    expect(await untyped(call, name.endsWith("callback") || name.startsWith("before") ? fine : [])).toEqual(
      [],
    );
  });

  test.each(FIT.split(" "))("fit: %s", async (name) => {
    const dir = temporaryFolder();
    const data = join(dir, "rows.jsonl");
    writeFileSync(data, '{"text": "1 2 3"}\n{"text": "4 5 6"}\n');
    const call = async (value: unknown) => {
      const output_dir = join(temporaryFolder(), "out");
      const base = { data, output_dir, tokenizer: numbers, max_length: 8, packing: false, max_steps: 1 };
      await fit(new FakeTrainer(), { ...base, [name]: ownFolder(name, value) } as never);
    };
    // A class throws its own error when it is called.
    expect(await untyped(call, /^on_|callback$/.test(name) ? ["class"] : [])).toEqual([]);
  });
});

describe("mistakes that people make", () => {
  test("one batch given to evaluate", async () => {
    const error = await rejection(trainer.evaluate(BATCH as never));
    expect(error).toBeInstanceOf(ConfigError);
    expect(String(error)).toMatch(/\[batch\]/);
  });

  test("batches that an error of the caller's ends", async () => {
    const batches = (function* () {
      yield BATCH;
      throw new Own("the caller's own");
    })();
    expect(await rejection(trainer.evaluate(batches))).toBeInstanceOf(Own);
    expect(await trainer.evaluate([BATCH])).toEqual({ loss, tokens: 2 });
  });
});
