// Adapters for tests: with random values large enough to change what a model says.
import { join } from "node:path";
import {
  adapterTensors,
  loraTargets,
  parseLoraConfig,
  savedWeights,
  writeAdapter,
} from "../../src/adapters/index.ts";
import type { FloatDType } from "../../src/backend/ggml/dtypes.ts";
import { readConfigJson } from "../../src/formats/index.ts";
import { encodeFloats } from "../../src/formats/synthetic/floats.ts";
import { temporaryFolder } from "../../src/formats/testing.ts";
import { Xoshiro128 } from "../../src/generate/sampling/random.ts";
import { modelSpec } from "../../src/models/families.ts";
import { FIXTURES } from "../golden/golden.ts";

/** The adapter that PEFT wrote for the llama fixture. */
export const PEFT_ADAPTER = join(FIXTURES, "../adapters/llama");

/** The folder of an adapter for the checkpoint in `base`, with the settings of adapter_config.json in `config`. */
export async function randomAdapter(
  base: string,
  config: Record<string, unknown>,
  { dtype = "f32", seed = 1 }: { dtype?: FloatDType; seed?: number } = {},
): Promise<string> {
  const spec = modelSpec(await readConfigJson(base));
  const parsed = parseLoraConfig(config);
  const random = new Xoshiro128(seed);
  const tensors = adapterTensors(loraTargets(parsed, spec), savedWeights(parsed, spec)).map((tensor) => {
    const count = tensor.shape.reduce((a, b) => a * b, 1);
    const values = Float32Array.from({ length: count }, () => (random.uniform() - 0.5) / 2);
    return { ...tensor, dtype, data: encodeFloats(values, dtype) };
  });
  const dir = temporaryFolder();
  await writeAdapter(dir, parsed, spec, tensors);
  return dir;
}
