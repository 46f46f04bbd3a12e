// The model as people use it. What it computes is held to the reference in test/golden; here: what comes back, and how.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ConfigError } from "../base/errors.ts";
import { fixture, rejection } from "../formats/testing.ts";
import { AutoModelForCausalLM, type CausalLM } from "./causal-lm.ts";
import type { StreamPiece } from "./streaming.ts";
import { TextStreamer } from "./text/text-streamer.ts";

const PROMPT = [286, 442, 272, 264, 474, 285, 458];
let model: CausalLM;
beforeAll(async () => {
  const options = { device: "cpu", threads: 1, context_length: 128, device_map: "disk" } as const;
  model = await AutoModelForCausalLM.from_pretrained(fixture("llama"), options);
});
afterAll(() => model.dispose());

async function collect(pieces: AsyncIterable<StreamPiece>): Promise<StreamPiece[]> {
  const all: StreamPiece[] = [];
  for await (const piece of pieces) all.push(piece);
  return all;
}

test("it knows what it is and where", () => {
  expect(model.path).toBe(fixture("llama"));
  expect(model.config).toMatchObject({ model_type: "llama", hidden_size: 64 });
  expect(model.device).toBe("cpu");
  expect(model.num_parameters).toBe(195_008);
  expect(model.context_length).toBe(128);
  expect(model.device_map["model.layers.0.mlp"]).toBe("disk");
  expect(model.plan.device_map).toBe(model.device_map);
  const { budget, used, peak, entries } = model.memory();
  expect(used.cpu).toBe(entries.reduce((sum, row) => sum + (row.tier === "cpu" ? row.bytes : 0), 0));
  expect(peak.cpu).toBeGreaterThanOrEqual(used.cpu);
  expect(budget.cpu).toBeGreaterThan(peak.cpu);
});

describe("forward", () => {
  test("gives f32 [batch, tokens, vocab], each sequence as if it were alone", async () => {
    const input_ids = [PROMPT, [...PROMPT].reverse()];
    const { dims, data } = (await model.forward({ input_ids })).logits;
    expect(dims).toEqual([2, 7, 512]);
    expect(data).toHaveLength(2 * 7 * 512);
    const second = (await model.forward({ input_ids: input_ids.slice(1) })).logits.data;
    const difference = second.map((x, i) => Math.abs(x - (data[7 * 512 + i] as number)));
    expect(Math.max(...difference)).toBeLessThan(1e-3);
  });

  test("the largest logit of the last token is the greedy choice", async () => {
    const { data } = (await model.forward({ input_ids: [PROMPT] })).logits;
    const last = data.subarray(6 * 512);
    const [ids] = await model.generate({ input_ids: [PROMPT], max_new_tokens: 1, ignore_eos: true });
    expect(ids?.at(-1)).toBe(last.indexOf(Math.max(...last)));
  });
});

describe("generate", () => {
  test("returns prompts and what follows, and leaves the prompts alone", async () => {
    const input_ids = [Object.freeze([...PROMPT]), Object.freeze([7])];
    const ids = await model.generate({ input_ids, max_new_tokens: 4, ignore_eos: true });
    expect(ids.map((row) => row.length)).toEqual([11, 5]);
    expect(ids[0]?.slice(0, 7)).toEqual(PROMPT);
    expect(input_ids[0]).toEqual(PROMPT);
  });

  test("a seed draws the same tokens again, another one others", async () => {
    const draw = (seed: number) =>
      model.generate({ input_ids: [PROMPT], max_new_tokens: 16, do_sample: true, temperature: 2, seed });
    expect(await draw(1)).toEqual(await draw(1));
    expect(await draw(1)).not.toEqual(await draw(2));
  });

  test("ends at the checkpoint's end token, at one that is named, or at none", async () => {
    const options = { input_ids: [PROMPT], max_new_tokens: 12 };
    const [whole = []] = await model.generate({ ...options, ignore_eos: true });
    expect(whole).toHaveLength(19);
    const end = whole[10] as number;
    const cut = whole.slice(0, whole.indexOf(end, 7) + 1);
    expect(await model.generate({ ...options, eos_token_id: end })).toEqual([cut]);
    expect(await model.generate({ ...options, eos_token_id: [end, 3] })).toEqual([cut]);
    expect(await model.generate({ ...options, eos_token_id: end, ignore_eos: true })).toEqual([whole]);
  });

  test("a streamer gets the prompt, then each token as it comes, then the end", async () => {
    const calls: (number[][] | "end")[] = [];
    const streamer = { put: (ids: number[][]) => calls.push(ids), end: () => calls.push("end") };
    const [ids = []] = await model.generate({
      input_ids: [PROMPT],
      max_new_tokens: 3,
      ignore_eos: true,
      streamer,
    });
    expect(calls).toEqual([[PROMPT], ...ids.slice(7).map((id) => [[id]]), "end"]);
    const two = model.generate({ input_ids: [PROMPT, PROMPT], streamer });
    expect(await rejection(two)).toBeInstanceOf(ConfigError);
  });

  test("a TextStreamer makes text of them", async () => {
    const tokenizer = await model.tokenizer();
    let text = "";
    const streamer = new TextStreamer(tokenizer, {
      skip_prompt: true,
      callback_function: (piece) => {
        text += piece;
      },
    });
    const [ids = []] = await model.generate({
      input_ids: [PROMPT],
      max_new_tokens: 9,
      ignore_eos: true,
      streamer,
    });
    expect(text).toBe(tokenizer.decode(ids.slice(7), { skip_special_tokens: true }));
  });

  test("a stop string ends each sequence of a batch where its own text has it", async () => {
    const tokenizer = await model.tokenizer();
    const options = { input_ids: [PROMPT, [7]], max_new_tokens: 10, ignore_eos: true };
    const whole = await model.generate(options);
    const text = tokenizer.decode(whole[0]?.slice(7) ?? [], { skip_special_tokens: true });
    const stop = text.slice(4, 8);
    const [first = [], second = []] = await model.generate({ ...options, stop_strings: [stop] });
    expect(first.length).toBeLessThan(17);
    expect(whole[0]?.slice(0, first.length)).toEqual(first);
    expect(tokenizer.decode(first.slice(7), { skip_special_tokens: true })).toContain(stop);
    expect(whole[1]?.slice(0, second.length)).toEqual(second);
  });
});

describe("stream", () => {
  test("pieces joined are the text, each but the last with its token, the last with the reason", async () => {
    const tokenizer = await model.tokenizer();
    const pieces = await collect(model.stream(PROMPT, { max_new_tokens: 12, ignore_eos: true }));
    const tokens = pieces.flatMap((piece) => piece.token ?? []);
    expect(tokens).toHaveLength(12);
    expect(pieces.map((piece) => piece.text).join("")).toBe(
      tokenizer.decode(tokens, { skip_special_tokens: true }),
    );
    expect(pieces.at(-1)).toMatchObject({ token: undefined, finish_reason: "length" });
    expect(pieces.slice(0, -1).every((piece) => piece.finish_reason === undefined)).toBe(true);
  });

  test("takes text, ids or a conversation", async () => {
    const tokenizer = await model.tokenizer();
    const options = { max_new_tokens: 4, ignore_eos: true };
    const text = await collect(model.stream("Once upon a time", options));
    expect(text).toEqual(await collect(model.stream(tokenizer.encode("Once upon a time"), options)));
    const messages = [{ role: "user", content: "Hello" }];
    const prompt = tokenizer.apply_chat_template(messages, { add_generation_prompt: true });
    const ids = tokenizer.encode(prompt, { add_special_tokens: false });
    expect(await collect(model.stream(messages, options))).toEqual(await collect(model.stream(ids, options)));
  });

  test("a stop string is cut off, and is the reason", async () => {
    const pieces = await collect(model.stream(PROMPT, { max_new_tokens: 12, ignore_eos: true }));
    const text = pieces.map((piece) => piece.text).join("");
    const stop = text.slice(5, 8);
    const cut = await collect(
      model.stream(PROMPT, { max_new_tokens: 12, ignore_eos: true, stop_strings: [stop] }),
    );
    expect(cut.map((piece) => piece.text).join("")).toBe(text.slice(0, text.indexOf(stop)));
    expect(cut.at(-1)?.finish_reason).toBe("stop");
  });

  test("a text that the model has no positions for is refused with numbers, not tokenized to its end", async () => {
    const text = "a".repeat(10_000_000);
    const tooLong =
      /the text of 100000\d\d characters has at least \d+ tokens, the model has positions for 256; shorten it/;
    await expect(collect(model.stream(text))).rejects.toThrow(tooLong);
    await expect(collect(model.stream([{ role: "user", content: text }]))).rejects.toThrow(tooLong);
    await expect(collect(model.stream("the wor ld ".repeat(100)))).rejects.toThrow(
      "has at least 257 tokens, the model has positions for 256",
    );
  });

  test("an error reaches the reader, after what came before it", async () => {
    const stopper = new AbortController();
    const seen: StreamPiece[] = [];
    const reading = (async () => {
      for await (const piece of model.stream(PROMPT, { max_new_tokens: 64, signal: stopper.signal })) {
        seen.push(piece);
        if (seen.length === 2) stopper.abort("enough");
      }
    })();
    await expect(reading).rejects.toMatchObject({ name: "AbortError", cause: "enough" });
    expect(seen.length).toBeGreaterThanOrEqual(2);
    await expect(collect(model.stream([100_000]))).rejects.toThrow(ConfigError);
  });
});

test("counts tokens of prompts and tokens after them", async () => {
  const before = model.statistics();
  await model.generate({ input_ids: [PROMPT, [7]], max_new_tokens: 5, ignore_eos: true });
  const after = model.statistics();
  expect(after.prefillTokens - before.prefillTokens).toBe(8);
  // The first token of each sequence comes with the prompt's pass.
  expect(after.decodeTokens - before.decodeTokens).toBe(2 * 4);
  expect(after.prefillSeconds).toBeGreaterThan(before.prefillSeconds);
  expect(after.decodeSeconds).toBeGreaterThan(before.decodeSeconds);
  expect(after.streamedBytes).toBeGreaterThan(before.streamedBytes);
});
