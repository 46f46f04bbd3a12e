import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ConfigError, GraphError } from "../../base/errors.ts";
import { repetitionPenalty } from "../processors/penalties.ts";
import { Xoshiro128 } from "./random.ts";
import { Sampler, type SamplingOptions } from "./sampling.ts";

/** Logits whose softmax is these probabilities. */
const logitsOf = (...probabilities: number[]) => Float32Array.from(probabilities, Math.log);

/** How often each token comes in many draws. */
function draws(
  options: Partial<SamplingOptions>,
  logits: Float32Array,
  context: number[] = [],
  count = 4000,
): number[] {
  const sampler = new Sampler({ do_sample: true, seed: 7, ...options });
  const times = new Array<number>(logits.length).fill(0);
  for (let i = 0; i < count; i++) times[sampler.sample(logits, context)]!++;
  return times;
}

/** The tokens that come at all. */
const support = (options: Partial<SamplingOptions>, logits: Float32Array, context: number[] = []) =>
  draws(options, logits, context).flatMap((times, id) => (times > 0 ? [id] : []));

describe("greedy choice", () => {
  test("takes the best token, the lowest id on ties, whatever the other options", () => {
    const sampler = new Sampler({ do_sample: false, temperature: 5, top_k: 1, top_p: 0.1 });
    expect(sampler.sample(Float32Array.of(1, 3, 3, 2), [])).toBe(1);
  });
});

const penalised = (penalty: number) => new Sampler({ do_sample: false }, [repetitionPenalty(penalty)]);

describe("repetition penalty", () => {
  test("divides positive and multiplies negative logits of tokens in the context", () => {
    const sampler = penalised(2);
    expect(sampler.sample(Float32Array.of(4, 2.5, 0), [])).toBe(0);
    expect(sampler.sample(Float32Array.of(4, 2.5, 0), [0])).toBe(1);
    expect(sampler.sample(Float32Array.of(-1, -1.5, -9), [0])).toBe(1);
  });

  test("counts a token once however often it occurs, and leaves the logits as they were", () => {
    const logits = Float32Array.of(4, 1.5);
    const sampler = penalised(2);
    expect(sampler.sample(logits, [0, 0, 0])).toBe(0); // 4 / 2 > 1.5 > 4 / 8
    expect([...logits]).toEqual([4, 1.5]);
  });

  test("refuses a context with tokens the logits do not have", () => {
    const sampler = penalised(1.1);
    expect(() => sampler.sample(Float32Array.of(1, 2), [2])).toThrow(
      "context holds token 2, the vocabulary is 0 to 1",
    );
    expect(() => sampler.sample(Float32Array.of(1, 2), [-1])).toThrow(GraphError);
  });
});

describe("filters", () => {
  const logits = logitsOf(0.1, 0.4, 0.05, 0.3, 0.15);

  test("top_k keeps the k best, and all that tie with the last of them", () => {
    expect(support({ top_k: 2 }, logits)).toEqual([1, 3]);
    expect(support({ top_k: 2 }, Float32Array.of(2, 1, 1, 0))).toEqual([0, 1, 2]);
    expect(support({ top_k: 0 }, logits)).toEqual([0, 1, 2, 3, 4]);
    expect(support({ top_k: 99 }, logits)).toEqual([0, 1, 2, 3, 4]);
  });

  test("top_p keeps the smallest set that reaches it, with the token that crosses", () => {
    expect(support({ top_p: 0.39 }, logits)).toEqual([1]);
    expect(support({ top_p: 0.41 }, logits)).toEqual([1, 3]);
    expect(support({ top_p: 0.71 }, logits)).toEqual([1, 3, 4]);
    expect(support({ top_p: 1e-12 }, logits)).toEqual([1]);
    expect(support({ top_p: 0.5 }, Float32Array.of(0, 0, 0, 0))).toEqual([0, 1]);
  });

  test("min_p keeps what is probable enough beside the best", () => {
    expect(support({ min_p: 0.3 }, logits)).toEqual([1, 3, 4]);
    expect(support({ min_p: 1 }, logits)).toEqual([1]);
  });

  test("a filter sees what the ones before it left", () => {
    // Of 0.4 and 0.3 alone, the first is 0.57: enough for top_p 0.5, which it is not of all five.
    expect(support({ top_p: 0.5 }, logits)).toEqual([1, 3]);
    expect(support({ top_k: 2, top_p: 0.5 }, logits)).toEqual([1]);
  });

  test("temperature comes before top_p", () => {
    expect(support({ temperature: 0.25, top_p: 0.7 }, logits)).toEqual([1]);
    expect(support({ temperature: 4, top_p: 0.7 }, logits)).toEqual([0, 1, 3, 4]);
  });

  test("a forbidden token never comes", () => {
    expect(support({}, Float32Array.of(-Infinity, 0, -Infinity, 0))).toEqual([1, 3]);
    expect(support({ top_k: 3, top_p: 0.999 }, Float32Array.of(-Infinity, 0, -Infinity, 0))).toEqual([1, 3]);
  });
});

describe("drawing", () => {
  test("follows the probabilities", () => {
    const times = draws({}, logitsOf(0.5, 0.2, 0.3));
    // Standard deviation below 32 of 4000
    [2000, 800, 1200].forEach((expected, id) => {
      expect(Math.abs(times[id]! - expected)).toBeLessThan(130);
    });
  });

  test("follows the temperature", () => {
    const times = draws({ temperature: 0.5 }, logitsOf(0.5, 0.25, 0.25)); // squares: 4 : 1 : 1
    expect(Math.abs(times[0]! - 4000 * (4 / 6))).toBeLessThan(130);
  });

  test("is repeated by its seed", () => {
    const logits = logitsOf(0.3, 0.3, 0.4);
    const run = (seed: number | undefined) => {
      const sampler = new Sampler({ do_sample: true, ...(seed !== undefined && { seed }) });
      return Array.from({ length: 40 }, () => sampler.sample(logits, [])).join("");
    };
    expect(run(5)).toBe(run(5));
    expect(run(5)).not.toBe(run(6));
    expect(run(undefined)).not.toBe(run(undefined));
  });

  test("a row of another length than the last is no trouble", () => {
    const sampler = new Sampler({ do_sample: true, top_p: 0.9 }, [repetitionPenalty(1.2)]);
    expect(sampler.sample(logitsOf(0.01, 0.99), [])).toBe(1);
    expect(sampler.sample(logitsOf(0.001, 0.001, 0.001, 0.997), [0, 1])).toBe(3);
    expect(sampler.sample(logitsOf(1), [0])).toBe(0);
  });

  test("refuses broken logits", () => {
    const sampler = new Sampler({ do_sample: true });
    expect(() => sampler.sample(Float32Array.of(0, NaN), [])).toThrow(GraphError);
    expect(() => sampler.sample(Float32Array.of(0, NaN), [])).toThrow("logits contain NaN");
    expect(() => sampler.sample(Float32Array.of(0, Infinity), [])).toThrow("logits contain Infinity");
  });

  test("agrees with the plain formulas, token by token", () => {
    const options = fc.record({
      do_sample: fc.constant(true),
      temperature: fc.constantFrom(0.1, 0.7, 1, 1.9),
      top_k: fc.nat({ max: 40 }),
      // Never exactly a sum of few equal shares, where rounding decides
      top_p: fc.integer({ min: 1, max: 2003 }).map((x) => x / 2003),
      min_p: fc.integer({ min: 0, max: 1009 }).map((x) => x / 1010.5),
      repetition_penalty: fc.constantFrom(1, 1.3, 0.8),
      seed: fc.nat(),
    });
    // Eighths, so that logits tie or differ by more than rounding
    const logit = fc.integer({ min: -80, max: 80 }).map((x) => x / 8);
    fc.assert(
      fc.property(
        options,
        fc.array(logit, { minLength: 1, maxLength: 40 }).map((x) => Float32Array.from(x)),
        fc.array(fc.nat(), { maxLength: 8 }),
        (chosen, logits, picks) => {
          const context = picks.map((pick) => pick % logits.length);
          const { repetition_penalty, ...options } = chosen;
          const sampler = new Sampler(options, [repetitionPenalty(repetition_penalty)]);
          expect(sampler.sample(logits, context)).toBe(reference(chosen, logits, context));
        },
      ),
      { numRuns: 500 },
    );
  });
});

/** One draw, written as the definitions read: probabilities of all tokens, renormalised after each filter. */
function reference(
  options: Required<Pick<SamplingOptions, "temperature" | "top_k" | "top_p" | "min_p" | "seed">> & {
    repetition_penalty: number;
  },
  logits: Float32Array,
  context: number[],
): number {
  const { temperature, top_k, top_p, min_p, repetition_penalty, seed } = options;
  const scores = Float32Array.from(logits, (x, id) => {
    if (!context.includes(id)) return x;
    return x > 0 ? x / repetition_penalty : x * repetition_penalty;
  });
  let allowed = [...scores.keys()].sort((a, b) => scores[b]! - scores[a]! || a - b);
  const probabilities = () => {
    const weights = allowed.map((id) => Math.exp(scores[id]! / temperature));
    const sum = weights.reduce((a, b) => a + b);
    return weights.map((w) => w / sum);
  };
  if (top_k > 0) {
    const last = scores[allowed[Math.min(top_k, allowed.length) - 1]!]!;
    allowed = allowed.filter((id) => scores[id]! >= last);
  }
  let before = 0;
  const shares = probabilities();
  allowed = allowed.filter((_, i) => {
    const keep = i === 0 || before < top_p || top_p === 1;
    before += shares[i]!;
    return keep;
  });
  const best = scores[allowed[0]!]!;
  allowed = allowed.filter((id) => Math.exp((scores[id]! - best) / temperature) >= min_p);
  allowed.sort((a, b) => a - b);
  const final = probabilities();
  let left = new Xoshiro128(seed).uniform();
  for (const [i, p] of final.entries()) {
    left -= p;
    if (left < 0) return allowed[i]!;
  }
  return allowed.at(-1)!;
}

test("processors that leave nothing to choose are an error that says so", () => {
  const nothing = (scores: Float32Array) => void scores.fill(Number.NEGATIVE_INFINITY);
  const sampler = new Sampler({ do_sample: false }, [nothing]);
  expect(() => sampler.sample(Float32Array.of(1, 2), [0])).toThrow(ConfigError);
  expect(() => sampler.sample(Float32Array.of(1, 2), [0])).toThrow("no token is left to choose");
});
