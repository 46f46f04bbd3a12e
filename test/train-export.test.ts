// What training writes for others to read, where a reader that goes by config.json would take something else for it.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { openCheckpoint, writeSafetensors } from "../src/formats/index.ts";
import { tensorBlocks } from "../src/formats/safetensors/read-tensor.ts";
import { temporaryFolder } from "../src/formats/testing.ts";
import { largestDifference } from "./golden/golden.ts";
import { copyOfFixture } from "./support/checkpoints.ts";
import { CPU, floats, labelled, withTrainer } from "./support/training.ts";

const BATCH = labelled([[5, 6, 7, 8, 9, 10, 11, 12]]);
const json = (path: string) => JSON.parse(readFileSync(path, "utf8"));

/** A model whose config.json ties the head to the embedding, while its file has a head of its own. */
async function apart(tied: boolean | undefined): Promise<string> {
  const dir = copyOfFixture("llama");
  const config = { ...json(join(dir, "config.json")), tie_word_embeddings: tied };
  writeFileSync(join(dir, "config.json"), JSON.stringify(config));
  return dir;
}

test("a head that the file keeps apart is trained apart, and the exported config says so", async () => {
  for (const [tied, expected] of [
    [true, false],
    [false, false],
  ] as const) {
    const dir = await apart(tied);
    const out = join(temporaryFolder(), "out");
    await withTrainer(dir, { trainer: { learning_rate: 1e-2, max_length: 16 } }, async (trainer) => {
      await trainer.step(BATCH);
      await trainer.export(out);
    });
    expect(json(join(out, "config.json")).tie_word_embeddings).toBe(expected);
    const weights = await floats(out);
    const [head, embedding] = ["lm_head.weight", "model.embed_tokens.weight"].map((name) =>
      weights.get(name),
    );
    expect(largestDifference(head as Float32Array, embedding as Float32Array)).toBeGreaterThan(0.01);
  }
});

test("a tie that holds stays one", async () => {
  const dir = await apart(true);
  const { tensors, ...base } = await openCheckpoint(dir);
  const kept = [...tensors.values()].filter(({ name }) => name !== "lm_head.weight");
  const checkpoint = { ...base, tensors };
  const file = join(temporaryFolder(), "model.safetensors");
  await writeSafetensors(
    file,
    kept.map((entry) => ({ ...entry, data: tensorBlocks(checkpoint, entry) })),
  );
  writeFileSync(join(dir, "model.safetensors"), readFileSync(file));
  const out = join(temporaryFolder(), "out");
  await withTrainer(dir, { model: CPU, trainer: { max_length: 16 } }, async (trainer) => {
    await trainer.step(BATCH);
    await trainer.export(out);
  });
  expect(json(join(out, "config.json")).tie_word_embeddings).toBe(true);
  expect([...(await floats(out)).keys()]).not.toContain("lm_head.weight");
});
