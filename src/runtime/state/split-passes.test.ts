// A text read in several passes, as the turns of a conversation are, against the same text read in one: kernels round by
// the width of a pass, so the logits agree within a tolerance, which depends on the types of weights and cache.
import { expect, onTestFinished, test } from "vitest";
import { makeCheckpoint } from "../../formats/synthetic.ts";
import { temporaryFolder } from "../../formats/testing.ts";
import { Engine } from "../engine.ts";
import type { EngineOptions } from "../open/prepare.ts";

const IDS = Array.from({ length: 120 }, (_, i) => (i * i * 7 + i * 31 + 5) % 256);

/** Where the passes end that come before the last one. */
const CUTS = [[1], [60], [100], [119], [37, 90], IDS.slice(1).map((_, i) => i + 1)];

async function lastLogits(engine: Engine, cuts: readonly number[]): Promise<Float32Array> {
  let found = new Float32Array();
  let past = 0;
  for (const end of [...cuts, IDS.length]) {
    await engine.run([{ base: 0, past, tokens: IDS.slice(past, end) }], "last", (_, logits) => {
      found = Float32Array.from(logits);
    });
    past = end;
  }
  return found;
}

// Largest differences found were a third of these or less, of logits up to 3.
test.each([
  ["float32", "float32", 1e-5],
  ["float16", "float32", 5e-3],
  ["bfloat16", "float32", 3e-2],
  ["float32", "float16", 3e-2],
  ["float16", "float16", 4e-2],
  ["bfloat16", "float16", 1e-1],
] as const)("weights in %s, cache in %s: within %d", async (dtype, kv_dtype, tolerance) => {
  const { path } = await makeCheckpoint(temporaryFolder(), {
    family: "llama",
    dtype: ({ float32: "f32", float16: "f16", bfloat16: "bf16" } as const)[dtype],
    shape: { max_position_embeddings: 256 },
  });
  const options: EngineOptions = { device: "cpu", threads: 1, context_length: 128, kv_dtype };
  const engine = await Engine.open(path, options);
  onTestFinished(() => engine.dispose());
  const whole = await lastLogits(engine, []);
  expect(await lastLogits(engine, []), "the same passes give the same bits").toEqual(whole);
  for (const cuts of CUTS) {
    const split = await lastLogits(engine, cuts);
    const difference = Math.max(...split.map((x, i) => Math.abs(x - (whole[i] as number))));
    expect(difference, `passes that end at ${cuts.slice(0, 3)}`).toBeLessThanOrEqual(tolerance);
  }
});
