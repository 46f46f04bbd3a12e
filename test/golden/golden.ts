// Reads what the reference implementation computed for a fixture checkpoint.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { openCheckpoint, readTensor } from "../../src/checkpoint/index.ts";

export const FIXTURES = fileURLToPath(new URL("../fixtures/checkpoints/", import.meta.url));

/** Families whose reference is in the fixtures. */
export const REFERENCES = ["gpt2", "llama", "llama-tied-sharded", "llama3-rope", "llama-yarn", "qwen2"] as const;

export interface GoldenPrompt {
  readonly ids: number[];
  /** 24 greedy tokens. */
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
    prompts.push({ ids, greedy, logits: new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4) });
  }
  return { dir, prompts };
}

/** The largest absolute difference of two arrays of one length. */
export function largestDifference(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let most = 0;
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs((a[i] as number) - (b[i] as number)));
  return most;
}
