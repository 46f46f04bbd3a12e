// Limits are upper bounds: sequences grow beyond the planned context, as long as the model and the budget have room, and
// what they say does not depend on how the cache was laid out.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { BudgetError } from "../base/errors.ts";
import { fixture, rejection } from "../formats/testing.ts";
import { Engine } from "../runtime/engine.ts";
import type { EngineOptions } from "../runtime/open/prepare.ts";
import { share } from "./cache-rows.ts";
import { decode } from "./decode-loop.ts";

const CPU = { device: "cpu", threads: 1, kv_dtype: "float32" } as const;
const PROMPTS = [[286, 442, 272, 264], [7], Array.from({ length: 20 }, (_, i) => 500 - i)];

function run(engine: Engine, prompts: readonly (readonly number[])[], count: number, ends: number[] = []) {
  const made = prompts.map(() => 0);
  return engine.exclusive(() =>
    decode(engine, {
      sequences: prompts.map((prompt) => ({
        prompt,
        max_length: prompt.length + count,
        sampling: { do_sample: false },
        processors: [],
      })),
      eos: [],
      onToken: (sequence) => {
        made[sequence] = (made[sequence] ?? 0) + 1;
        return made[sequence] === ends[sequence];
      },
    }),
  );
}

async function withEngine<T>(options: EngineOptions, work: (engine: Engine) => Promise<T>): Promise<T> {
  const engine = await Engine.open(fixture("llama"), { ...CPU, ...options });
  try {
    return await work(engine);
  } finally {
    await engine.dispose();
  }
}

let large: Engine;
beforeAll(async () => {
  large = await Engine.open(fixture("llama"), { ...CPU, context_length: 256 });
});
afterAll(() => large.dispose());

describe("beyond the planned context", () => {
  test.each(["cpu", "disk"] as const)("a sequence says the same, weights on %s", async (device_map) => {
    const expected = await run(large, PROMPTS.slice(0, 1), 100);
    await withEngine({ context_length: 8, device_map }, async (engine) => {
      const before = engine.memory().entries;
      expect(await run(engine, PROMPTS.slice(0, 1), 100)).toEqual(expected);
      expect(engine.capacity).toBe(8);
      expect(engine.memory().entries).toEqual(before); // what it grew by is given back
    });
  });

  test("sequences of a batch do, each its own length, and rows of ended ones are used again", async () => {
    const ends = [38, 3, 25];
    // Planned for less than the prompts and for more: they must be laid out anew at different times.
    for (const context_length of [10, 40]) {
      await withEngine({ context_length }, async (engine) => {
        for (const some of [[], ends]) {
          expect(await run(engine, PROMPTS, 40, some)).toEqual(await run(large, PROMPTS, 40, some));
        }
      });
    }
  });

  test("a prompt longer than planned is read", async () => {
    const prompt = Array.from({ length: 200 }, (_, i) => (i * 37) % 512);
    const expected = await run(large, [prompt], 5);
    await withEngine({ context_length: 16 }, async (engine) => {
      expect(await run(engine, [prompt], 5)).toEqual(expected);
    });
  });
});

describe("where the budget ends", () => {
  /** An engine planned for 8 tokens, whose budget has room for `bytes` more. */
  const withRoom = async <T>(bytes: number, work: (engine: Engine) => Promise<T>): Promise<T> => {
    const planned = await withEngine({ context_length: 8 }, async (e) => e.prepared.plan.bytes.cpu);
    return withEngine({ context_length: 8, max_memory: { cpu: planned + bytes } }, work);
  };

  test("a text ends with context, and every token before is what it would be", async () => {
    const [whole = []] = (await run(large, PROMPTS.slice(0, 1), 100)).ids;
    let last = 0;
    for (const bytes of [30_000, 60_000]) {
      await withRoom(bytes, async (engine) => {
        const { ids, finish } = await run(engine, PROMPTS.slice(0, 1), 100);
        expect(finish).toEqual(["context"]);
        expect(ids[0]).toEqual(whole.slice(0, ids[0]?.length));
        expect(ids[0]?.length).toBeGreaterThan(Math.max(8, last));
        last = ids[0]?.length ?? 0;
        const { budget, peak } = engine.memory();
        expect(peak.cpu).toBeLessThanOrEqual(budget.cpu);
        // The model is as it was.
        expect(await run(engine, PROMPTS.slice(0, 1), 100)).toEqual({ ids, finish });
      });
    }
  });

  test("sequences that find no room beside the others go on alone, none is shorter for its neighbours", async () => {
    await withRoom(60_000, async (engine) => {
      const { ids, finish } = await run(engine, PROMPTS, 100);
      expect(finish).toEqual(["context", "context", "context"]);
      for (const [i, prompt] of PROMPTS.entries()) {
        expect(ids[i]?.length).toBeGreaterThan(60);
        expect(ids[i]).toEqual((await run(large, [prompt], 100)).ids[0]?.slice(0, ids[i]?.length));
      }
    });
  });

  test("a prompt that does not fit is refused with the numbers and a way out", async () => {
    await withRoom(0, async (engine) => {
      const error = await rejection(run(engine, [new Array<number>(200).fill(1)], 1));
      expect(error).toBeInstanceOf(BudgetError);
      expect(String(error)).toMatch(/room for 8 tokens and 200 are needed: .*--context-length/);
      expect((await run(engine, [[7]], 1)).finish).toEqual(["length"]);
    });
  });
});

describe("share", () => {
  const layout = (most: number[], needed: number[], capacity: number) => {
    const sequences = most.map((m) => ({ base: -1, rows: -1, past: 0, most: m }));
    share(sequences, needed, capacity);
    return sequences.map(({ base, rows }) => [base, rows]);
  };
  test("gives each what it needs and equal parts of the rest", () => {
    expect(layout([100, 100], [10, 20], 50)).toEqual([
      [0, 20],
      [20, 30],
    ]);
  });
  test("what one cannot use goes to the others", () => {
    expect(layout([100, 22, 100], [10, 20, 10], 80)).toEqual([
      [0, 29],
      [29, 22],
      [51, 29],
    ]);
  });
});
