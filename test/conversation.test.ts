// A prompt that begins like the text before is read from where the two part: the same text, fewer tokens read.
import { describe, expect, test } from "vitest";
import type { SyntheticOptions } from "../src/formats/synthetic.ts";
import { AutoModelForCausalLM, type CausalLM } from "../src/generate/causal-lm.ts";
import type { EngineOptions } from "../src/runtime/open/prepare.ts";
import { budgetRange, checkpoint } from "./support/checkpoints.ts";
import { leavesNothing } from "./support/leaks.ts";

const CPU: EngineOptions = { device: "cpu", threads: 1 };
const LONG: SyntheticOptions = { family: "llama", dtype: "f32", shape: { max_position_embeddings: 2048 } };

function someIds(count: number, from = 0): number[] {
  return Array.from({ length: count }, (_, i) => ((i + from) * (i + from) * 7 + (i + from) * 31 + 5) % 512);
}

/** Turns of a conversation: each prompt is the text so far and something new. Tokens read and there already, by turn. */
async function converse(model: CausalLM, turns: readonly number[][]) {
  let text: number[] = [];
  const read: number[] = [];
  const reused: number[] = [];
  for (const turn of turns) {
    const before = model.statistics();
    [text] = (await model.generate({
      input_ids: [[...text, ...turn]],
      max_new_tokens: 12,
      ignore_eos: true,
    })) as [number[]];
    const after = model.statistics();
    read.push(after.prefillTokens - before.prefillTokens);
    reused.push(after.reusedTokens - before.reusedTokens);
  }
  return { text, read, reused };
}

const TURNS = [someIds(40), someIds(9, 100), someIds(25, 200), someIds(3, 300)];

describe("turns of a conversation", () => {
  test.each<[string, SyntheticOptions]>([
    ["llama", LONG],
    ["llama in bf16", { ...LONG, dtype: "bf16" }],
    ["gpt2", { family: "gpt2", dtype: "f32" }],
  ])(
    "%s: only what is new is read, and the text is that of a model that reads everything",
    async (_name, made) => {
      const dir = await checkpoint(made);
      await leavesNothing(async () => {
        await using model = await AutoModelForCausalLM.from_pretrained(dir, CPU);
        await using anew = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, prefix_cache: false });
        const said = await converse(model, TURNS);
        const reference = await converse(anew, TURNS);
        expect(said.text).toEqual(reference.text);
        expect(reference.reused).toEqual([0, 0, 0, 0]);
        // The last token of an answer was chosen, not read: it is read with the next turn.
        expect(said.read).toEqual([40, 10, 26, 4]);
        expect(said.read.map((n, i) => n + (said.reused[i] as number))).toEqual(reference.read);
      });
    },
  );

  test("the same prompt once more reads its last token alone; one that parts earlier, from there on", async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(await checkpoint(LONG), CPU);
    const read = async (prompt: number[]) => {
      const before = model.statistics().prefillTokens;
      const [text] = await model.generate({ input_ids: [prompt], max_new_tokens: 4, ignore_eos: true });
      return { text, read: model.statistics().prefillTokens - before };
    };
    const first = await read(someIds(30));
    expect(first.read).toBe(30);
    expect(await read(someIds(30))).toEqual({ text: first.text, read: 1 });
    const other = [...someIds(20), ...someIds(10, 50)];
    expect((await read(other)).read).toBe(10);
  });

  test("streams count too, and one that was left keeps what it had read", async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(await checkpoint(LONG), CPU);
    for await (const piece of model.stream(someIds(30), { max_new_tokens: 8, ignore_eos: true }))
      if (piece.token !== undefined) break;
    const before = model.statistics();
    await model.generate({ input_ids: [someIds(35)], max_new_tokens: 2, ignore_eos: true });
    expect(model.statistics().reusedTokens - before.reusedTokens).toBe(30);
  });
});

describe("what makes it forget", () => {
  test("logits of another text, and several sequences at once", async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(await checkpoint(LONG), CPU);
    const prompt = someIds(30);
    const tell = async () => {
      const before = model.statistics().reusedTokens;
      const [text] = await model.generate({ input_ids: [prompt], max_new_tokens: 4, ignore_eos: true });
      return { text, reused: model.statistics().reusedTokens - before };
    };
    const first = await tell();
    await model.forward({ input_ids: [someIds(8, 5)] });
    expect(await tell()).toEqual({ text: first.text, reused: 0 });
    await model.generate({ input_ids: [someIds(8), someIds(5, 9)], max_new_tokens: 2 });
    expect(await tell()).toEqual({ text: first.text, reused: 0 });
    expect(await tell()).toEqual({ text: first.text, reused: 29 });
  });
});

test("a conversation that outgrows the planned context keeps what of it fits there, within the budget", async () => {
  const dir = await checkpoint(LONG);
  const options = { ...CPU, context_length: 64 };
  const { full } = await budgetRange(dir, options);
  const budget = full + 400_000;
  await using model = await AutoModelForCausalLM.from_pretrained(dir, {
    ...options,
    max_memory: { cpu: budget },
  });
  await using anew = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, prefix_cache: false });
  const said = await converse(model, TURNS);
  expect(said.text).toEqual((await converse(anew, TURNS)).text);
  expect(said.reused.slice(1)).toEqual([51, 64, 64]);
  expect(model.memory().peak.cpu).toBeLessThanOrEqual(budget);
});
