import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { CheckpointError, ConfigError } from "../base/errors.ts";
import { readGenerationConfig } from "./generation-config.ts";

describe("readGenerationConfig", () => {
  let dir: string;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), "spillway-generation-"));
  });
  afterEach(() => rm(dir, { recursive: true }));
  const write = (name: string, json: unknown) => writeFile(join(dir, name), JSON.stringify(json));

  test("both files may be absent", async () => {
    expect(await readGenerationConfig(dir)).toEqual({
      bos_token_id: undefined,
      eos_token_ids: [],
      pad_token_id: undefined,
      values: {},
      notes: [],
    });
  });

  test("each id comes from the first file that sets it", async () => {
    await write("generation_config.json", { eos_token_id: [5, 6, 5], bos_token_id: null, temperature: 0.7 });
    await write("config.json", { eos_token_id: 1, bos_token_id: 2, pad_token_id: -1, temperature: 9 });
    expect(await readGenerationConfig(dir)).toEqual({
      bos_token_id: 2,
      eos_token_ids: [5, 6],
      pad_token_id: undefined,
      values: { eos_token_id: [5, 6, 5], bos_token_id: null, temperature: 0.7 },
      notes: [],
    });
  });

  test("the language model inside a larger config", async () => {
    await write("config.json", { text_config: { eos_token_id: 3, pad_token_id: 0 } });
    expect(await readGenerationConfig(dir)).toMatchObject({ eos_token_ids: [3], pad_token_id: 0 });
  });

  test.each([["one"], [1.5], [[1, "two"]], [{}], [true]])("refuses %j as an id", async (id) => {
    await write("generation_config.json", { eos_token_id: id });
    await expect(readGenerationConfig(dir)).rejects.toThrow(ConfigError);
    await expect(readGenerationConfig(dir)).rejects.toThrow(
      "generation_config.json: eos_token_id must be a token id",
    );
  });

  test("without a file of its own, config.json says how to generate, as in older checkpoints", async () => {
    await write("config.json", { eos_token_id: 1, do_sample: true, top_k: 5, hidden_size: 64 });
    expect((await readGenerationConfig(dir)).values).toEqual({ do_sample: true, top_k: 5 });
  });

  test("names a file that is damaged", async () => {
    await writeFile(join(dir, "generation_config.json"), "{");
    await expect(readGenerationConfig(dir)).rejects.toThrow(CheckpointError);
  });
});
