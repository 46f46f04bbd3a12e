// PEFT's adapter on a GPU, wherever the weights are; see gpu.test.ts for which GPUs will do, and for the tolerance.

import { join } from "node:path";
import { expect, test } from "vitest";
import { listDevices } from "../../src/backend/ggml/device.ts";
import { describeUnless, whyNoGpu } from "../../src/base/testing-unproven.ts";
import { openCheckpoint, readTensor } from "../../src/formats/index.ts";
import { AutoModelForCausalLM } from "../../src/generate/causal-lm.ts";
import { PEFT_ADAPTER, randomAdapter } from "../support/adapters.ts";
import { leavesNothing } from "../support/leaks.ts";
import { FIXTURES, largestDifference, readGolden } from "./golden.ts";

process.env.GGML_VK_DISABLE_F16 ??= "1"; // read when the backend is loaded
const gpu = listDevices().find((device) => device.kind === "gpu");
const TOLERANCE = 1e-3;
const HOMES = ["gpu", "cpu", "disk"] as const;

async function logits(dir: string, ids: readonly number[], options: object): Promise<Float32Array> {
  return leavesNothing(async () => {
    const common = {
      ...{ kv_dtype: "float32" as const, context_length: 64, threads: 1, compute: "gpu" as const },
      ...options,
    };
    await using model = await AutoModelForCausalLM.from_pretrained(dir, common);
    const { data } = (await model.forward({ input_ids: [ids] })).logits;
    if (
      model.plan.computeOf.every((site) => site === model.plan.computeOf[0]) &&
      model.plan.compute === "gpu"
    )
      expect(model.memory().entries.find(({ what }) => what === "adapter")?.tier).toBe("gpu");
    return data;
  });
}

describeUnless(whyNoGpu(gpu))("on a GPU", () => {
  const device = gpu?.name ?? "gpu";

  test.each(HOMES)("the reference's logits with weights on %s", async (device_map) => {
    const { dir, prompts } = await readGolden("llama");
    const golden = await readTensor(
      await openCheckpoint(join(dir, "golden.safetensors")),
      "logits.0.adapter",
    );
    const reference = new Float32Array(golden.buffer, golden.byteOffset, golden.byteLength / 4);
    const options = { device, device_map, adapter: PEFT_ADAPTER };
    if (device_map === "cpu") {
      const divided = { "": "cpu", "model.layers.1": "gpu" };
      const said = await logits(dir, prompts[0]!.ids, { ...options, compute: "hybrid", device_map: divided });
      expect(largestDifference(said, reference)).toBeLessThan(TOLERANCE);
    }
    expect(largestDifference(await logits(dir, prompts[0]!.ids, options), reference)).toBeLessThan(TOLERANCE);
  });

  test("weights that are turned round and modules kept whole: the same bits from every tier", async () => {
    const dir = join(FIXTURES, "gpt2");
    const config = { target_modules: "all-linear", modules_to_save: ["wte", "ln_1"] };
    const adapter = await randomAdapter(dir, config, { dtype: "bf16" });
    const ids = [5, 9, 200, 41, 7];
    const results: Float32Array[] = [];
    for (const device_map of HOMES) results.push(await logits(dir, ids, { device, device_map, adapter }));
    for (const result of results) expect(result).toEqual(results[0]);
    const cpu = await logits(dir, ids, { device: "cpu", adapter });
    expect(largestDifference(results[0]!, cpu)).toBeLessThan(TOLERANCE);
  });
});
