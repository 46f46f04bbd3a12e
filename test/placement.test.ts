// Placement never changes the result: the same bits of every logit and the same tokens, greedy or drawn, whatever the
// budgets. Not about being right (golden/ is), only about being the same.
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { SyntheticOptions } from "../src/formats/synthetic.ts";
import { temporaryFolder } from "../src/formats/testing.ts";
import { AutoModelForCausalLM, type CausalLM } from "../src/generate/causal-lm.ts";
import type { EngineOptions } from "../src/runtime/open/prepare.ts";
import { FIXTURES } from "./golden/golden.ts";
import {
  budgetRange,
  budgetsBetween,
  checkpoint,
  copyOfFixture,
  weightsByTier,
} from "./support/checkpoints.ts";
import { moveTensors } from "./support/damage.ts";
import { leavesNothing } from "./support/leaks.ts";

const CPU: EngineOptions = { device: "cpu", threads: 1 };

/** `count` ids that are not the same every time they come round. */
function someIds(count: number, vocab = 512): number[] {
  return Array.from({ length: count }, (_, i) => (i * i * 7 + i * 31 + 5) % vocab);
}

/** Everything a model says, as text and bits that can be compared. */
interface Said {
  /** The bits of every logit of every token. */
  readonly logits: Uint8Array;
  readonly greedy: number[][];
  readonly drawn: number[][];
}

async function ask(model: CausalLM, prompt: readonly number[]): Promise<Said> {
  const { data } = (await model.forward({ input_ids: [prompt] })).logits;
  const input_ids = [prompt, prompt.slice(0, 5), prompt.slice(2, 3)];
  const common = { input_ids, max_new_tokens: 6, ignore_eos: true };
  return {
    logits: new Uint8Array(data.buffer),
    greedy: await model.generate(common),
    drawn: await model.generate({ ...common, do_sample: true, temperature: 1.3, top_k: 50, seed: 11 }),
  };
}

/** Opens a model under a placement, asks it, and expects the ledger to have stayed within the budget. */
async function askUnder(dir: string, options: EngineOptions, prompt: readonly number[], budget?: number) {
  return leavesNothing(async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(dir, {
      ...options,
      ...(budget !== undefined && { max_memory: { cpu: budget } }),
    });
    const said = await ask(model, prompt);
    if (budget !== undefined) expect(model.memory().peak.cpu).toBeLessThanOrEqual(budget);
    return { said, weights: await weightsByTier(model, options.unitBytes) };
  });
}

/** The same answers under `count` budgets, and with everything on disk, as with everything resident. */
async function expectSameEverywhere(
  dir: string,
  options: EngineOptions,
  prompt: readonly number[],
  count: number,
): Promise<void> {
  const resident = await askUnder(dir, { ...options, device_map: "cpu" }, prompt);
  expect(resident.weights.disk).toBe(0);
  const shares = new Set<number>();
  for (const budget of budgetsBetween(await budgetRange(dir, options), count)) {
    const { said, weights } = await askUnder(dir, options, prompt, budget);
    expect(weights.disk, `budget ${budget}`).toBeGreaterThan(0);
    expectSame(said, resident.said, `budget ${budget}`);
    shares.add(weights.cpu);
  }
  // The budgets are worth testing only if they lead to different placements.
  expect(shares.size).toBeGreaterThan(count / 2);
  const streamed = await askUnder(dir, { ...options, device_map: "disk" }, prompt);
  expect(streamed.weights.cpu).toBe(0);
  expectSame(streamed.said, resident.said, "everything on disk");
}

function expectSame(said: Said, reference: Said, where: string): void {
  expect(Buffer.compare(said.logits, reference.logits), `logits, ${where}`).toBe(0);
  expect(said.greedy, where).toEqual(reference.greedy);
  expect(said.drawn, where).toEqual(reference.drawn);
}

describe.each(["float16", "float32"] as const)("%s cache", (kv_dtype) => {
  // Transposed weights, grouped heads, a tied head in shards, biases, frequencies that are scaled.
  test.each(["gpt2", "llama", "llama-tied-sharded", "llama3-rope", "llama-yarn", "qwen2"])(
    "%s, 5 budgets and disk",
    async (name) => {
      const options = { ...CPU, kv_dtype, context_length: 256 };
      await expectSameEverywhere(join(FIXTURES, name), options, someIds(23), 5);
    },
  );

  test.each<[string, SyntheticOptions]>([
    ["llama in bf16", { family: "llama", dtype: "bf16" }],
    ["gpt2 in f16", { family: "gpt2", dtype: "f16" }],
    ["gpt2 in bf16, head of its own", { family: "gpt2", dtype: "bf16", tie_word_embeddings: false }],
    ["qwen2 in f16, tied", { family: "qwen2", dtype: "f16", tie_word_embeddings: true, seed: 3 }],
    ["llama in bf16, tied", { family: "llama", dtype: "bf16", tie_word_embeddings: true, seed: 4 }],
    // A head that is most of the model: where it streams, the ring is larger than all the rest.
    ["llama with a large vocabulary", { family: "llama", dtype: "bf16", shape: { vocab_size: 9001 } }],
  ])("%s", async (_what, made) => {
    const options = { ...CPU, kv_dtype, context_length: 256 };
    await expectSameEverywhere(await checkpoint(made), options, someIds(17), 5);
  });
});

describe("prompts longer than what is computed at once", () => {
  const long = { max_position_embeddings: 4096 };
  test.each<[string, number, SyntheticOptions]>([
    ["two chunks", 700, { family: "llama", dtype: "f32", shape: long }],
    ["two chunks in bf16", 513, { family: "llama", dtype: "bf16", shape: long }],
    ["a chunk to the token", 512, { family: "qwen2", dtype: "f16", shape: long }],
    ["gpt2, two chunks", 600, { family: "gpt2", dtype: "f32", shape: { n_positions: 1024 } }],
    ["two passes", 2100, { family: "llama", dtype: "bf16", layers: 2, shape: long }],
  ])("%s", async (_what, tokens, made) => {
    const options = { ...CPU, context_length: tokens + 64 };
    await expectSameEverywhere(await checkpoint(made), options, someIds(tokens), 2);
  });

  test("a prompt in chunks is one prompt: its prefix has the logits it has alone", async () => {
    const dir = await checkpoint({ family: "llama", dtype: "f32", shape: long });
    const ids = someIds(700);
    await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, kv_dtype: "float32" });
    const whole = (await model.forward({ input_ids: [ids] })).logits;
    const prefix = (await model.forward({ input_ids: [ids.slice(0, 100)] })).logits;
    const vocab = whole.dims[2];
    for (let i = 0; i < 100 * vocab; i++) expect(whole.data[i]).toBeCloseTo(prefix.data[i] as number, 4);
  });
});

describe("stages of several units: matrices one by one, the rows of the head in blocks", () => {
  const context = { context_length: 256 };
  test.each<[string, SyntheticOptions, EngineOptions]>([
    ["llama", { family: "llama", dtype: "bf16", shape: { vocab_size: 1000 } }, {}],
    ["llama, tied", { family: "llama", dtype: "f32", tie_word_embeddings: true, seed: 4 }, {}],
    ["qwen2, biases", { family: "qwen2", dtype: "f16", seed: 3 }, { kv_dtype: "float32" }],
    ["gpt2, transposed", { family: "gpt2", dtype: "bf16", tie_word_embeddings: false }, {}],
    ["unpacked as they come", { family: "llama", dtype: "bf16", seed: 6 }, { offload_packed: true }],
  ])("%s", async (_what, made, more) => {
    const dir = await checkpoint(made);
    const folder = more.offload_packed ? { offload_folder: temporaryFolder() } : {};
    const options = { ...CPU, ...context, ...more, ...folder, unitBytes: 20_000 };
    await expectSameEverywhere(dir, options, someIds(23), 5);
    // On the CPU a row of a product does not depend on the others.
    const whole = await askUnder(
      dir,
      { ...CPU, ...context, ...more, ...folder, device_map: "cpu" },
      someIds(23),
    );
    const apart = await askUnder(dir, { ...options, device_map: "cpu" }, someIds(23));
    expectSame(apart.said, whole.said, "units of stages");
  });

  test("a prompt of several chunks and logits of every token", async () => {
    const made: SyntheticOptions = {
      family: "llama",
      dtype: "bf16",
      shape: { max_position_embeddings: 4096, vocab_size: 3000 },
    };
    const options = { ...CPU, context_length: 1200, unitBytes: 20_000 };
    await expectSameEverywhere(await checkpoint(made), options, someIds(1100), 3);
  });

  test("the smallest budget is that of the largest unit", async () => {
    const dir = await checkpoint({ family: "llama", dtype: "bf16", shape: { vocab_size: 9001 } });
    const options = { ...CPU, context_length: 32 };
    const whole = await budgetRange(dir, options);
    const apart = await budgetRange(dir, { ...options, unitBytes: 100_000 });
    const head = 9001 * 64 * 2;
    expect(whole.least - apart.least).toBeGreaterThan(head - 120_000);
  });

  test("a map may name rows of the head and matrices of a stage, as a plan's own does", async () => {
    const dir = await checkpoint({ family: "llama", dtype: "bf16", shape: { vocab_size: 1000 } });
    const options = { ...CPU, ...context, unitBytes: 20_000 };
    const resident = await askUnder(dir, { ...options, device_map: "cpu" }, someIds(9));
    const map = { "": "cpu", "model.layers.1.mlp.up_proj": "disk", "lm_head[128:256]": "disk" };
    await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...options, device_map: map });
    expect(model.device_map).toMatchObject({
      ...{ "model.layers.0.mlp": "cpu", "model.layers.1.mlp.up_proj": "disk" },
      ...{ "model.layers.1.mlp.gate_proj": "cpu", "lm_head[0:128]": "cpu", "lm_head[128:256]": "disk" },
    });
    expectSame(await ask(model, someIds(9)), resident.said, "a map of units");
    const again = await askUnder(dir, { ...options, device_map: model.device_map }, someIds(9));
    expectSame(again.said, resident.said, "the plan's own map");
  });
});

test("a budget that leaves no room for the default context shortens it, not the answer", async () => {
  const dir = await checkpoint({ family: "llama", dtype: "bf16", shape: { max_position_embeddings: 4096 } });
  const prompt = someIds(40);
  const resident = await askUnder(dir, { ...CPU, device_map: "cpu" }, prompt);
  const { least } = await budgetRange(dir, CPU);
  const { said, weights } = await askUnder(dir, CPU, prompt, least);
  expect(weights.disk).toBeGreaterThan(0);
  expectSame(said, resident.said, `budget ${least}`);
});

test("loading everything first and copying it (low_cpu_mem_usage: false) gives the same model", async () => {
  const dir = join(FIXTURES, "llama");
  const prompt = someIds(9);
  const options = { ...CPU, device_map: "cpu" } as const;
  const careful = await askUnder(dir, options, prompt);
  const naive = await askUnder(dir, { ...options, low_cpu_mem_usage: false }, prompt);
  expectSame(naive.said, careful.said, "low_cpu_mem_usage: false");
});

test("tensors that start at odd bytes of their file are read as well as any", async () => {
  const prompt = someIds(12);
  const straight = await askUnder(join(FIXTURES, "gpt2"), { ...CPU, device_map: "cpu" }, prompt);
  for (const spaces of [1, 2, 3, 60]) {
    const dir = copyOfFixture("gpt2");
    moveTensors(dir, spaces);
    for (const device_map of ["cpu", "disk"] as const) {
      const { said } = await askUnder(dir, { ...CPU, device_map }, prompt);
      expectSame(said, straight.said, `${spaces} bytes further on, ${device_map}`);
    }
  }
});

test("device_map may name modules, and the answer stays the same", async () => {
  const dir = join(FIXTURES, "llama");
  const prompt = someIds(9);
  const resident = await askUnder(dir, { ...CPU, device_map: "cpu" }, prompt);
  const map = { "": "cpu", "model.layers.1": "disk", "model.layers.2.mlp": "disk", lm_head: "disk" };
  const { said, weights } = await askUnder(dir, { ...CPU, device_map: map }, prompt);
  expect(weights.cpu).toBeGreaterThan(0);
  expect(weights.disk).toBeGreaterThan(0);
  expectSame(said, resident.said, "a map of modules");
});
