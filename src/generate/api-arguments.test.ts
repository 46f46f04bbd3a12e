// Whatever a caller in plain JavaScript gives: an error of a class of Spillway's that names it, and a model that is as it was.
// Only what the caller's own code throws comes back as it is.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ConfigError, SpillwayError } from "../base/errors.ts";
import { fixture, rejection } from "../formats/testing.ts";
import * as spillway from "../index.ts";
import type { CausalLM } from "./causal-lm.ts";
import { ODD, Own, thrower } from "./testing-odd.ts";

const LLAMA = fixture("llama");
const CPU = { device: "cpu", threads: 1, context_length: 32 } as const;

let model: CausalLM;
let greedy: number[][];
beforeAll(async () => {
  model = await spillway.AutoModelForCausalLM.from_pretrained(LLAMA, CPU);
  greedy = await model.generate({ input_ids: [[1, 2]], max_new_tokens: 3 });
});
afterAll(() => model.dispose());

/** Runs each odd value and lists what was neither fine nor a typed error. */
async function untyped(work: (value: unknown) => unknown): Promise<string[]> {
  const wrong: string[] = [];
  for (const [what, value] of Object.entries(ODD)) {
    const error = await rejection((async () => work(value))()).catch(() => undefined);
    // A revoked proxy throws its own TypeError wherever it is touched.
    if (error === undefined || error instanceof SpillwayError || error instanceof Own) continue;
    if (what === "revoked proxy" && /revoked/.test(String(error))) continue;
    wrong.push(`${what}: ${error instanceof Error ? `${error.name}: ${error.message}` : String(error)}`);
  }
  return wrong;
}

type Odd = Record<string, unknown>;
const generate = (options: unknown) => model.generate(options as Parameters<CausalLM["generate"]>[0]);
async function stream(prompt: unknown, options?: unknown): Promise<void> {
  for await (const _ of model.stream(prompt as string, options as Odd)) break;
}
const open = async (dir: unknown, options?: unknown) => {
  const opened = await spillway.AutoModelForCausalLM.from_pretrained(dir as string, options as Odd);
  await opened.dispose();
};

describe("the argument of", () => {
  const calls: [string, (value: unknown) => unknown][] = [
    ["from_pretrained(value)", (v) => open(v)],
    ["from_pretrained(dir, value)", (v) => (v === undefined ? undefined : open(LLAMA, v))],
    ["generate(value)", generate],
    ["generate({ input_ids: value })", (v) => generate({ input_ids: v, max_new_tokens: 1 })],
    ["generate({ input_ids: [value] })", (v) => generate({ input_ids: [v], max_new_tokens: 1 })],
    ["generate({ input_ids: [[value]] })", (v) => generate({ input_ids: [[v]], max_new_tokens: 1 })],
    ["forward(value)", (v) => model.forward(v as { input_ids: number[][] })],
    ["forward({ input_ids: value })", (v) => model.forward({ input_ids: v as number[][] })],
    ["stream(value)", (v) => stream(v, { max_new_tokens: 1 })],
    ["stream([value])", (v) => stream([v], { max_new_tokens: 1 })],
    ["stream(ids, value)", (v) => (v === undefined ? undefined : stream([1], v))],
    ["AutoTokenizer.from_pretrained(value)", (v) => spillway.AutoTokenizer.from_pretrained(v as string)],
    ["new TextStreamer(value)", (v) => new spillway.TextStreamer(v as never).put([[1]])],
  ];
  test.each(calls)("%s", async (_, call) => {
    expect(await untyped(call)).toEqual([]);
    expect(await generate({ input_ids: [[1, 2]], max_new_tokens: 3 })).toEqual(greedy);
  });
});

describe("each option of", () => {
  const GENERATE =
    "do_sample temperature top_h top_k top_p min_p typical_p epsilon_cutoff eta_cutoff repetition_penalty " +
    "encoder_repetition_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size sequence_bias bad_words_ids min_length " +
    "min_new_tokens max_length max_new_tokens max_time forced_bos_token_id forced_eos_token_id remove_invalid_values " +
    "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens stop_strings renormalize_logits num_beams " +
    "num_return_sequences guidance_scale eos_token_id pad_token_id ignore_eos seed signal streamer";
  test.each(GENERATE.split(" "))("generate: %s", async (name) => {
    const call = (value: unknown) =>
      generate({ input_ids: [[1, 2]], max_new_tokens: 2, do_sample: true, [name]: value });
    expect(await untyped(call)).toEqual([]);
  });

  const OPEN =
    "adapter dtype torch_dtype device device_map max_memory kv_dtype context_length offload_folder offload_packed " +
    "low_cpu_mem_usage threads progress_callback warning_callback signal";
  test.each(OPEN.split(" "))("from_pretrained: %s", async (name) => {
    // What the caller's own function throws is the caller's: a class throws when it is called.
    const call = (value: unknown) =>
      value === ODD.class && name.endsWith("_callback") ? undefined : open(LLAMA, { ...CPU, [name]: value });
    expect(await untyped(call)).toEqual([]);
  });

  test("from_pretrained: values within max_memory and device_map", async () => {
    expect(await untyped((value) => open(LLAMA, { ...CPU, max_memory: { cpu: value } }))).toEqual([]);
    expect(await untyped((value) => open(LLAMA, { ...CPU, device_map: { "": value } }))).toEqual([]);
  });
});

describe("the tokenizer", () => {
  test("takes no odd value without a word", async () => {
    const t = await model.tokenizer();
    const calls: ((v: unknown) => unknown)[] = [
      (v) => t.encode(v as string),
      (v) => t.encode("x", v as Odd),
      (v) => t.decode(v as number[]),
      (v) => t.decode([v as number]),
      (v) => t.decode([1], v as Odd),
      (v) => t(v as string),
      (v) => t([v as string]),
      (v) => t.id_to_token(v as number),
      (v) => t.token_to_id(v as string),
    ];
    for (const call of calls) expect(await untyped(call)).toEqual([]);
  });
});

describe("mistakes that people make", () => {
  test.each<[Odd, RegExp]>([
    [{ max_tokens: 3 }, /max_tokens is no option of generate; it is called max_new_tokens here/],
    [{ stop: ["a"] }, /stop is no option of generate; it is called stop_strings here/],
    [{ temprature: 1 }, /did you mean temperature\?/],
    [{ num_beams: 4 }, /num_beams: 4 cannot be done/],
    [{ eos_token_id: [5, "6"] }, /eos_token_id must be a token id or a list of them, got \[5, "6"\]/],
    [{ max_length: 2 }, /max_length is 2 and prompt 0 has 2 tokens/],
  ])("generate with %j", async (wrong, message) => {
    const error = await rejection(generate({ input_ids: [[1, 2]], ...wrong }));
    expect(error).toBeInstanceOf(ConfigError);
    expect(String(error)).toMatch(message);
  });

  test("text is for stream", async () => {
    expect(String(await rejection(generate("hello")))).toMatch(
      /model\.stream\(prompt\).*model\.tokenizer\(\)/,
    );
  });

  test("a budget that is misspelt is not no budget", async () => {
    const error = await rejection(open(LLAMA, { max_memmory: { cpu: "1MiB" } }));
    expect(error).toBeInstanceOf(ConfigError);
    expect(String(error)).toContain("did you mean max_memory?");
  });

  test("torch_dtype is dtype's older name", async () => {
    await open(LLAMA, { ...CPU, torch_dtype: "torch.float16" });
    const both = await rejection(open(LLAMA, { ...CPU, torch_dtype: "float16", dtype: "float32" }));
    expect(String(both)).toMatch(/give one of them/);
  });
});

describe("callbacks of the caller that throw", () => {
  test.each([
    ["put", { put: thrower, end: () => {} }],
    ["an asynchronous put", { put: async () => thrower(), end: () => {} }],
    ["end", { put: () => {}, end: thrower }],
  ])("%s: the error is the caller's, the model usable", async (_, streamer) => {
    expect(await rejection(generate({ input_ids: [[1, 2]], streamer }))).toBeInstanceOf(Own);
    expect(await generate({ input_ids: [[1, 2]], max_new_tokens: 3 })).toEqual(greedy);
  });

  test("the end of a loop over a stream", async () => {
    const reading = (async () => {
      for await (const _ of model.stream([1, 2])) thrower();
    })();
    expect(await rejection(reading)).toBeInstanceOf(Own);
    expect(await generate({ input_ids: [[1, 2]], max_new_tokens: 3 })).toEqual(greedy);
  });
});
