// Several models and several calls at once: each is as right as alone, in the order they came, and the event loop is
// free meanwhile.
import { join } from "node:path";
import { expect, test } from "vitest";
import { AutoModelForCausalLM } from "../src/generate/causal-lm.ts";
import type { EngineOptions } from "../src/runtime/open/prepare.ts";
import { expectGolden, expectStillRight, FIXTURES, readGolden } from "./golden/golden.ts";
import { leavesNothing } from "./support/leaks.ts";

const CPU: EngineOptions = { device: "cpu", kv_dtype: "float32", context_length: 256, threads: 1 };

test("three models of different families, one of them opened twice, run at once", async () => {
  const opened = [
    ["gpt2", "disk"],
    ["llama", "cpu"],
    ["llama", "disk"],
    ["qwen2", "disk"],
  ] as const;
  await leavesNothing(async () => {
    await Promise.all(
      opened.map(async ([name, device_map]) => {
        const { dir, prompts } = await readGolden(name);
        await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, device_map });
        await expectGolden(model, prompts, 2e-4);
      }),
    );
  });
});

test.each(["cpu", "disk"] as const)("calls on one model queue, weights on %s", async (device_map) => {
  const { dir, prompts } = await readGolden("llama");
  await leavesNothing(async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, device_map });
    const ended: string[] = [];
    const call = async (name: string, work: () => Promise<unknown>) => {
      await work();
      ended.push(name);
    };
    await Promise.all([
      call("first", () => expectStillRight(model, prompts)),
      call("batch", async () => {
        const input_ids = prompts.map((p) => p.ids);
        const ids = await model.generate({ input_ids, max_new_tokens: 24, ignore_eos: true });
        expect(ids).toEqual(prompts.map((p) => [...p.ids, ...p.greedy]));
      }),
      call("golden", () => expectGolden(model, prompts.slice(0, 1), 2e-4)),
      call("last", () => expectStillRight(model, prompts)),
    ]);
    // "golden" makes a second call once its first has been answered, so it comes back behind "last".
    expect(ended).toEqual(["first", "batch", "last", "golden"]);
  });
});

test("a model can be opened while another one generates", async () => {
  const { dir, prompts } = await readGolden("llama");
  await using first = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, device_map: "disk" });
  const input_ids = [prompts[1]?.ids ?? []];
  const generating = first.generate({ input_ids, max_new_tokens: 24, ignore_eos: true });
  await using second = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "gpt2"), CPU);
  expect(await second.generate({ input_ids: [[1, 2, 3]], max_new_tokens: 1 })).toHaveLength(1);
  expect(await generating).toEqual([[...(prompts[1]?.ids ?? []), ...(prompts[1]?.greedy ?? [])]]);
});

test.each(["cpu", "disk"] as const)("timers fire during generate, weights on %s", async (device_map) => {
  const { dir, prompts } = await readGolden("llama");
  await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, device_map });
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  try {
    await model.generate({ input_ids: [prompts[1]?.ids ?? []], max_new_tokens: 100, ignore_eos: true });
  } finally {
    clearInterval(timer);
  }
  expect(ticks).toBeGreaterThan(0);
});
