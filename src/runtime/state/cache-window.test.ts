// Graphs that are moved on from token to token against graphs built anew: the same logits, bit for bit.
import { afterEach, beforeEach, describe, expect, type MockInstance, onTestFinished, test, vi } from "vitest";
import { makeCheckpoint } from "../../formats/synthetic.ts";
import { fixture, temporaryFolder } from "../../formats/testing.ts";
import { Engine } from "../engine.ts";
import type { EngineOptions } from "../open/prepare.ts";
import { CachedAttention } from "../step/attention.ts";
import type { SequenceInput } from "../step/chunks.ts";
import { GraphBuilder } from "../step/graph-builder.ts";

const CPU: EngineOptions = { device: "cpu", device_map: "cpu", threads: 1, context_length: 96 };
const ADAPTER = fixture("../adapters/llama");

let builds: MockInstance<GraphBuilder["build"]>;
beforeEach(() => {
  builds = vi.spyOn(GraphBuilder.prototype, "build");
});
afterEach(() => {
  builds.mockRestore();
});

async function open(dir: string, options: EngineOptions): Promise<Engine> {
  const engine = await Engine.open(dir, options);
  onTestFinished(() => engine.dispose());
  return engine;
}

const id = (i: number) => (i * 37 + 11) % 256;
const ids = (first: number, count: number) => Array.from({ length: count }, (_, i) => id(first + i));

/** Logits of each sequence's last token, as bytes. */
async function run(engine: Engine, ...sequences: SequenceInput[]): Promise<Buffer[]> {
  const found: Buffer[] = [];
  await engine.run(sequences, "last", (_, logits) => {
    expect(logits.every(Number.isFinite)).toBe(true);
    found.push(Buffer.from(logits.slice().buffer));
  });
  return found;
}

/** A run whose graphs are all built: another graph came before. `spare`: a cache row that is not used otherwise. */
async function runAnew(engine: Engine, spare: number, ...sequences: SequenceInput[]): Promise<Buffer[]> {
  await run(engine, { base: spare, past: 0, tokens: [1, 2] });
  const before = builds.mock.calls.length;
  const found = await run(engine, ...sequences);
  expect(builds.mock.calls.length).toBeGreaterThan(before);
  return found;
}

/** Steps of single tokens after a prompt on two engines, one of which builds every graph. Returns the builds of the other. */
async function compare(dir: string, options: EngineOptions, prompt: number, steps: number): Promise<number> {
  const moved = await open(dir, options);
  const anew = await open(dir, options);
  const spare = (options.context_length as number) - 2;
  for (const engine of [moved, anew]) await run(engine, { base: 3, past: 0, tokens: ids(0, prompt) });
  let built = 0;
  for (let past = prompt; past < prompt + steps; past++) {
    const sequence = { base: 3, past, tokens: [id(past)] };
    const before = builds.mock.calls.length;
    const found = await run(moved, sequence);
    built += builds.mock.calls.length - before;
    expect(found, `token ${past}`).toEqual(await runAnew(anew, spare, sequence));
  }
  return built;
}

describe("one graph for all tokens after the prompt", () => {
  test.each(
    ["llama", "llama3-rope", "gpt2", "qwen2"].flatMap((name) => [
      [name, "float16"] as const,
      [name, "float32"] as const,
    ]),
  )("%s, %s cache", async (name, kv_dtype) => {
    expect(await compare(fixture(name), { ...CPU, kv_dtype }, 5, 40)).toBe(1);
  });

  test("past the length at which kernels divide a cache between threads", async () => {
    const { path } = await makeCheckpoint(temporaryFolder(), {
      family: "llama",
      shape: { max_position_embeddings: 1024 },
    });
    expect(await compare(path, { ...CPU, threads: 2, context_length: 600 }, 500, 24)).toBe(1);
  });

  test("of layers that see a window of the tokens before", async () => {
    const { attend } = CachedAttention.prototype;
    const windowed = vi.spyOn(CachedAttention.prototype, "attend");
    onTestFinished(() => windowed.mockRestore());
    windowed.mockImplementation(function (this: CachedAttention, g, layer, q, k, v, spec) {
      const window = this.tokens === 1 && layer % 2 === 0 ? 6 : undefined;
      return attend.call(this, g, layer, q, k, v, { ...spec, window });
    });
    expect(await compare(fixture("llama"), CPU, 3, 20)).toBe(1);
  });

  test("with an adapter", async () => {
    expect(await compare(fixture("llama"), { ...CPU, adapter: ADAPTER }, 5, 10)).toBe(1);
  });

  test("of several sequences, until one of them ends", async () => {
    const moved = await open(fixture("llama"), CPU);
    const anew = await open(fixture("llama"), CPU);
    const bases = [0, 30, 50];
    const pasts = [7, 3, 1];
    const prompts = bases.map((base, i) => ({ base, past: 0, tokens: ids(i, pasts[i] as number) }));
    for (const engine of [moved, anew]) await run(engine, ...prompts);
    builds.mockClear();
    let built = 0;
    for (let step = 0; step < 12; step++) {
      const live = step < 6 ? [0, 1, 2] : [0, 2];
      const sequences = live.map((i) => ({
        base: bases[i] as number,
        past: (pasts[i] as number) + step,
        tokens: [id(step * 3 + i)],
      }));
      const before = builds.mock.calls.length;
      const found = await run(moved, ...sequences);
      built += builds.mock.calls.length - before;
      expect(found).toHaveLength(live.length);
      expect(found, `step ${step}`).toEqual(await runAnew(anew, 90, ...sequences));
    }
    expect(built).toBe(2);
  });
});

describe("a graph is built again where more than the tokens in the cache differs", () => {
  test("another prompt, and back", async () => {
    const engine = await open(fixture("llama"), CPU);
    const [a, b] = [
      { base: 0, tokens: ids(0, 9) },
      { base: 40, tokens: ids(100, 4) },
    ];
    const expected: Buffer[][] = [];
    for (const { base, tokens } of [a, b]) {
      await run(engine, { base, past: 0, tokens });
      for (const i of [0, 1]) {
        expected.push(await runAnew(engine, 90, { base, past: tokens.length + i, tokens: [id(i)] }));
      }
    }
    for (const { base, tokens } of [a, b]) await run(engine, { base, past: 0, tokens });
    const found: Buffer[][] = [];
    for (const i of [0, 1]) {
      for (const { base, tokens } of [a, b]) {
        found.push(await run(engine, { base, past: tokens.length + i, tokens: [id(i)] }));
      }
    }
    expect([found[0], found[2], found[1], found[3]]).toEqual(expected);
  });

  test("a token again, and one before it", async () => {
    const engine = await open(fixture("llama"), CPU);
    await run(engine, { base: 0, past: 0, tokens: ids(0, 6) });
    const at = (past: number) => run(engine, { base: 0, past, tokens: [id(past)] });
    const [six, seven, eight] = [await at(6), await at(7), await at(8)];
    expect([await at(6), await at(6), await at(8), await at(7)]).toEqual([six, six, eight, seven]);
  });

  test("a cache that grew", async () => {
    const engine = await open(fixture("llama"), { ...CPU, context_length: 16 });
    const decode = async () => {
      const logits = [await run(engine, { base: 0, past: 0, tokens: ids(0, 8) })];
      for (let past = 8; past < 14; past++) logits.push(await run(engine, { base: 0, past, tokens: [3] }));
      return logits;
    };
    const before = await decode();
    await engine.exclusive(() => engine.ensureCapacity(200));
    builds.mockClear();
    await run(engine, { base: 0, past: 0, tokens: [5] }); // one token, as in the graph from before
    expect(builds).toHaveBeenCalledTimes(1);
    expect(await decode()).toEqual(before);
  });

  test("an adapter that comes and goes", async () => {
    const plain = await open(fixture("llama"), CPU);
    const adapted = await open(fixture("llama"), { ...CPU, adapter: ADAPTER });
    const token = { base: 0, past: 0, tokens: [9] };
    const [without, having] = [await run(plain, token), await run(adapted, token)];
    expect(without).not.toEqual(having);
    const { executor } = adapted.parts;
    const { adapter } = executor;
    executor.adapter = undefined;
    expect(await run(adapted, token)).toEqual(without);
    executor.adapter = adapter;
    expect(await run(adapted, token)).toEqual(having);
  });

  test("scratch memory that somebody else used", async () => {
    const engine = await open(fixture("llama"), CPU);
    const token = { base: 0, past: 0, tokens: [9] };
    const first = await run(engine, token);
    const other = new GraphBuilder(engine.prepared.device, engine.parts.graphs);
    other.build("sum of many", (g) => g.output(g.sumRows(g.input("f32", [1024, 4096]))));
    other.dispose();
    builds.mockClear();
    expect(await run(engine, token)).toEqual(first);
    expect(builds).toHaveBeenCalledTimes(1);
    expect(await run(engine, token)).toEqual(first);
    expect(builds).toHaveBeenCalledTimes(1);
  });

  test("weights that stream", async () => {
    const engine = await open(fixture("llama"), { ...CPU, device_map: "disk" });
    const token = { base: 0, past: 0, tokens: [9] };
    const first = await run(engine, token);
    const perPass = builds.mock.calls.length;
    expect(perPass).toBeGreaterThan(1);
    expect(await run(engine, token)).toEqual(first);
    expect(builds).toHaveBeenCalledTimes(2 * perPass);
  });
});
