// Every rule against the slow reference; one region of each kind, in RAM. Where states live is updater.test.ts.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../backend/ggml/device.ts";
import { HeaderArena } from "../../backend/ggml/graph.ts";
import { UpdateGraph } from "../../backend/ggml/update-graph.ts";
import { ConfigError, GraphError } from "../../base/errors.ts";
import { hostBytes, type OpenStore, openStore } from "../../memory/stores/testing.ts";
import { Adam8bit } from "./rules/adam8bit.ts";
import { AdamW } from "./rules/adamw.ts";
import { adamwReference, sgdReference } from "./rules/reference.ts";
import type { StepParams, UpdateRule } from "./rules/rule.ts";
import { SGD } from "./rules/sgd.ts";
import { freeState, stateBytes } from "./state.ts";
import {
  allBytes,
  difference,
  floats,
  gradientValues,
  hostGradient,
  makeState,
  openCpu,
  random,
  weightValues,
} from "./testing.ts";
import { StateUpdater } from "./updater.ts";

let cpu: Device;
let ram: OpenStore;

beforeAll(async () => {
  cpu = openCpu();
  ram = await openStore("cpu");
});
afterAll(async () => {
  await ram.close();
  ram.ledger.assertEmpty();
  await cpu.dispose();
});

/** Makes steps with one gradient after another and returns the f32 values of the regions before `quantized`. */
async function run(
  rule: UpdateRule,
  weights: Float32Array,
  gradients: readonly Float32Array[],
  params: (step: number) => StepParams,
): Promise<Float32Array[]> {
  await using updater = new StateUpdater({ cpu, ledger: ram.ledger, rule });
  const state = await makeState(rule, weights, { master: ram.store });
  try {
    for (const [i, values] of gradients.entries()) {
      const gradient = hostGradient(values);
      await updater.step(state, gradient, params(i + 1));
      gradient.buffer.dispose();
    }
    const bytes = await allBytes(state);
    return bytes.filter((b) => b.byteLength === weights.byteLength).map((b) => floats(b, weights.length));
  } finally {
    await freeState(state);
  }
}

/** Sizes with and without whole rows of 1024 and tiles of 65,536. */
const SIZES = [1, 64, 1023, 1024, 5000, 70_001];

describe("AdamW", () => {
  test.each(SIZES)("makes the steps torch makes, %i elements", async (n) => {
    const options = { betas: [0.9, 0.95] as const, eps: 1e-8 };
    const gradients = [1, 2, 3, 4, 5].map((seed) => gradientValues(n, seed));
    const params = (step: number) => ({ lr: 1e-2 / step, weight_decay: 0.1, step, gradScale: 0.5 });
    const weights = weightValues(n);
    const [w, m, v] = await run(new AdamW(options), weights, gradients, params);
    const expected = [Float64Array.from(weights), new Float64Array(n), new Float64Array(n)] as const;
    for (const [i, g] of gradients.entries()) adamwReference(...expected, g, options, params(i + 1));
    for (const [i, actual] of [w, m, v].entries()) {
      const { largest, scale } = difference(actual!, expected[i]!);
      expect(largest).toBeLessThan(1e-6 * scale + 1e-12);
    }
  });

  test("the first step is the learning rate against the gradient's sign, whatever the betas", async () => {
    const gradient = Float32Array.of(3, -0.02, 1e-5, 0);
    const params = { lr: 0.5, weight_decay: 0, step: 1 };
    for (const betas of [
      [0.9, 0.999],
      [0, 0],
      [0.5, 0.9999],
    ] as const) {
      const [w] = await run(
        new AdamW({ betas, eps: 0 }),
        new Float32Array(3),
        [gradient.slice(0, 3)],
        () => params,
      );
      expect(difference(w!, [-0.5, 0.5, -0.5]).largest).toBeLessThan(1e-6);
    }
    // A gradient of zero is divided by eps.
    const [w] = await run(new AdamW(), new Float32Array(4), [gradient], () => params);
    expect(w![3]).toBe(0);
  });

  test("decay alone shrinks the weights", async () => {
    const params = { lr: 0.1, weight_decay: 0.5, step: 1 };
    const [w] = await run(new AdamW(), Float32Array.of(2, -4), [new Float32Array(2)], () => params);
    expect([...w!]).toEqual([Math.fround(2 * 0.95), Math.fround(-4 * 0.95)]);
  });

  test.each([
    { betas: [1, 0.9] as const },
    { betas: [0.9, 1] as const },
    { betas: [-0.1, 0.9] as const },
    { betas: [Number.NaN, 0.9] as const },
    { betas: [0.9, 1 - 1e-12] as const }, // 1 in f32
    { eps: -1 },
    { eps: Number.NaN },
  ])("refuses %j", (options) => {
    expect(() => new AdamW(options)).toThrow(ConfigError);
    expect(() => new Adam8bit(options)).toThrow(ConfigError);
  });
});

describe("SGD", () => {
  test.each([
    { momentum: 0, weight_decay: 0 },
    { momentum: 0, weight_decay: 0.1 },
    { momentum: 0.9, weight_decay: 0 },
    { momentum: 0.9, weight_decay: 0.1 },
  ])("makes the steps torch makes, %j", async ({ momentum, weight_decay }) => {
    for (const n of SIZES) {
      const gradients = [1, 2, 3].map((seed) => gradientValues(n, seed));
      const params = (step: number) => ({ lr: 0.05, weight_decay, step, gradScale: 0.25 });
      const weights = weightValues(n);
      const [w, direction] = await run(new SGD({ momentum }), weights, gradients, params);
      expect(direction !== undefined).toBe(momentum > 0);
      const expected = [Float64Array.from(weights), new Float64Array(n)] as const;
      for (const [i, g] of gradients.entries()) sgdReference(...expected, g, momentum, params(i + 1));
      const { largest, scale } = difference(w!, expected[0]);
      expect(largest).toBeLessThan(1e-6 * scale);
    }
  });

  test("refuses a momentum that would never forget", () => {
    expect(() => new SGD({ momentum: 1 })).toThrow(ConfigError);
    expect(() => new SGD({ momentum: -0.5 })).toThrow(ConfigError);
  });
});

describe("Adam8bit", () => {
  test("keeps about 2.2 bytes per element where AdamW keeps 8", () => {
    const bytes = (rule: UpdateRule) =>
      stateBytes(rule, 2 ** 20).moments.reduce((a, b) => a + b, 0) / 2 ** 20;
    expect(bytes(new AdamW())).toBe(8);
    expect(bytes(new Adam8bit())).toBeCloseTo(2 * (34 / 32) + 4 / 256, 10);
  });

  test.each(SIZES)(
    "its first step is AdamW's but for the last bit, which ggml rounds once less: moments of zeros are exact, %i elements",
    async (n) => {
      const gradients = [gradientValues(n, 1)];
      const params = () => ({ lr: 1e-2, weight_decay: 0.1, step: 1 });
      const [full] = await run(new AdamW(), weightValues(n), gradients, params);
      const [eight] = await run(new Adam8bit(), weightValues(n), gradients, params);
      // Weights in (-1, 1) that ggml's kernel multiplies and subtracts from in one operation.
      expect(difference(eight!, full!).largest).toBeLessThanOrEqual(2 ** -23);
    },
  );

  test("its steps stay within a few percent of the learning rate of AdamW's", async () => {
    const n = 70_001;
    const next = random(9);
    // Every element has a size of its own, over three orders of magnitude, and noise around a mean.
    const sizes = Float32Array.from({ length: n }, (_, i) => 10 ** (-6 + (i % 100) / 33));
    const gradients = Array.from({ length: 20 }, () => sizes.map((size) => size * (0.5 + next())));
    const lr = 1e-3;
    const params = (step: number) => ({ lr, weight_decay: 0, step });
    const [full] = await run(new AdamW(), new Float32Array(n), gradients, params);
    const [eight] = await run(new Adam8bit(), new Float32Array(n), gradients, params);
    const apart = full!.map((value, i) => Math.abs(value - eight![i]!) / (lr * gradients.length));
    expect(Math.max(...apart.subarray(0, 60_000))).toBeLessThan(0.15);
    expect(apart.reduce((a, b) => a + b, 0) / n).toBeLessThan(0.015);
  });

  test("learns what AdamW learns: the bottom of a bowl with gradients of very different sizes", async () => {
    const n = 4096;
    const target = weightValues(n, 3);
    const curvature = Float32Array.from({ length: n }, (_, i) => 10 ** (((i * 37) % 64) / 12 - 5));
    const distance = async (rule: UpdateRule) => {
      await using updater = new StateUpdater({ cpu, ledger: ram.ledger, rule });
      const state = await makeState(rule, new Float32Array(n), { master: ram.store });
      const steps = 300;
      const noise = random(4);
      for (let step = 1; step <= steps; step++) {
        const w = new Float32Array(state.master.buffer!.view());
        const values = w.map((x, i) => curvature[i]! * (x - target[i]! + 0.3 * noise()));
        const gradient = hostGradient(values);
        const lr = 0.02 * (1 - (step - 1) / steps);
        await updater.step(state, gradient, { lr, weight_decay: 0, step });
        gradient.buffer.dispose();
      }
      const w = new Float32Array(state.master.buffer!.view()).slice();
      await freeState(state);
      return Math.sqrt(w.reduce((sum, x, i) => sum + (x - target[i]!) ** 2, 0) / n);
    };
    const full = await distance(new AdamW());
    const eight = await distance(new Adam8bit());
    expect(full).toBeLessThan(0.05);
    expect(eight).toBeLessThan(1.2 * full);
  });

  test("no step is larger than Adam's largest, even where a small value is rounded to zero beside a large one", async () => {
    const n = 65_536;
    const next = random(5);
    const gradients = Array.from({ length: 12 }, (_, t) =>
      Float32Array.from({ length: n }, (_, i) => {
        if (i % 32 === 0) return 1000 * next();
        // Small ones that stop: their second moment is what would be rounded away first.
        return t < 6 ? 1e-4 * next() : 0;
      }),
    );
    let before = new Float32Array(n);
    for (let steps = 1; steps <= gradients.length; steps++) {
      const params = (step: number) => ({ lr: 1, weight_decay: 0, step });
      const [w] = await run(new Adam8bit(), new Float32Array(n), gradients.slice(0, steps), params);
      expect(difference(w!, before).largest).toBeLessThan(7.5);
      before = w as Float32Array<ArrayBuffer>;
    }
  });

  test("second moments fall where gradients vanish, as slowly as they should", async () => {
    const n = 512;
    const rule = new Adam8bit();
    const scaleOf = async (silent: number) => {
      await using updater = new StateUpdater({ cpu, ledger: ram.ledger, rule });
      const state = await makeState(rule, new Float32Array(n), { master: ram.store });
      for (let step = 1; step <= 1 + silent; step++) {
        const gradient = hostGradient(new Float32Array(n).fill(step === 1 ? 1 : 0));
        await updater.step(state, gradient, { lr: 0, weight_decay: 0, step });
        gradient.buffer.dispose();
      }
      const bytes = await allBytes(state);
      await freeState(state);
      return floats(bytes[3], 1)[0]!;
    };
    // The scale is a fourth root of v, which falls by beta2 at every step.
    expect((await scaleOf(400)) / (await scaleOf(0))).toBeCloseTo(0.999 ** (400 / 4), 3);
  });
});

describe("kernels refuse what ggml would abort on", () => {
  test("other types, shapes and constants", () => {
    using memory = hostBytes(65_536);
    const arena = new HeaderArena(64, { graph: true });
    const g = new UpdateGraph(cpu, arena);
    const slab = { buffer: memory, offset: 0 };
    const [w, other, half] = [g.at(slab, [8, 2]), g.at(slab, [16]), g.at(slab, [8, 2], "f16")];
    const seven = g.at(slab, [7]);
    expect(() => g.adamw(w, other, w, w, seven)).toThrow(/has not the shape/);
    expect(() => g.adamw(w, w, half, w, seven)).toThrow(/f32 and contiguous/);
    expect(() => g.adamw(w, w, w, w, g.at(slab, [6]))).toThrow(/7 constants/);
    expect(() => g.sgd(w, w, seven)).toThrow(/2 constants/);
    expect(() => g.columnSums(g.at(slab, [4, 4]), g.at(slab, [4, 1]))).toThrow(GraphError);
    expect(() => g.put(g.scale(w, 2), { buffer: memory, offset: 65_536 - 4 })).toThrow(/does not fit/);
    expect(() => g.at({ buffer: memory, offset: 65_530 }, [2])).toThrow(/does not fit/);
    arena.dispose();
  });
});
