// The reference implementation's logits and greedy tokens on a GPU, wherever the weights are. Where no GPU is found
// they are left out; SPILLWAY_TEST_GPU=1 makes that a failure. Mesa's lavapipe will do:
//   GGML_VK_VISIBLE_DEVICES=0 SPILLWAY_TEST_GPU=1 npx vitest run test/golden/gpu.test.ts

import { expect, test } from "vitest";
import { listDevices } from "../../src/backend/ggml/device.ts";
import { describeUnless, whyNoGpu } from "../../src/base/testing-unproven.ts";
import { AutoModelForCausalLM, type CausalLM } from "../../src/generate/causal-lm.ts";
import type { EngineOptions } from "../../src/runtime/open/prepare.ts";
import { weightsByTier } from "../support/checkpoints.ts";
import { leavesNothing } from "../support/leaks.ts";
import { GREEDY_TOKENS, largestDifference, REFERENCES, readGolden } from "./golden.ts";

// Where a device has halves, ggml's Vulkan kernels take f32 operands through them, whatever precision is asked for:
// errors of 1e-3 per product. Read when the backend is loaded, so it is set before the first device is listed.
process.env.GGML_VK_DISABLE_F16 ??= "1";

const gpu = listDevices().find((device) => device.kind === "gpu");

/** Kernels of GPUs add in another order, and take exponentials and sines from faster formulas than the C library's. */
const TOLERANCE = 1e-3;
const GPU: EngineOptions = {
  device: gpu?.name ?? "gpu",
  kv_dtype: "float32",
  context_length: 128,
  threads: 1,
  compute: "gpu", // what is computed by the CPU beside it is in hybrid.test.ts
};
/** A GPU may be a simulated one: the prompts of 150 tokens are left to the CPU. */
const LONGEST = 40;

describeUnless(whyNoGpu(gpu))("on a GPU", () => {
  /** Opens a model, expects its weights on just these tiers, and asks for the logits and some tokens of each prompt. */
  async function ask(
    dir: string,
    device_map: EngineOptions["device_map"],
    tiers: readonly string[],
    prompts: readonly (readonly number[])[],
    max_new_tokens: number,
    more: EngineOptions = {},
  ): Promise<{ logits: Float32Array[]; tokens: number[][] }> {
    return leavesNothing(async () => {
      await using model: CausalLM = await AutoModelForCausalLM.from_pretrained(dir, {
        ...GPU,
        ...more,
        device_map,
      });
      expect(model.device).toBe(gpu?.name);
      const weights = await weightsByTier(model, more.unitBytes);
      expect((["gpu", "cpu", "disk"] as const).filter((tier) => weights[tier] > 0)).toEqual(tiers);
      const logits: Float32Array[] = [];
      for (const ids of prompts) logits.push((await model.forward({ input_ids: [ids] })).logits.data);
      const tokens = await model.generate({ input_ids: prompts, max_new_tokens, ignore_eos: true });
      return { logits, tokens };
    });
  }

  test("stages of several units, and a head in blocks of rows, from anywhere", async () => {
    const golden = await readGolden("llama-tied-sharded");
    const prompts = golden.prompts.filter((p) => p.ids.length <= LONGEST);
    const ids = prompts.map((p) => p.ids);
    const units = { unitBytes: 20_000 };
    const onGpu = await ask(golden.dir, "gpu", ["gpu"], ids, 3, units);
    for (const [i, { logits }] of prompts.entries())
      expect(largestDifference(onGpu.logits[i] as Float32Array, logits)).toBeLessThan(TOLERANCE);
    const spread = {
      "": "disk",
      "model.layers.0": "gpu",
      "model.layers.1.mlp.up_proj": "cpu",
      lm_head: "cpu",
    };
    for (const device_map of ["cpu", "disk", spread] as const) {
      const tiers = device_map === spread ? ["gpu", "cpu", "disk"] : [device_map as string];
      const said = await ask(golden.dir, device_map, tiers, ids, 3, units);
      expect(said.logits).toEqual(onGpu.logits);
      expect(said.tokens).toEqual(onGpu.tokens);
    }
  });

  test.each(REFERENCES)(
    "%s, weights on the GPU, and the same bits from RAM, disk and all three",
    async (name) => {
      const golden = await readGolden(name);
      const prompts = golden.prompts.filter((p) => p.ids.length <= LONGEST);
      const ids = prompts.map((p) => p.ids);
      const onGpu = await ask(golden.dir, "gpu", ["gpu"], ids, GREEDY_TOKENS);
      for (const [i, { logits }] of prompts.entries()) {
        expect(largestDifference(onGpu.logits[i] as Float32Array, logits)).toBeLessThan(TOLERANCE);
      }
      expect(onGpu.tokens).toEqual(prompts.map((p) => [...p.ids, ...p.greedy]));

      const layers = name === "gpt2" ? "transformer.h" : "model.layers";
      const spread = { "": "disk", [`${layers}.0`]: "gpu", [`${layers}.1`]: "cpu" };
      const few = 3;
      for (const [device_map, tiers] of [
        ["cpu", ["cpu"]],
        ["disk", ["disk"]],
        [spread, ["gpu", "cpu", "disk"]],
      ] as const) {
        const said = await ask(golden.dir, device_map, tiers, ids, few);
        expect(said.logits).toEqual(onGpu.logits);
        expect(said.tokens).toEqual(ids.map((prompt, i) => onGpu.tokens[i]?.slice(0, prompt.length + few)));
      }
    },
  );
});
