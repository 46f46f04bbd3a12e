import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ConfigError } from "../../base/errors.ts";
import { CHUNK_TOKENS, PASS_TOKENS, type SequenceInput, splitPasses } from "./chunks.ts";

const VOCAB = 100;
const tokens = (count: number) => Array.from({ length: count }, (_, i) => i % VOCAB);

test("one token of one sequence", () => {
  const [pass, ...others] = splitPasses([{ base: 10, past: 4, tokens: [7] }], VOCAB);
  expect(others).toEqual([]);
  expect(pass).toEqual({
    ids: Int32Array.of(7),
    positions: Int32Array.of(4),
    chunks: [{ start: 0, tokens: 1, parts: [{ sequence: 0, base: 10, past: 4, count: 1, offset: 0 }] }],
    last: new Map([[0, 0]]),
    start: 0,
  });
});

test("sequences share a chunk, each a part of it", () => {
  const [pass] = splitPasses(
    [
      { base: 0, past: 0, tokens: [1, 2, 3] },
      { base: 50, past: 9, tokens: [4] },
      { base: 90, past: 2, tokens: [5, 6] },
    ],
    VOCAB,
  );
  expect(pass?.positions).toEqual(Int32Array.of(0, 1, 2, 9, 2, 3));
  expect(pass?.chunks).toHaveLength(1);
  expect(pass?.chunks[0]?.parts).toEqual([
    { sequence: 0, base: 0, past: 0, count: 3, offset: 0 },
    { sequence: 1, base: 50, past: 9, count: 1, offset: 3 },
    { sequence: 2, base: 90, past: 2, count: 2, offset: 4 },
  ]);
  expect(pass?.last).toEqual(
    new Map([
      [0, 2],
      [1, 3],
      [2, 5],
    ]),
  );
});

test("a long sequence goes on in the next chunk, and in the next pass", () => {
  const passes = [
    ...splitPasses([{ base: 0, past: 5, tokens: tokens(PASS_TOKENS + CHUNK_TOKENS + 1) }], VOCAB),
  ];
  expect(passes.map((p) => p.chunks.map((c) => c.tokens))).toEqual([
    new Array<number>(PASS_TOKENS / CHUNK_TOKENS).fill(CHUNK_TOKENS),
    [CHUNK_TOKENS, 1],
  ]);
  expect(passes.map((p) => p.start)).toEqual([0, PASS_TOKENS]);
  expect(passes[1]?.chunks[1]?.parts).toEqual([
    { sequence: 0, base: 0, past: 5 + PASS_TOKENS + CHUNK_TOKENS, count: 1, offset: 0 },
  ]);
  expect(passes[0]?.last.size).toBe(0);
  expect(passes[1]?.last).toEqual(new Map([[0, CHUNK_TOKENS]]));
});

describe("ids that are not tokens", () => {
  test.each([-1, VOCAB, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 32])("%d", (id) => {
    const split = () => splitPasses([{ base: 0, past: 0, tokens: [1, id] }], VOCAB);
    expect(split).toThrow(ConfigError);
    expect(split).toThrow(`${id} is not a token of a vocabulary of ${VOCAB}`);
  });
});

test("whatever the sequences: every token once, in order, at its position, behind all that came before it", () => {
  const sequence = fc.record({ past: fc.nat(50), length: fc.oneof(fc.nat(40), fc.nat(3000)) });
  fc.assert(
    fc.property(fc.array(sequence, { minLength: 1, maxLength: 8 }), (lengths) => {
      let base = 0;
      const sequences = lengths.map(({ past, length }): SequenceInput => {
        const row = { base, past, tokens: tokens(length) };
        base += past + length;
        return row;
      });
      const passes = [...splitPasses(sequences, VOCAB)];
      const seen = sequences.map((s) => s.past);
      let start = 0;
      for (const pass of passes) {
        expect(pass.start).toBe(start);
        let at = 0;
        for (const chunk of pass.chunks) {
          expect(chunk.start).toBe(at);
          expect(chunk.tokens).toBeLessThanOrEqual(CHUNK_TOKENS);
          let offset = 0;
          for (const part of chunk.parts) {
            const s = sequences[part.sequence] as SequenceInput;
            expect(part).toMatchObject({ base: s.base, past: seen[part.sequence], offset });
            for (let i = 0; i < part.count; i++) {
              const index = part.past - s.past + i;
              expect(pass.ids[at + offset + i]).toBe(s.tokens[index]);
              expect(pass.positions[at + offset + i]).toBe(part.past + i);
            }
            seen[part.sequence] = part.past + part.count;
            offset += part.count;
          }
          expect(offset).toBe(chunk.tokens);
          at += chunk.tokens;
        }
        expect(pass.ids).toHaveLength(at);
        expect(at).toBeLessThanOrEqual(PASS_TOKENS);
        for (const [sequence, token] of pass.last) {
          const s = sequences[sequence] as SequenceInput;
          expect(pass.positions[token]).toBe(s.past + s.tokens.length - 1);
        }
        start += at;
      }
      expect(seen).toEqual(sequences.map((s) => s.past + s.tokens.length));
      expect(passes.flatMap((p) => [...p.last.keys()])).toHaveLength(
        sequences.filter((s) => s.tokens.length > 0).length,
      );
    }),
    { numRuns: 20 },
  );
});
