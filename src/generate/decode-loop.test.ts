// The loop from prompts to new ids: when each sequence ends and why, and that neighbours do not touch one another.
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { ConfigError } from "../base/errors.ts";
import { fixture, rejection } from "../formats/testing.ts";
import { Engine } from "../runtime/engine.ts";
import { type DecodeRequest, decode } from "./decode-loop.ts";
import type { SamplingOptions } from "./sampling/sampling.ts";

const PROMPT = [286, 442, 272, 264];
let engine: Engine;
/** What follows {@link PROMPT} greedily, 12 tokens. */
let greedy: number[];

beforeAll(async () => {
  engine = await Engine.open(fixture("llama"), { device: "cpu", threads: 1, context_length: 64 });
  greedy = (await run({ max_new_tokens: 12 })).ids[0]?.slice(PROMPT.length) ?? [];
});
afterAll(() => engine.dispose());

interface Request extends Partial<Omit<DecodeRequest, "sequences">> {
  readonly prompts?: readonly (readonly number[])[];
  readonly max_new_tokens?: number;
  readonly sampling?: SamplingOptions;
}

function run({ prompts = [PROMPT], max_new_tokens = 5, sampling, ...more }: Request, on: Engine = engine) {
  const sequences = prompts.map((prompt, i) => ({
    prompt,
    max_length: prompt.length + max_new_tokens,
    sampling: { do_sample: false, ...sampling, seed: (sampling?.seed ?? 0) + i },
    processors: [],
  }));
  return on.exclusive(() => decode(on, { sequences, eos: [], onToken: () => undefined, ...more }));
}

describe("a sequence ends", () => {
  test("when it is as long as asked", async () => {
    expect(await run({ max_new_tokens: 3 })).toEqual({
      ids: [[...PROMPT, ...greedy.slice(0, 3)]],
      finish: ["length"],
    });
  });

  test("with an end token, which is part of it", async () => {
    const eos = [greedy[2] as number, greedy[4] as number];
    const first = greedy.findIndex((id) => eos.includes(id));
    expect(await run({ eos, max_new_tokens: 10 })).toEqual({
      ids: [[...PROMPT, ...greedy.slice(0, first + 1)]],
      finish: ["eos"],
    });
  });

  test("when the receiver of its tokens says so", async () => {
    const seen: number[] = [];
    const onToken = (_sequence: number, id: number) => seen.push(id) === 4;
    expect(await run({ onToken, max_new_tokens: 10 })).toEqual({
      ids: [[...PROMPT, ...greedy.slice(0, 4)]],
      finish: ["stop"],
    });
    expect(seen).toEqual(greedy.slice(0, 4));
  });

  test("an end token that is also the last one asked for is an end", async () => {
    expect((await run({ eos: [greedy[0] as number], max_new_tokens: 1 })).finish).toEqual(["eos"]);
  });

  test("where the model has no more positions: the last token needs none", async () => {
    for (const length of [254, 256]) {
      const prompt = Array.from({ length }, (_, i) => i);
      const { ids, finish } = await run({ prompts: [prompt], max_new_tokens: 9 });
      expect(ids[0]).toHaveLength(257);
      expect(finish).toEqual(["context"]);
    }
    const last = Array.from({ length: 256 }, (_, i) => i);
    expect((await run({ prompts: [last], max_new_tokens: 1 })).finish).toEqual(["length"]);
  });

  test("when its time is over", async () => {
    const { ids, finish } = await run({ max_new_tokens: 200, max_time: 1e-9 });
    expect({ new: (ids[0]?.length ?? 0) - PROMPT.length, finish }).toEqual({ new: 1, finish: ["time"] });
  });

  test("before it begins, where nothing is asked for", async () => {
    expect(await run({ max_new_tokens: 0 })).toEqual({ ids: [PROMPT], finish: ["length"] });
  });
});

describe("sequences together", () => {
  const prompts = [PROMPT, [7], Array.from({ length: 20 }, (_, i) => 500 - i)];

  test("say what each says alone, though they end at different times", async () => {
    const alone = await Promise.all(prompts.map((p) => run({ prompts: [p], max_new_tokens: 12 })));
    const ends = [3, 12, 6];
    const counts = [0, 0, 0];
    const onToken = (sequence: number) => {
      counts[sequence] = (counts[sequence] ?? 0) + 1;
      return counts[sequence] === ends[sequence];
    };
    const { ids, finish } = await run({ prompts, max_new_tokens: 12, onToken });
    expect(ids).toEqual(prompts.map((p, i) => alone[i]?.ids[0]?.slice(0, p.length + (ends[i] as number))));
    expect(finish).toEqual(["stop", "stop", "stop"]);
  });

  test("drawn, each has a seed of its own, whoever its neighbours are", async () => {
    const sampling = { do_sample: true, temperature: 1.5, seed: 9 };
    const twice = await run({ prompts: [PROMPT, PROMPT], sampling, max_new_tokens: 12 });
    expect(twice.ids[0]).not.toEqual(twice.ids[1]);
    const first = await run({ prompts: [PROMPT], sampling, max_new_tokens: 12 });
    expect(first.ids[0]).toEqual(twice.ids[0]);
    const again = await run({ prompts: [PROMPT, [1, 2]], sampling, max_new_tokens: 12 });
    expect(again.ids[0]).toEqual(twice.ids[0]);
  });
});

test("the prompts are read once, before the first token is chosen", async () => {
  const events: string[] = [];
  await run({
    prompts: [PROMPT, [7]],
    max_new_tokens: 2,
    onPrefill: () => events.push("prefill"),
    onToken: (sequence) => {
      events.push(`token of ${sequence}`);
      return undefined;
    },
  });
  expect(events).toEqual(["prefill", "token of 0", "token of 1", "token of 0", "token of 1"]);
});

test.each<[Request, RegExp]>([
  [{ prompts: [] }, /no sequence/],
  [{ prompts: [[1], []] }, /sequence 1 is empty/],
  [{ prompts: [Array.from({ length: 257 }, () => 1)] }, /sequence 0 has 257 tokens.*positions for 256/],
])("%j is refused", async (wrong, message) => {
  const error = await rejection(run(wrong));
  expect(error).toBeInstanceOf(ConfigError);
  expect(String(error)).toMatch(message);
});

describe("what passes took", () => {
  const prompts = [PROMPT, [7], Array.from({ length: 20 }, (_, i) => 500 - i)];

  test("each token after a sequence's first counts once, whichever sequence ends first", async () => {
    let tokens = 0;
    const left = [3, 12, 1]; // the last prompt ends first
    await run({
      prompts,
      max_new_tokens: 20,
      onToken: (sequence) => --(left as number[])[sequence]! === 0,
      onDecode: (made) => {
        tokens += made;
      },
    });
    expect(tokens).toBe(2 + 11 + 0);
  });

  test("is without the time that who is told of a token takes", async () => {
    vi.useFakeTimers({ toFake: ["performance"] });
    onTestFinished(() => void vi.useRealTimers());
    const seconds = { prefill: 0, decode: 0 };
    await run({
      max_new_tokens: 4,
      onPrompt: (done, total) => void (done === total && vi.advanceTimersByTime(2000)), // within the pass
      onToken: () => void vi.advanceTimersByTime(100_000),
      onPrefill: (_, took) => {
        seconds.prefill += took;
      },
      onDecode: (_, took) => {
        seconds.decode += took;
      },
    });
    expect(seconds).toEqual({ prefill: 2, decode: 0 });
  });
});
