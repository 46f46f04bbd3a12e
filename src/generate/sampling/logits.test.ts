import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { GraphError } from "../../base/errors.ts";
import { argmax, kthLargest, logSoftmax, topTokens } from "./logits.ts";

const logit = fc.oneof(fc.integer({ min: -5, max: 5 }), fc.float({ min: -100, max: 100, noNaN: true }));
const row = fc.array(logit, { minLength: 1, maxLength: 60 }).map((values) => Float32Array.from(values));

describe("argmax", () => {
  test("is the first of the largest", () => {
    expect(argmax(Float32Array.of(-3, 2, 7, 7, -1))).toBe(2);
    expect(argmax(Float32Array.of(-Infinity, -4, -Infinity))).toBe(1);
  });

  test.each([
    ["NaN", [1, NaN, 2], "contain NaN (first at token 1 of 3)"],
    ["NaN in front", [NaN, 2], "contain NaN (first at token 0 of 2)"],
    ["Infinity", [1, 2, Infinity], "contain Infinity (first at token 2 of 3)"],
    ["nothing possible", [-Infinity, -Infinity], "are all -Infinity"],
    ["no logits", [], "are empty"],
  ])("refuses a row with %s instead of choosing some token", (_, values, message) => {
    for (const ask of [argmax, logSoftmax, (logits: Float32Array) => topTokens(logits, 1)]) {
      expect(() => ask(Float32Array.from(values))).toThrow(GraphError);
      expect(() => ask(Float32Array.from(values))).toThrow(message);
    }
  });
});

describe("logSoftmax", () => {
  test("gives log-probabilities, also of logits whose exponentials overflow", () => {
    const logprobs = logSoftmax(Float32Array.of(1000, 1000 + Math.log(3), -1e30, -Infinity));
    expect(logprobs[0]).toBeCloseTo(Math.log(0.25), 4);
    expect(logprobs[1]).toBeCloseTo(Math.log(0.75), 4);
    expect(Math.exp(logprobs[2]!)).toBe(0);
    expect(logprobs[3]).toBe(-Infinity);
  });

  test("can work in place and otherwise leaves the logits alone", () => {
    const logits = Float32Array.of(1, 2, 3);
    const logprobs = logSoftmax(logits);
    expect([...logits]).toEqual([1, 2, 3]);
    expect(logSoftmax(logits, logits)).toBe(logits);
    expect(logits).toEqual(logprobs);
  });
});

describe("kthLargest", () => {
  test("agrees with sorting", () => {
    fc.assert(
      fc.property(row, fc.nat(), (values, pick) => {
        const k = 1 + (pick % values.length);
        const sorted = Float32Array.from(values).sort(); // which has -0 before 0; they are one value here
        expect(kthLargest(values, k) + 0).toBe((sorted[values.length - k] as number) + 0);
      }),
    );
  });
});

describe("topTokens", () => {
  test("agrees with sorting everything", () => {
    fc.assert(
      fc.property(row, fc.nat({ max: 70 }), (logits, k) => {
        const logprobs = logSoftmax(logits);
        const sorted = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]! || a - b).slice(0, k);
        const top = topTokens(logits, k);
        expect(top.map((token) => token.id)).toEqual(sorted);
        for (const { id, logit, logprob } of top) {
          expect(logit).toBe(logits[id]);
          expect(logprob).toBeCloseTo(logprobs[id]!, 4);
        }
      }),
    );
  });

  test("leaves out forbidden tokens", () => {
    expect(topTokens(Float32Array.of(-Infinity, 1, -Infinity), 3).map((token) => token.id)).toEqual([1]);
  });

  test("refuses a count that is none", () => {
    expect(() => topTokens(Float32Array.of(1), -1)).toThrow("topTokens takes a whole number from 0, got -1");
    expect(() => topTokens(Float32Array.of(1), Number.NaN)).toThrow(GraphError);
  });
});
