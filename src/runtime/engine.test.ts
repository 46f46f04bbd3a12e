// The engine below generation: sequences, cache rows, and memory that is what was planned.
import { describe, expect, test } from "vitest";
import { ConfigError, DisposedError } from "../base/errors.ts";
import { fixture, rejection } from "../formats/testing.ts";
import { openFileCount } from "../memory/io/direct-io.ts";
import { describeBytes, Engine } from "./engine.ts";
import type { EngineOptions } from "./open/prepare.ts";

const CPU: EngineOptions = { device: "cpu", kv_dtype: "float32", threads: 1 };

/** Logits of each token of a run, by its index in the call. */
async function logitsOf(
  engine: Engine,
  sequences: Parameters<Engine["run"]>[0],
  want: "all" | "last",
): Promise<Map<number, Float32Array>> {
  const found = new Map<number, Float32Array>();
  await engine.run(sequences, want, (token, logits) => found.set(token, logits.slice()));
  return found;
}

describe("sequences", () => {
  const ids = [5, 99, 200, 3, 511, 42, 8, 17];

  test('"all" gives every token, "last" the last one of each sequence, and they agree', async () => {
    const engine = await Engine.open(fixture("llama"), { ...CPU, context_length: 32 });
    const sequences = [
      { base: 0, past: 0, tokens: ids },
      { base: 8, past: 0, tokens: ids.slice(0, 3) },
      { base: 11, past: 0, tokens: [7] },
    ];
    const all = await logitsOf(engine, sequences, "all");
    expect([...all.keys()]).toEqual([...new Array(12).keys()]);
    const last = await logitsOf(engine, sequences, "last");
    expect([...last.keys()]).toEqual([7, 10, 11]);
    for (const [token, logits] of last) {
      const difference = logits.map((x, i) => Math.abs(x - (all.get(token)?.[i] ?? Number.NaN)));
      expect(Math.max(...difference)).toBeLessThan(1e-4);
    }
    await engine.dispose();
  });

  test("token by token, each with its past in the cache, is the prompt at once", async () => {
    const engine = await Engine.open(fixture("gpt2"), { ...CPU, context_length: 32, device_map: "disk" });
    const atOnce = await logitsOf(engine, [{ base: 0, past: 0, tokens: ids }], "all");
    for (const [i, id] of ids.entries()) {
      const step = await logitsOf(engine, [{ base: 20, past: i, tokens: [id] }], "last");
      const difference = step.get(0)?.map((x, j) => Math.abs(x - (atOnce.get(i)?.[j] ?? Number.NaN))) ?? [];
      expect(Math.max(...difference)).toBeLessThan(1e-4);
    }
    await engine.dispose();
  });

  test("rows beyond the cache and positions beyond the model's are refused", async () => {
    const engine = await Engine.open(fixture("llama"), { ...CPU, context_length: 10 });
    const sink = () => {};
    const run = (base: number, past: number, count: number) =>
      rejection(engine.run([{ base, past, tokens: new Array<number>(count).fill(1) }], "last", sink));
    expect(await run(0, 0, 11)).toBeInstanceOf(ConfigError);
    expect(String(await run(4, 4, 3))).toMatch(/row 11 is beyond the KV cache of 10 tokens/);
    expect(String(await run(0, 250, 7))).toMatch(/257 tokens are more than the model's 256 positions/);
    expect(String(await run(0, 0, 0))).toMatch(/a sequence is empty/);
    expect(engine.capacity).toBe(10);
    await engine.ensureCapacity(20);
    expect(engine.capacity).toBe(20);
    await engine.ensureCapacity(5);
    expect(engine.capacity).toBe(20);
    await engine.dispose();
    expect(engine.disposed).toBe(true);
    expect(await run(0, 0, 1)).toBeInstanceOf(DisposedError);
  });

  test("an error in what receives logits ends the run, and the next one is right", async () => {
    const engine = await Engine.open(fixture("llama"), { ...CPU, context_length: 32, device_map: "disk" });
    const sequences = [{ base: 0, past: 0, tokens: ids }];
    const expected = await logitsOf(engine, sequences, "last");
    const failing = engine.run(sequences, "all", (token) => {
      if (token === 3) throw new RangeError("my own mistake");
    });
    await expect(failing).rejects.toThrow("my own mistake");
    expect(await logitsOf(engine, sequences, "last")).toEqual(expected);
    await engine.dispose();
  });
});

test("disposing of it gives everything back though something beside it cannot be, whose error is thrown", async () => {
  const engine = await Engine.open(fixture("llama"), { ...CPU, context_length: 32, device_map: "disk" });
  const files = openFileCount();
  const why = new Error("what trains is stuck");
  engine.attach({ beforeDispose: () => Promise.reject(why) });
  await expect(engine.dispose()).rejects.toBe(why);
  expect(engine.memory().entries).toEqual([]);
  expect(openFileCount()).toBeLessThan(files);
});

describe("memory", () => {
  test.each(["gpt2", "llama", "qwen2"])(
    "%s takes what was planned, however long the prompt",
    async (name) => {
      for (const device_map of ["cpu", "disk"] as const) {
        const engine = await Engine.open(fixture(name), { ...CPU, context_length: 200, device_map });
        const { fixed, ring, bytes } = engine.prepared.plan;
        const before = engine.memory();
        for (const count of [1, 2, 9, 100, 200]) {
          const tokens = Array.from({ length: count }, (_, i) => i);
          await engine.run([{ base: 0, past: 0, tokens }], count === 9 ? "all" : "last", () => {});
        }
        const { entries, used } = engine.memory();
        expect(entries).toEqual(before.entries);
        const taken = Object.fromEntries(entries.map((row) => [row.what, row.bytes]));
        expect(taken).toMatchObject({
          "KV cache": fixed.kv,
          activations: fixed.activations,
          "graph scratch": fixed.scratch,
          ...(ring > 0 && { "streaming ring": ring }),
        });
        expect(used.cpu).toBeLessThanOrEqual(bytes.cpu);
        await engine.dispose();
        expect(engine.memory().entries).toEqual([]);
      }
    },
  );

  test("what streams is read once per pass, and counted", async () => {
    const engine = await Engine.open(fixture("llama"), { ...CPU, context_length: 32, device_map: "disk" });
    const { streamed } = engine.prepared.plan;
    for (let i = 0; i < 4; i++) await engine.run([{ base: 0, past: i, tokens: [1] }], "last", () => {});
    const { streamedBytes, readBytes } = engine.statistics();
    // The ring is filled ahead of the next pass, by less than the model.
    expect(streamedBytes).toBeGreaterThanOrEqual(4 * streamed.disk);
    expect(streamedBytes).toBeLessThan(5 * streamed.disk);
    expect(readBytes).toBeGreaterThanOrEqual(4 * streamed.disk);
    await engine.dispose();
  });

  test("in words", () => {
    expect(describeBytes({ gpu: 0, cpu: 2 ** 30, disk: 512 })).toBe("gpu 0 B, cpu 1.0 GiB, disk 512 B");
  });
});
