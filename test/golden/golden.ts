// Reads what the reference implementation computed for a fixture checkpoint, and holds a model to it.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import { openCheckpoint, readTensor } from "../../src/formats/index.ts";
import type { CausalLM } from "../../src/generate/causal-lm.ts";

export const FIXTURES = fileURLToPath(new URL("../fixtures/checkpoints/", import.meta.url));

/** Families whose reference is in the fixtures. */
export const REFERENCES = [
  "gpt2",
  "llama",
  "llama-tied-sharded",
  "llama3-rope",
  "llama-yarn",
  "qwen2",
] as const;

/** Tokens that the reference went on for after each prompt. */
export const GREEDY_TOKENS = 24;

export interface GoldenPrompt {
  readonly ids: number[];
  /** {@link GREEDY_TOKENS} greedy tokens. */
  readonly greedy: number[];
  /** f32 [tokens, vocab] */
  readonly logits: Float32Array;
}

export async function readGolden(name: string): Promise<{ dir: string; prompts: GoldenPrompt[] }> {
  const dir = join(FIXTURES, name);
  const golden = JSON.parse(readFileSync(join(dir, "golden.json"), "utf8")) as {
    prompts: { ids: number[]; greedy: number[] }[];
  };
  const tensors = await openCheckpoint(join(dir, "golden.safetensors"));
  const prompts: GoldenPrompt[] = [];
  for (const [i, { ids, greedy }] of golden.prompts.entries()) {
    const bytes = await readTensor(tensors, `logits.${i}`);
    prompts.push({
      ids,
      greedy,
      logits: new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4),
    });
  }
  return { dir, prompts };
}

/** Every prompt by itself: logits within `tolerance`, greedy tokens equal. */
export async function expectGolden(
  model: CausalLM,
  prompts: readonly GoldenPrompt[],
  tolerance: number,
): Promise<void> {
  for (const { ids, greedy, logits } of prompts) {
    const { dims, data } = (await model.forward({ input_ids: [ids] })).logits;
    expect(dims).toEqual([1, ids.length, logits.length / ids.length]);
    expect(largestDifference(data, logits)).toBeLessThan(tolerance);
    const continued = await model.generate({
      input_ids: [ids],
      max_new_tokens: GREEDY_TOKENS,
      ignore_eos: true,
    });
    expect(continued).toEqual([[...ids, ...greedy]]);
  }
}

/** The first prompt's greedy tokens: a quick sign of life for a model that has been through something. */
export async function expectStillRight(model: CausalLM, prompts: readonly GoldenPrompt[]): Promise<void> {
  const { ids, greedy } = prompts[0] as GoldenPrompt;
  const continued = await model.generate({
    input_ids: [ids],
    max_new_tokens: GREEDY_TOKENS,
    ignore_eos: true,
  });
  expect(continued).toEqual([[...ids, ...greedy]]);
}

/** The largest absolute difference of two arrays of one length. */
export function largestDifference(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let most = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs((a[i] as number) - (b[i] as number));
    if (!(difference <= most)) most = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
  }
  return most;
}
