// The reference implementation's logits and greedy tokens, on the CPU, wherever the weights are.
import { describe, expect, test } from "vitest";
import { AutoModelForCausalLM } from "../../src/generate/causal-lm.ts";
import type { EngineOptions } from "../../src/runtime/open/prepare.ts";
import { budgetRange, weightsByTier } from "../support/checkpoints.ts";
import { leavesNothing } from "../support/leaks.ts";
import { expectGolden, GREEDY_TOKENS, REFERENCES, readGolden } from "./golden.ts";

/** f32 weights, products and cache: only the order of additions differs from the reference. */
const TOLERANCE = 2e-4;
const CPU: EngineOptions = { device: "cpu", kv_dtype: "float32", context_length: 256, threads: 1 };

describe.each(REFERENCES)("%s", (name) => {
  test("with all weights resident", async () => {
    const { dir, prompts } = await readGolden(name);
    await leavesNothing(async () => {
      const options = { ...CPU, device_map: "cpu", threads: 2 } as const;
      await using model = await AutoModelForCausalLM.from_pretrained(dir, options);
      const { cpu, disk } = await weightsByTier(model);
      expect(cpu).toBeGreaterThan(0);
      expect(disk).toBe(0);
      await expectGolden(model, prompts, TOLERANCE);
    });
  });

  test("with weights half in RAM and half on disk", async () => {
    const { dir, prompts } = await readGolden(name);
    const { least, full } = await budgetRange(dir, CPU);
    const budget = Math.floor((least + full) / 2);
    await leavesNothing(async () => {
      await using model = await AutoModelForCausalLM.from_pretrained(dir, {
        ...CPU,
        max_memory: { cpu: budget },
      });
      const { cpu, disk } = await weightsByTier(model);
      expect(cpu).toBeGreaterThan(0);
      expect(disk).toBeGreaterThan(0);
      await expectGolden(model, prompts, TOLERANCE);
      expect(model.memory().peak.cpu).toBeLessThanOrEqual(budget);
    });
  });

  test("with all weights on disk", async () => {
    const { dir, prompts } = await readGolden(name);
    await leavesNothing(async () => {
      await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, device_map: "disk" });
      const { cpu, disk } = await weightsByTier(model);
      expect(cpu).toBe(0);
      expect(disk).toBeGreaterThan(0);
      await expectGolden(model, prompts, TOLERANCE);
      expect(model.statistics().streamedBytes).toBeGreaterThan(disk / 2);
    });
  });

  test.each(["cpu", "disk"] as const)("all prompts in one batch, weights on %s", async (device_map) => {
    const { dir, prompts } = await readGolden(name);
    await leavesNothing(async () => {
      await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, device_map });
      const ids = await model.generate({
        input_ids: prompts.map((p) => p.ids),
        max_new_tokens: GREEDY_TOKENS,
        ignore_eos: true,
      });
      expect(ids).toEqual(prompts.map((p) => [...p.ids, ...p.greedy]));
    });
  });
});
