import { execFileSync } from "node:child_process";
import { mkdirSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { CheckpointError } from "../../base/errors.ts";
import { cannotProve } from "../../base/testing-unproven.ts";
import { readConfigJson, readJsonIfPresent } from "../index.ts";
import { fixture, rejection, temporaryFolder } from "../testing.ts";
import { LARGE_FILE_LIMIT } from "./json-files.ts";

describe("readConfigJson", () => {
  test("gives the config as it is written", async () => {
    expect(await readConfigJson(fixture("qwen2"))).toMatchObject({
      model_type: "qwen2",
      sliding_window: null,
    });
  });

  test("says what config.json is for when it is missing", async () => {
    const dir = temporaryFolder();
    const error = await rejection(readConfigJson(dir));
    expect(error).toMatchObject({ name: "CheckpointError", file: join(dir, "config.json") });
    expect((error as Error).message).toContain("does not exist: it says which model the weights belong to");
  });
});

describe("readJsonIfPresent", () => {
  test("gives undefined for a file that is not there, and only for that", async () => {
    const dir = temporaryFolder();
    expect(await readJsonIfPresent(dir, "generation_config.json")).toBeUndefined();
    expect(await readJsonIfPresent(fixture("llama"), "generation_config.json")).toHaveProperty(
      "eos_token_id",
      0,
    );
    mkdirSync(join(dir, "config.json"));
    await expect(readJsonIfPresent(dir, "config.json")).rejects.toThrow("is not a regular file");
  });

  test.each([
    ["{", "is not valid JSON"],
    ["", "is not valid JSON"],
    ["[1]", "is not a JSON object"],
    ["null", "is not a JSON object"],
    ['"text"', "is not a JSON object"],
    ["{\xff}", "is not UTF-8 text"],
  ])("refuses %j, naming the file", async (text, message) => {
    const dir = temporaryFolder();
    writeFileSync(join(dir, "generation_config.json"), Buffer.from(text, "latin1"));
    const error = await rejection(readJsonIfPresent(dir, "generation_config.json"));
    expect(error).toBeInstanceOf(CheckpointError);
    expect((error as CheckpointError).file).toBe(join(dir, "generation_config.json"));
    expect((error as CheckpointError).message).toContain(message);
  });

  test("refuses what nests too deeply, and more than a small file may have, unless it is a large one", async () => {
    const dir = temporaryFolder();
    const path = join(dir, "config.json");
    writeFileSync(path, `{"hidden_size": ${"[".repeat(20_000)}${"]".repeat(20_000)}}`);
    await expect(readJsonIfPresent(dir, "config.json")).rejects.toThrow("nests deeper than 128 levels");
    writeFileSync(path, `{"a": "${"a".repeat(17 * 2 ** 20)}"}`);
    await expect(readJsonIfPresent(dir, "config.json")).rejects.toThrow("more than the 16777216");
    expect(await readJsonIfPresent(dir, "config.json", LARGE_FILE_LIMIT)).toHaveProperty("a");
  });

  test("does not wait for a named pipe to be written", async () => {
    if (process.platform === "win32") cannotProve("no named pipes in folders");
    const dir = temporaryFolder();
    execFileSync("mkfifo", [join(dir, "config.json")]);
    await expect(readJsonIfPresent(dir, "config.json")).rejects.toThrow("but a named pipe");
  });

  test("refuses a file too big to be JSON beside weights before reading it", async () => {
    const dir = temporaryFolder();
    const path = join(dir, "config.json");
    writeFileSync(path, "{}");
    truncateSync(path, 2 ** 29);
    await expect(readJsonIfPresent(dir, "config.json")).rejects.toThrow("is 536870912 bytes, more than");
  });
});
