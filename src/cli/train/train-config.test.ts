import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { describe, expect, test } from "vitest";
import { nearest } from "../../base/nearest.ts";
import { temporaryFolder } from "../../formats/testing.ts";
import { trainerSettings } from "../../train/open/options.ts";
import { parseTrainConfig, readTrainConfig } from "./train-config.ts";
import { addTrainOptions, flagsGiven, TRAIN_OPTION_NAMES } from "./train-options.ts";

/** What the command line says. */
function flags(...argv: string[]) {
  const command = addTrainOptions(new Command())
    .exitOverride()
    .configureOutput({ writeErr: () => {} });
  return flagsGiven(command.parse(argv, { from: "user" }));
}

const config = (object: Record<string, unknown>) => parseTrainConfig(object, "run.json").config;

describe("flags", () => {
  test("mean what the same keys mean in a config file", () => {
    expect(
      flags(
        ...["--data", "a.jsonl", "--data", "b,c.jsonl", "--output", "out", "--max-steps", "7"],
        ...["--learning-rate", "3e-4", "--lr-scheduler-type", "cosine", "--betas", "0.9,0.95", "--seed", "0"],
        ...["--no-packing", "--keep-best", "--lora-r", "8", "--lora-target-modules", "q_proj, v_proj"],
        ...["--offload-weights", '{"": "disk"}', "--cpu", "4GiB", "--resume", "--no-export"],
      ),
    ).toEqual(
      config({
        ...{ data: ["a.jsonl", "b,c.jsonl"], output: "out", max_steps: 7, learning_rate: 3e-4 },
        ...{ lr_scheduler_type: "cosine", betas: [0.9, 0.95], seed: 0, packing: false, keep_best: true },
        ...{ lora_r: 8, lora_target_modules: ["q_proj", "v_proj"], offload_weights: { "": "disk" } },
        ...{ cpu: "4GiB", resume: true, export: false },
      }),
    );
  });

  test("nothing given is nothing said: no default may count before the config file", () => {
    expect(flags()).toEqual({});
  });

  test("some have a value or none", () => {
    expect(flags("--resume", "out/checkpoints").resume).toBe("out/checkpoints");
    expect(flags("--export", "result").export).toBe("result");
    expect(flags("--lora-target-modules", "all-linear").lora_target_modules).toBe("all-linear");
  });

  test.each([
    [["--learning-rate", "fast"], "Expected a number"],
    [["--max-steps", "0"], "Expected a whole number above 0"],
    [["--optimizer", "adam"], "Expected one of adamw, adam8bit, sgd"],
    [["--offload-gradients", "gpu"], "Expected one of auto, cpu, disk"],
    [["--betas", "0.9"], "Expected two numbers"],
    [["--cpu", "6G"], 'did you mean "6GiB" or "6GB"?'],
    [["--offload-weights", "{oops"], "Not JSON"],
    [["--lerning-rate", "1"], "Did you mean --learning-rate?"],
  ])("%j", (argv, message) => {
    expect(() => flags(...(argv as string[]))).toThrow(message as string);
  });
});

describe("a config file", () => {
  test("has the model and any option, except those that say what to do now", async () => {
    const path = join(temporaryFolder(), "run.json");
    writeFileSync(path, '{"model": "./m", "data": "rows.jsonl", "no_decay": ["norm", "bias"], "cpu": 1024}');
    expect(await readTrainConfig(path)).toEqual({
      model: "./m",
      config: { data: ["rows.jsonl"], no_decay: ["norm", "bias"], cpu: 1024 },
    });
    for (const key of ["plan", "json", "quiet", "config"]) expect(TRAIN_OPTION_NAMES).not.toContain(key);
  });

  test.each<[Record<string, unknown>, string]>([
    [{ learning_rat: 1 }, 'run.json: "learning_rat" is no option of training; did you mean "learning_rate"?'],
    [{ "lora-r": 8 }, 'did you mean "lora_r"?'],
    [{ "--max-steps": 8 }, 'did you mean "max_steps"?'],
    [{ modle: "x" }, 'did you mean "model"?'],
    [{ bananas: 1 }, "`spillway train --help` lists them"],
    [{ constructor: 1 }, '"constructor" is no option'],
    [{ learning_rate: "1e-4" }, 'learning_rate is "1e-4". Expected a number'],
    [{ max_steps: 2.5 }, "max_steps is 2.5. Expected a whole number above 0"],
    [{ packing: "no" }, 'packing is "no". Expected true or false'],
    [{ data: [] }, "data is []. Expected a path or a list of paths"],
    [{ offload_weights: { a: 1 } }, "Expected a tier, or a tier for each module"],
    [{ cpu: "lots" }, '"lots" is not a size'],
    [{ model: 3 }, "model is 3, expected the directory of a checkpoint"],
  ])("%j", (object, message) => {
    expect(() => parseTrainConfig(object, "run.json")).toThrow(message);
  });

  test("that is missing, or is no object", async () => {
    const dir = temporaryFolder();
    await expect(readTrainConfig(join(dir, "none.json"))).rejects.toThrow("none.json: does not exist");
    writeFileSync(join(dir, "list.json"), "[]");
    await expect(readTrainConfig(join(dir, "list.json"))).rejects.toThrow("is not a JSON object");
  });
});

test("the names that are listed are those the trainer takes", () => {
  for (const optimizer of ["adamw", "adam8bit", "sgd"] as const) {
    expect(flags("--optimizer", optimizer)).toEqual({ optimizer });
    expect(trainerSettings({ optimizer }).identity.optimizer).toBeDefined();
  }
});

describe("the nearest name", () => {
  test.each([
    ["epoch", "epochs"],
    ["esp", "eps"],
    ["max_step", "max_steps"],
    ["gradient_acumulation_step", "gradient_accumulation_steps"],
    ["x", undefined],
    ["", undefined],
  ])("%j: %j", (word, name) => {
    expect(nearest(word, TRAIN_OPTION_NAMES)).toBe(name);
  });
});
