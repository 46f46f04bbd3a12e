// Frequencies of every scaling method against the formulas they were published with.
import { describe, expect, test } from "vitest";
import { ConfigError } from "../../base/errors.ts";
import { RawConfig } from "../config.ts";
import { readRopeConfig } from "../rope-config.ts";
import { rope as ropeOf } from "./rope.ts";

const HEAD = 32;
const POSITIONS = 4096;

function rope(config: Record<string, unknown>, headDim = HEAD) {
  return ropeOf(readRopeConfig(new RawConfig(config, "config.json", "refused"), POSITIONS), headDim);
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

  test("heads must be pairs", () => {
    expect(() => rope({}, 7)).toThrow(/heads have 7 elements/);
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
    const unset = { beta_fast: 0, beta_slow: null, attention_factor: null, mscale: null };
    expectNear(frequencies({ rope_scaling: { ...scaling, ...unset } }), expected(32, 1, true));
    expectNear(frequencies({ rope_scaling: { ...scaling, truncate: null } }), expected(32, 1, false));
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

  test("the factor is the new context over the old one where it is null", () => {
    const found = frequencies({ rope_scaling: { ...scaling, factor: null } });
    expect((plain(10_000).at(-1) as number) / (found.at(-1) as number)).toBeCloseTo(POSITIONS / 256, 4);
  });
});

test("llama3 with its limits the wrong way round divides wherever waves are longer than the lower one", () => {
  const scaling = { rope_type: "llama3", factor: 8, low_freq_factor: 4, high_freq_factor: 1 };
  const rope_scaling = { ...scaling, original_max_position_embeddings: 256 };
  const expected = plain(10_000).map((f) => ((256 * f) / (2 * Math.PI) < 4 ? f / 8 : f));
  expectNear(frequencies({ rope_scaling }), expected);
});

describe("longrope (Ding et al. 2024)", () => {
  const short_factor = Array.from({ length: HEAD / 2 }, (_, i) => 1 + i / 10);
  const long_factor = short_factor.map((f) => 2 * f);
  const scaling = {
    rope_type: "longrope",
    short_factor,
    long_factor,
    original_max_position_embeddings: 1024,
  };

  test("a divisor for each pair, those for contexts of the original length", () => {
    const expected = plain(10_000).map((f, i) => f / (short_factor[i] as number));
    expectNear(frequencies({ rope_scaling: scaling }), expected);
  });

  test("values are multiplied by sqrt(1 + ln(factor) / ln(original))", () => {
    const attention = (more: object) => rope({ rope_scaling: { ...scaling, ...more } }).params.attnFactor;
    const of = (factor: number) => Math.sqrt(1 + Math.log(factor) / Math.log(1024));
    expect(attention({})).toBeCloseTo(of(POSITIONS / 1024), 12);
    expect(attention({ factor: 8 })).toBeCloseTo(of(8), 12);
    expect(attention({ factor: 0.5 })).toBe(1);
    expect(attention({ attention_factor: 1.25 })).toBe(1.25);
  });

  test.each([
    [{ short_factor: [1] }, /short_factor is \[1\], expected a list of 16 numbers above 0/],
    [{ long_factor: undefined }, /long_factor is missing/],
    [{ short_factor: short_factor.map(() => "1") }, /short_factor is/],
    [{ original_max_position_embeddings: 1 }, /not finite numbers/],
  ])("%j is refused", (more, message) => {
    expect(() => rope({ rope_scaling: { ...scaling, ...more } })).toThrow(message);
  });
});

test("dynamic is plain up to the length it was trained for", () => {
  expect(rope({ rope_scaling: { type: "dynamic", factor: 2 } }).factors).toBeUndefined();
});

describe("what is refused", () => {
  test.each<[object, RegExp]>([
    [{ rope_type: "linear" }, /rope_scaling: factor is missing/],
    [{ rope_type: "yarn", original_max_position_embeddings: 256 }, /factor is missing/],
    [{ rope_type: "dynamic" }, /factor is missing/],
    [{ rope_type: "linear", factor: 0 }, /factor is 0, expected a number above 0/],
    [{ rope_type: "linear", factor: "2" }, /factor is "2"/],
    [{ rope_type: "linear", factor: 1e308 }, /not finite numbers/],
    [{ rope_type: "llama3", factor: 8 }, /low_freq_factor is missing/],
    [{ rope_type: "yarn", factor: -1 }, /factor is -1/],
    [{ rope_type: "yarn", factor: 4, rope_theta: 1 }, /not finite numbers/],
    [{ rope_type: "yarn", factor: 4, mscale: 1e308, mscale_all_dim: 1e-308 }, /not finite numbers/],
  ])("%j", (rope_scaling, message) => {
    const read = () => rope({ rope_scaling });
    expect(read).toThrow(message);
    expect(read).toThrow(ConfigError);
  });
});
