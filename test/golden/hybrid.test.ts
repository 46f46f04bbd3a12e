// A GPU and the CPU beside it divide a model: within the reference's tolerance, and with one division the same bits wherever
// the weights are. Left out where no GPU is found; see gpu.test.ts.

import { expect, test } from "vitest";
import { listDevices } from "../../src/backend/ggml/device.ts";
import { describeUnless, whyNoGpu } from "../../src/base/testing-unproven.ts";
import { AutoModelForCausalLM, type CausalLM } from "../../src/generate/causal-lm.ts";
import type { EngineOptions } from "../../src/runtime/open/prepare.ts";
import { leavesNothing } from "../support/leaks.ts";
import { GREEDY_TOKENS, largestDifference, REFERENCES, readGolden } from "./golden.ts";

process.env.GGML_VK_DISABLE_F16 ??= "1"; // as in gpu.test.ts

const gpu = listDevices().find((device) => device.kind === "gpu");

const TOLERANCE = 1e-3;
const GPU: EngineOptions = {
  device: gpu?.name ?? "gpu",
  kv_dtype: "float32",
  context_length: 128,
  threads: 1,
};
const LONGEST = 40;

describeUnless(whyNoGpu(gpu))("on a GPU and the CPU", () => {
  interface Asked {
    readonly logits: Float32Array[];
    readonly tokens: number[][];
    /** Stages that each side computes. */
    readonly gpu: number;
    readonly cpu: number;
  }

  async function ask(
    dir: string,
    options: EngineOptions,
    prompts: readonly (readonly number[])[],
    max_new_tokens = 3,
  ): Promise<Asked> {
    return leavesNothing(async () => {
      await using model: CausalLM = await AutoModelForCausalLM.from_pretrained(dir, { ...GPU, ...options });
      const logits: Float32Array[] = [];
      for (const ids of prompts) logits.push((await model.forward({ input_ids: [ids] })).logits.data);
      const tokens = await model.generate({ input_ids: prompts, max_new_tokens, ignore_eos: true });
      const { peak, budget } = model.memory();
      for (const tier of ["gpu", "cpu"] as const) expect(peak[tier]).toBeLessThanOrEqual(budget[tier]);
      const cpu = model.plan.computeOf.filter((site) => site === 1).length;
      return { logits, tokens, cpu, gpu: model.plan.computeOf.length - cpu };
    });
  }

  const layersOf = (name: string) => (name === "gpt2" ? "transformer.h" : "model.layers");

  test.each(REFERENCES)("%s: what is not on the GPU is computed by the CPU", async (name) => {
    const { dir, prompts: all } = await readGolden(name);
    const prompts = all.filter((p) => p.ids.length <= LONGEST);
    const ids = prompts.map((p) => p.ids);
    const device_map = {
      "": "cpu",
      [`${layersOf(name)}.1`]: "gpu",
      [`${layersOf(name)}.2`]: "disk",
    } as const;
    const said = await ask(dir, { compute: "hybrid", device_map }, ids, GREEDY_TOKENS);
    expect(said.gpu).toBe(2);
    for (const [i, { logits }] of prompts.entries())
      expect(largestDifference(said.logits[i] as Float32Array, logits)).toBeLessThan(TOLERANCE);
    expect(said.tokens).toEqual(prompts.map((p) => [...p.ids, ...p.greedy]));
  });

  test("with one map of devices, the same bits from GPU memory, RAM and disk, and under any budget", async () => {
    const { dir, prompts: all } = await readGolden("llama");
    const ids = all.filter((p) => p.ids.length <= LONGEST).map((p) => p.ids);
    const compute = { "": "gpu", "model.layers.0": "cpu", "model.layers.1.mlp": "cpu", lm_head: "cpu" };
    const first = await ask(dir, { compute }, ids);
    expect(first).toMatchObject({ cpu: 4, gpu: 4 });
    const MiB = 2 ** 20;
    for (const more of [
      { device_map: "cpu" },
      { device_map: "disk" },
      { device_map: { "": "disk", "model.layers.1.self_attn": "gpu", "model.layers.2.mlp": "cpu" } },
      { max_memory: { gpu: 8 * MiB, cpu: 8 * MiB } },
      { device_map: "disk", unitBytes: 20_000 },
    ] as const satisfies EngineOptions[]) {
      const said = await ask(dir, { compute, ...more }, ids);
      expect(said.logits, JSON.stringify(more)).toEqual(first.logits);
      expect(said.tokens).toEqual(first.tokens);
    }
  });

  test("a budget for part of the model: the end of it is computed on the GPU, the rest where it is", async () => {
    const { dir, prompts } = await readGolden("llama-tied-sharded");
    const ids = prompts.filter((p) => p.ids.length <= LONGEST).map((p) => p.ids);
    const everything = await ask(dir, { compute: "hybrid" }, ids);
    expect(everything.cpu).toBe(0);
    await using whole = await AutoModelForCausalLM.from_pretrained(dir, { ...GPU, compute: "hybrid" });
    const needed = whole.plan.bytes.gpu;
    await whole.dispose();
    const part = await ask(dir, { compute: "hybrid", max_memory: { gpu: needed - 100_000 } }, ids);
    expect(part.cpu).toBeGreaterThan(0);
    expect(part.gpu).toBeGreaterThan(0);
    for (const [i, logits] of part.logits.entries())
      expect(largestDifference(logits, everything.logits[i] as Float32Array)).toBeLessThan(TOLERANCE);
  });

  test("auto takes one of the two; what contradicts itself or is not known is refused by name", async () => {
    const { dir, prompts } = await readGolden("llama");
    const ids = prompts.slice(0, 1).map((p) => p.ids);
    const auto = await ask(dir, { device_map: { "": "cpu", "model.layers.1": "gpu" } }, ids);
    expect([0, 6]).toContain(auto.cpu);
    const refused = (options: EngineOptions) =>
      AutoModelForCausalLM.from_pretrained(dir, { ...GPU, ...options });
    await expect(refused({ compute: { "": "gpu", lm_head: "cuda:7" } })).rejects.toThrow(
      /compute\["lm_head"\].*cuda:7/,
    );
    await expect(refused({ compute: { "model.layer.0": "cpu" } })).rejects.toThrow(
      /"model.layer.0" matches no stage/,
    );
    await expect(refused({ compute: { lm_head: "cpu" }, device_map: "gpu" })).rejects.toThrow(
      /lm_head on gpu/,
    );
  });
});

test("where no GPU is used, what compute asks for is said not to count", async () => {
  const { dir } = await readGolden("llama");
  await using model = await AutoModelForCausalLM.from_pretrained(dir, { device: "cpu", compute: "hybrid" });
  expect(model.warnings.join()).toMatch(/compute is not used: everything is computed on the CPU/);
});
