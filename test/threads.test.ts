// The number of threads changes no result of a whole model: tokens past the length at which kernels divide a cache among
// threads, prompts, losses and trained weights; and what was used is said.
import { afterEach, describe, expect, test } from "vitest";
import { makeCheckpoint } from "../src/formats/synthetic.ts";
import { fixture, temporaryFolder } from "../src/formats/testing.ts";
import { AutoModelForCausalLM, type CausalLM, Trainer } from "../src/index.ts";

// Few tokens: beside other tests, two threads of a tiny model wait for one another most of the time.
const THREADS = [1, 2, undefined];
const open: CausalLM[] = [];
afterEach(async () => {
  for (const model of open.splice(0)) await model.dispose();
});

async function load(path: string, threads: number | undefined): Promise<CausalLM> {
  const options = { device: "cpu", context_length: 620, ...(threads !== undefined && { threads }) } as const;
  const model = await AutoModelForCausalLM.from_pretrained(path, options);
  open.push(model);
  return model;
}

const ids = (count: number, vocab: number) => Array.from({ length: count }, (_, i) => (i * 37 + 11) % vocab);

describe("the same bits with 1, 2 and an adaptive number of threads", () => {
  test.each([
    ["grouped queries", { num_attention_heads: 4, num_key_value_heads: 2 }],
    ["keys of their own", { num_attention_heads: 4, num_key_value_heads: 4 }],
    ["shared keys", { num_attention_heads: 4, num_key_value_heads: 1 }],
  ])("a long prompt, and tokens after it: %s", async (_, heads) => {
    const { path } = await makeCheckpoint(temporaryFolder(), {
      family: "llama",
      shape: { max_position_embeddings: 1024, ...heads },
    });
    const found = [];
    for (const threads of THREADS) {
      const model = await load(path, threads);
      const input_ids = [ids(530, 100)];
      const { logits } = await model.forward({ input_ids });
      const sequences = await model.generate({ input_ids, max_new_tokens: 4, ignore_eos: true });
      found.push({
        logits: Buffer.from(logits.data.buffer, logits.data.byteOffset, logits.data.byteLength),
        sequences,
      });
    }
    for (const other of found.slice(1)) {
      expect(other.sequences).toEqual(found[0]?.sequences);
      expect(found[0]?.logits.equals(other.logits)).toBe(true);
    }
  });

  test("training", async () => {
    const found = [];
    for (const threads of THREADS) {
      const model = await load(fixture("llama"), threads);
      const trainer = await Trainer.create(model, {
        learning_rate: 1e-2,
        max_length: 64,
        micro_batch_size: 2,
      });
      const batch = { input_ids: [ids(64, 100), ids(64, 90)], labels: [ids(64, 100), ids(64, 90)] };
      const steps = [];
      for (let i = 0; i < 2; i++) steps.push(await trainer.step(batch));
      await trainer.dispose();
      const { logits } = await model.forward({ input_ids: [ids(20, 100)] });
      found.push({
        steps: steps.map(({ loss, grad_norm }) => ({ loss, grad_norm })),
        logits: [...logits.data],
      });
    }
    for (const other of found.slice(1)) expect(other).toEqual(found[0]);
  });
});

describe("statistics", () => {
  test("say which number of threads was used for what, and a fixed one is that", async () => {
    const model = await load(fixture("llama"), 2);
    await model.generate({ input_ids: [ids(9, 100)], max_new_tokens: 4, ignore_eos: true });
    const { threads } = model.statistics();
    expect(threads.map((use) => [use.kind, use.threads, Object.keys(use.seconds)])).toEqual(
      expect.arrayContaining([
        ["prefill", 2, ["2"]],
        ["decode", 2, ["2"]],
      ]),
    );
  });

  test("begin with nothing, and small work with one thread", async () => {
    const model = await load(fixture("llama"), undefined);
    const of = (kind: string) => model.statistics().threads.find((use) => use.kind === kind);
    expect(of("decode")).toBeUndefined();
    await model.generate({ input_ids: [ids(9, 100)], max_new_tokens: 2, ignore_eos: true });
    expect(of("decode")?.seconds[1]).toBeGreaterThan(0);
  });
});
