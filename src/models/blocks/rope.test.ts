// Frequencies of every scaling method against the formulas they were published with.
import { describe, expect, test } from "vitest";
import { ConfigError, UnsupportedError } from "../../errors.ts";
import { RawConfig } from "../config.ts";
import { readRope } from "./rope.ts";

const HEAD = 32;
const POSITIONS = 4096;

function rope(config: Record<string, unknown>, headDim = HEAD) {
  return readRope(new RawConfig(config), headDim, POSITIONS);
}

/** Radians per position of each pair: what the kernel makes of the parameters. */
function frequencies(config: Record<string, unknown>, headDim = HEAD): number[] {
  const { params, factors } = rope(config, headDim);
  return Array.from(
    { length: params.dims / 2 },
    (_, i) => params.freqBase ** ((-2 * i) / params.dims) / (factors?.[i] ?? 1),
  );
}

const plain = (theta: number, dims = HEAD) =>
  Array.from({ length: dims / 2 }, (_, i) => theta ** ((-2 * i) / dims));

function expectNear(found: readonly number[], expected: readonly number[]): void {
  expect(found).toHaveLength(expected.length);
  for (const [i, f] of expected.entries()) expect(Math.abs((found[i] as number) / f - 1)).toBeLessThan(1e-6);
}

describe("without scaling", () => {
  test("theta ^ (-2 i / dims), theta 10000 unless given", () => {
    expectNear(frequencies({}), plain(10_000));
    expectNear(frequencies({ rope_theta: 500_000 }), plain(500_000));
    expect(rope({ rope_scaling: null }).factors).toBeUndefined();
    expect(rope({}).params).toMatchObject({ dims: HEAD, attnFactor: 1, freqScale: 1, extFactor: 0 });
  });

  test("the older and the newer place of theta", () => {
    const newer = { rope_parameters: { rope_type: "default", rope_theta: 777 } };
    expectNear(frequencies(newer), plain(777));
    expectNear(frequencies({ rope_theta: 5, ...newer }), plain(777));
  });

  test("some of the dimensions of a head", () => {
    expectNear(frequencies({ partial_rotary_factor: 0.25 }), plain(10_000, 8));
    expect(() => rope({ partial_rotary_factor: 0.1 })).toThrow(/rotates 3 of 32 dimensions/);
    expect(() => rope({ partial_rotary_factor: 1.5 })).toThrow(/rotates 48 of 32 dimensions/);
    expect(() => rope({}, 7)).toThrow(/rotates 7 of 7 dimensions/);
  });
});

test("linear (Chen et al. 2023): every frequency divided", () => {
  const divided = plain(10_000).map((f) => f / 4);
  expectNear(frequencies({ rope_scaling: { type: "linear", factor: 4 } }), divided);
  expectNear(frequencies({ rope_scaling: { rope_type: "linear", factor: 4 } }), divided);
  expectNear(
    frequencies({ rope_parameters: { rope_type: "linear", factor: 4, rope_theta: 10_000 } }),
    divided,
  );
});

test("llama3: waves longer than the old context divided, short ones kept, smooth between", () => {
  const scaling = {
    rope_type: "llama3",
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 256,
  };
  const expected = plain(10_000).map((f) => {
    const turns = (256 * f) / (2 * Math.PI); // within the old context
    if (turns > 4) return f;
    if (turns < 1) return f / 8;
    const kept = (turns - 1) / (4 - 1);
    return kept * f + (1 - kept) * (f / 8);
  });
  const found = frequencies({ rope_scaling: scaling });
  expectNear(found, expected);
  expect(found[0]).toBe(1);
  expect(new Set(found.map((f, i) => Math.round((plain(10_000)[i] as number) / f))).size).toBeGreaterThan(2);
});

describe("yarn (Peng et al. 2023)", () => {
  const scaling = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 256 };

  /** Interpolated below `slow` turns within the old context, kept above `fast`, a ramp over the dimensions between. */
  function expected(fast: number, slow: number, whole: boolean): number[] {
    const dimension = (turns: number) =>
      (HEAD * Math.log(256 / (turns * 2 * Math.PI))) / (2 * Math.log(10_000));
    const low = Math.max(0, whole ? Math.floor(dimension(fast)) : dimension(fast));
    const high = Math.min(HEAD - 1, whole ? Math.ceil(dimension(slow)) : dimension(slow));
    return plain(10_000).map((f, i) => {
      const interpolated = Math.min(1, Math.max(0, (i - low) / (high - low)));
      return interpolated * (f / 4) + (1 - interpolated) * f;
    });
  }

  test("frequencies, with the paper's limits or others", () => {
    expectNear(frequencies({ rope_scaling: scaling }), expected(32, 1, true));
    expectNear(
      frequencies({ rope_scaling: { ...scaling, beta_fast: 16, beta_slow: 2 } }),
      expected(16, 2, true),
    );
    expectNear(frequencies({ rope_scaling: { ...scaling, truncate: false } }), expected(32, 1, false));
  });

  test("values are multiplied by 0.1 ln(factor) + 1, or by what the config says", () => {
    const attention = (more: object) => rope({ rope_scaling: { ...scaling, ...more } }).params.attnFactor;
    expect(attention({})).toBeCloseTo(0.1 * Math.log(4) + 1, 12);
    expect(attention({ attention_factor: 1.25 })).toBe(1.25);
    expect(attention({ mscale: 2, mscale_all_dim: 1 })).toBeCloseTo(
      (0.2 * Math.log(4) + 1) / (0.1 * Math.log(4) + 1),
      12,
    );
    expect(attention({ mscale: 1, mscale_all_dim: 1 })).toBe(1);
    expect(attention({ factor: 1 })).toBe(1);
  });

  test("the factor is the new context over the old one where it is not given", () => {
    const found = frequencies({ rope_scaling: { rope_type: "yarn", original_max_position_embeddings: 256 } });
    expect((plain(10_000).at(-1) as number) / (found.at(-1) as number)).toBeCloseTo(POSITIONS / 256, 4);
  });
});

describe("what is refused", () => {
  test.each<[object, RegExp]>([
    [
      { rope_type: "longrope" },
      /rope type "longrope" is not supported; supported: default, linear, llama3, yarn/,
    ],
    [{ rope_type: "linear" }, /rope_scaling: factor is missing/],
    [{ rope_type: "linear", factor: 0 }, /factor is 0, expected a number above 0/],
    [{ rope_type: "linear", factor: "2" }, /factor is "2"/],
    [{ rope_type: "llama3", factor: 8 }, /low_freq_factor is missing/],
    [{ rope_type: 3 }, /rope_type is 3, expected a string/],
    [{ rope_type: "yarn", factor: -1 }, /factor is -1/],
  ])("%j", (rope_scaling, message) => {
    const read = () => rope({ rope_scaling });
    expect(read).toThrow(message);
    try {
      read();
    } catch (error) {
      expect([ConfigError, UnsupportedError].some((type) => error instanceof type)).toBe(true);
    }
  });
});
