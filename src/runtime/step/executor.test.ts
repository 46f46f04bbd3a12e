// The executor walks the stages of a pass: the same bits wherever the weights are, ready for the next pass whatever became
// of the last, and graphs that are built again only where something but the number of tokens differs.
import { afterEach, describe, expect, test, vi } from "vitest";
import { AbortError, IoError } from "../../base/errors.ts";
import { fixture } from "../../formats/testing.ts";
import type { SystemRead } from "../../memory/io/direct-io.ts";
import { systemError } from "../../memory/testing.ts";
import { Engine } from "../engine.ts";
import type { EngineOptions } from "../open/prepare.ts";
import { GraphBuilder } from "./graph-builder.ts";

const CPU: EngineOptions = { device: "cpu", kv_dtype: "float32", threads: 1, context_length: 64 };
const IDS = [5, 99, 200, 3, 511, 42, 8, 17];
/** Two sequences in one pass, side by side in the cache. */
const TWO = [
  { base: 0, past: 0, tokens: IDS },
  { base: 20, past: 0, tokens: IDS.slice(2, 5) },
];
const PLACES = [
  ["all in RAM", { device_map: "cpu" }],
  ["all on disk", { device_map: "disk" }],
  ["some of both", { device_map: { "model.layers.0": "cpu", "model.layers.1": "disk", "": "cpu" } }],
] as const satisfies readonly (readonly [string, EngineOptions])[];

afterEach(() => {
  vi.restoreAllMocks();
});

/** Logits of every token of some sequences, f32 [tokens, vocab]. */
function logits(engine: Engine, sequences: Parameters<Engine["run"]>[0], signal?: AbortSignal) {
  return engine.exclusive(() => engine.allLogits(sequences, signal));
}

async function withEngine<T>(options: EngineOptions, use: (engine: Engine) => Promise<T>): Promise<T> {
  const engine = await Engine.open(fixture("llama"), { ...CPU, ...options });
  try {
    return await use(engine);
  } finally {
    await engine.dispose();
  }
}

test("a pass gives the same bits wherever the weights are", async () => {
  const [reference, ...others] = await Promise.all(
    PLACES.map(([, options]) => withEngine(options, (engine) => logits(engine, TWO))),
  );
  for (const [i, other] of others.entries()) expect(other, PLACES[i + 1]?.[0]).toEqual(reference);
});

test("sequences of a pass do not see one another", async () => {
  await withEngine({}, async (engine) => {
    const together = await logits(engine, TWO);
    const alone = await logits(engine, TWO.slice(1));
    const vocab = engine.prepared.spec.vocab_size;
    const difference = alone.map((x, i) => Math.abs(x - (together[IDS.length * vocab + i] as number)));
    expect(Math.max(...difference)).toBeLessThan(1e-4);
  });
});

test("progress rises to the number of tokens", async () => {
  await withEngine({ device_map: "disk" }, async (engine) => {
    const told: number[] = [];
    await engine.exclusive(() =>
      engine.step(
        TWO,
        "last",
        () => {},
        undefined,
        (n) => told.push(n),
      ),
    );
    expect(told).toEqual(told.toSorted((a, b) => a - b));
    expect(told.at(-1)).toBe(TWO[0]!.tokens.length + TWO[1]!.tokens.length);
    expect(told.length).toBeGreaterThan(engine.prepared.spec.num_layers); // stage by stage
  });
});

describe("after a pass that was not finished the next one starts at the first stage", () => {
  /** Runs a pass that `spoil` ends at its n-th read, for every n there is, and a whole one after each. */
  async function spoiled(spoil: (abort: () => void) => void, expected: new (...args: never[]) => Error) {
    let left = Number.POSITIVE_INFINITY;
    let stop = new AbortController();
    const beforeRead = (_: SystemRead) => {
      if (left-- === 0) spoil(() => stop.abort());
    };
    await withEngine({ device_map: "disk", beforeRead }, async (engine) => {
      const reference = await logits(engine, TWO);
      let ends = 0;
      for (const n of [0, 1, 5, 12]) {
        stop = new AbortController();
        left = n;
        const outcome = await logits(engine, TWO, stop.signal).catch((error: unknown) => error);
        if (outcome instanceof Error) {
          expect(outcome).toBeInstanceOf(expected);
          ends++;
        } else expect(outcome).toEqual(reference); // that read was of the next pass
        left = Number.POSITIVE_INFINITY;
        expect(await logits(engine, TWO)).toEqual(reference);
      }
      expect(ends).toBeGreaterThan(0);
    });
  }

  test("aborted", () => spoiled((abort) => abort(), AbortError));

  test("because a read failed", () =>
    spoiled(() => {
      throw systemError("EIO");
    }, IoError));
});

describe("graphs", () => {
  /** Graphs that were built in each of some passes of one token. */
  async function builtBy(options: EngineOptions): Promise<number[]> {
    return withEngine({ kv_dtype: "float16", ...options }, async (engine) => {
      await engine.run([{ base: 0, past: 0, tokens: IDS }], "last", () => {});
      const build = vi.spyOn(GraphBuilder.prototype, "build");
      const counts: number[] = [];
      for (let i = 0; i < 4; i++) {
        build.mockClear();
        await engine.run([{ base: 0, past: IDS.length + i, tokens: [7] }], "last", () => {});
        counts.push(build.mock.calls.length);
      }
      return counts;
    });
  }

  test("of a token, with all weights resident, are one that is built once and moved on", async () => {
    expect(await builtBy({ device_map: "cpu" })).toEqual([1, 0, 0, 0]);
  });

  test("of stages that stream are built each time: their weights lie elsewhere", async () => {
    const counts = await builtBy({ device_map: "disk" });
    expect(new Set(counts).size).toBe(1);
    expect(counts[0]).toBeGreaterThan(3);
  });
});
