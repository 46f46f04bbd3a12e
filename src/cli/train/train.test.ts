// spillway train from end to end, on a tiny model.
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { liveBufferCount } from "../../backend/ggml/buffer.ts";
import { temporaryFolder } from "../../formats/testing.ts";
import { openFileCount } from "../../memory/io/direct-io.ts";
import { readTrainingLog, type TrainingRecord } from "../../report/training-log.ts";
import { Interruption } from "../io.ts";
import { main } from "../program.ts";
import { type CallOptions, Captured, call, PLAIN, TINY, testIo } from "../testing.ts";

const TEXTS = Array.from({ length: 16 }, (_, i) => ({ text: `The keeper lit the lamp ${i} times.` }));

function setUp(rows: readonly unknown[] = TEXTS) {
  const dir = temporaryFolder();
  const data = join(dir, "rows.jsonl");
  writeFileSync(data, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  const output = join(dir, "out");
  const argv = ["train", TINY, ...PLAIN, "--data", data, "--output", output, "--max-length", "32"];
  return { dir, data, output, argv, log: () => readTrainingLog(join(output, "log.jsonl")) };
}

/** What of a log does not depend on the clock. */
const numbers = (records: readonly TrainingRecord[]) =>
  records.map(({ step, epoch, loss, eval_loss, grad_norm, learning_rate, tokens }) => {
    return { step, epoch, loss, eval_loss, grad_norm, learning_rate, tokens };
  });

let buffers: number;
let files: number;
beforeAll(() => {
  buffers = liveBufferCount();
  files = openFileCount();
});
afterAll(() => {
  expect(liveBufferCount()).toBe(buffers);
  expect(openFileCount()).toBe(files);
});

describe("training", () => {
  test("learns, and leaves checkpoints, logs, a report and a model that runs", async () => {
    const { argv, output, dir, log } = setUp();
    const report = join(dir, "reports", "run.html");
    const { code, stdout, stderr } = await call([
      ...[...argv, "--epochs", "4", "--learning-rate", "1e-3", "--lr-scheduler-type", "linear"],
      ...["--validation-size", "2", "--eval-steps", "2", "--save-steps", "3", "--keep", "1"],
      ...["--report", report, "--logging-steps", "1"],
    ]);
    expect(stderr).not.toContain("error");
    expect({ code, stdout }).toEqual({ code: 0, stdout: "" });
    const records = await log();
    const last = records.at(-1) as TrainingRecord;
    expect(last.loss).toBeLessThan(records[0]?.loss as number);
    expect(last.eval_loss).toBeLessThan(records[1]?.eval_loss as number);
    expect(last.epoch).toBe(4);
    expect(stderr).toContain(`step ${last.step}/${last.step}`); // the steps were counted before the first
    expect(readdirSync(join(output, "checkpoints"))).toEqual([`checkpoint-${last.step}`]);
    expect(readdirSync(output).sort()).toEqual(["checkpoints", "log.jsonl", "model", "tensorboard"]);
    expect(readFileSync(report, "utf8")).toContain("<h2>Result</h2>");
    const trained = [
      "run",
      join(output, "model"),
      "The keeper",
      ...PLAIN,
      "--max-new-tokens",
      "4",
      "--quiet",
    ];
    expect((await call(trained)).code).toBe(0);
  });

  test("with --json says at the end, in one document on stdout, what came out", async () => {
    const { argv, output } = setUp();
    const { code, stdout, stderr } = await call([...argv, "--max-steps", "2", "--quiet", "--json"]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(JSON.parse(stdout)).toMatchObject({
      ...{ steps: 2, interrupted: false, resumed_from: null, best_eval: null, output },
      ...{ checkpoint: join(output, "checkpoints", "checkpoint-2"), exported: join(output, "model") },
      memory: [{ tier: "cpu" }],
      threads: expect.arrayContaining([{ kind: "backward", threads: 1, seconds: { 1: expect.any(Number) } }]),
    });
  });

  test("an adapter comes out as an adapter, and --no-export leaves only checkpoints", async () => {
    const { argv, output } = setUp();
    const lora = ["--max-steps", "1", "--lora-r", "2", "--lora-target-modules", "q_proj,v_proj", "--quiet"];
    expect((await call([...argv, ...lora])).code).toBe(0);
    expect(readdirSync(join(output, "adapter")).sort()).toEqual([
      ".spillway-export.json",
      "adapter_config.json",
      "adapter_model.safetensors",
    ]);
    const other = setUp();
    expect((await call([...other.argv, ...lora, "--no-export"])).code).toBe(0);
    expect(existsSync(join(other.output, "adapter"))).toBe(false);
  });

  test("takes its options from a config file; the command line counts before it", async () => {
    const { dir, data, output, log } = setUp();
    const config = join(dir, "run.json");
    const options = { model: TINY, data, output, max_steps: 9, learning_rate: 1, device: "cpu", threads: 1 };
    writeFileSync(config, JSON.stringify({ ...options, max_length: 16 }));
    const argv = ["train", "--config", config, "--max-steps", "2", "--learning-rate", "2e-4", "--quiet"];
    expect(await call(argv)).toEqual({ code: 0, stdout: "", stderr: "" });
    expect((await log()).map((r) => r.learning_rate)).toEqual([2e-4, 2e-4]);
  });
});

describe("an interrupt", () => {
  const run = ["--max-steps", "6", "--learning-rate", "1e-3", "--lr-scheduler-type", "cosine"];

  test("finishes the step, saves, and exits with 130; with --resume all goes on as if nothing had been", async () => {
    const whole = setUp();
    expect((await call([...whole.argv, ...run, "--quiet"])).code).toBe(0);

    const { argv, output, log } = setUp();
    const controller = new AbortController();
    const stderr = new Captured((text) => {
      if (text.includes("step 2/")) controller.abort(new Interruption("SIGINT"));
    });
    const stdout = new Captured();
    const options: CallOptions = { signal: controller.signal };
    const code = await main(
      [...argv, ...run, "--logging-steps", "1", "--json"],
      testIo(stdout, stderr, options),
    );
    expect(code).toBe(130);
    expect(stderr.text).toMatch(/step 2 is saved; the same command with --resume goes on.*\ninterrupted\n$/);
    expect(JSON.parse(stdout.text)).toMatchObject({ steps: 2, interrupted: true, exported: null });

    const again = await call([...argv, ...run, "--resume", "--quiet", "--json"]);
    expect(JSON.parse(again.stdout)).toMatchObject({ steps: 6, resumed_from: 2, interrupted: false });
    expect(numbers(await log())).toEqual(numbers(await whole.log()));
    const weights = (dir: string) => readFileSync(join(dir, "model", "model.safetensors"));
    expect(weights(output).equals(weights(whole.output))).toBe(true);
  });
});

describe("--plan", () => {
  test("says what it would take, and trains and leaves nothing", async () => {
    const { argv, output } = setUp();
    const { code, stdout } = await call([...argv, "--epochs", "2", "--plan", "--offload-optimizer", "disk"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^plan +budget +planned$/m);
    expect(stdout).toMatch(/^optimizer +disk, updated ahead/m);
    expect(stdout).toMatch(/^disk per step +.* read, .* written$/m);
    expect(stdout).toMatch(/^step +about .* to compute at .*FLOP\/s, .* for the disk at .*\/s/m);
    expect(existsSync(output)).toBe(false);
  });

  test("with --json, in numbers; without data as far as they go", async () => {
    const { output } = setUp();
    const argv = ["train", TINY, ...PLAIN, "--output", output, "--plan", "--json", "--quiet"];
    const { code, stdout } = await call(argv);
    expect(code).toBe(0);
    const plan = JSON.parse(stdout) as { bytes: { cpu: number }; parts: { bytes: number }[] };
    expect(plan).toMatchObject({ device: "cpu", steps: null, homes: { optimizer: "cpu" } });
    expect(plan.parts.reduce((sum, part) => sum + part.bytes, 0)).toBe(plan.bytes.cpu);
  });

  test("what a run then takes at its peak is what was planned, saving included", async () => {
    const { argv } = setUp();
    const homes = ["optimizer", "gradients", "activations"].flatMap((part) => [`--offload-${part}`, "disk"]);
    const { code, stdout } = await call([...argv, "--max-steps", "2", ...homes, "--json", "--quiet"]);
    expect(code).toBe(0);
    const { memory } = JSON.parse(stdout) as { memory: { tier: string; planned: number; peak: number }[] };
    const { planned, peak } = memory.find(({ tier }) => tier === "cpu") as (typeof memory)[number];
    expect(peak / planned).toBeGreaterThan(0.95);
    expect(peak / planned).toBeLessThan(1.05);
  });

  test("what does not fit exits with 3 and the budget that would", async () => {
    const { argv } = setUp();
    const { code, stderr } = await call([...argv, "--max-steps", "1", "--plan", "--quiet", "--cpu", "1MiB"]);
    expect(code).toBe(3);
    expect(stderr).toMatch(/cpu needs at least .*the budget is 1\.0 MiB/);
  });
});

describe("mistakes are told before a model is loaded", () => {
  test.each([
    [[], "no model was named"],
    [[TINY], "--output DIR"],
    [[TINY, "--output", "OUT"], "there is no data"],
    [[TINY, "--data", "DATA", "--output", "OUT", "--max-length", "999"], "the model's 256 positions"],
    [[TINY, "--data", "DATA", "--output", "OUT", "--lora-alpha", "8"], "give lora_r"],
    [[TINY, "--data", "DATA", "--output", "OUT", "--lora-r", "8", "--adapter", "x"], "give one of them"],
    [[TINY, "--data", "DATA", "--output", "OUT", "--export", TINY], "replace the model"],
    [[TINY, "--data", "DATA", "--output", "OUT", "--eval-steps", "2"], "needs held-out data"],
    [[TINY, "--data", "DATA", "--output", "OUT", "--weight-decay", "-1"], "weight_decay is -1"],
    [[TINY, "--data", "DATA", "--output", "OUT", "--warmup-steps", "2", "--warmup-ratio", "0.1"], "twice"],
    [[TINY, "--data", "DATA", "--output", "OUT", "--max-setps", "2"], "Did you mean --max-steps?"],
  ])("%j", async (argv, message) => {
    const { data, output, dir } = setUp();
    const given = argv.map((word) => (word === "DATA" ? data : word === "OUT" ? output : word));
    const { code, stdout, stderr } = await call(["train", ...given]);
    expect(stderr).toContain(message);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).not.toContain("loading");
    expect(readdirSync(dir)).toEqual(["rows.jsonl"]);
  });

  test("a row that cannot be used is named by file and line", async () => {
    const { argv, data } = setUp([...TEXTS, { txet: "x" }]);
    const { code, stderr } = await call([...argv, "--max-steps", "1"]);
    expect(code).toBe(2);
    expect(stderr).toContain(`${data}`);
    expect(stderr).toContain("line 17");
  });

  test("an earlier run in the output", async () => {
    const { argv } = setUp();
    await call([...argv, "--max-steps", "1", "--quiet"]);
    const { code, stderr } = await call([...argv, "--max-steps", "2"]);
    expect(code).toBe(2);
    expect(stderr).toContain("holds an earlier run, up to step 1: resume it");
    expect(stderr).not.toContain("loading");
  });
});
