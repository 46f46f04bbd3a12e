// Rows of logits as transformers' own processors change them, bit for bit: values made with its Python classes
// (test/fixtures/generation/processors.json).
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ConfigError } from "../../base/errors.ts";
import { fixture } from "../../formats/testing.ts";
import { Sampler } from "../sampling/sampling.ts";
import { generationValues } from "../settings/values.ts";
import { logitsProcessors } from "./list.ts";

type Cell = number | "-inf" | "inf" | "nan";
interface Processed {
  name: string;
  values: Record<string, unknown>;
  prompt: number[];
  ids: number[];
  eos: number[];
  max_length: number;
  scores: Cell[];
  expected: Cell[];
}
interface Drawn {
  name: string;
  values: Record<string, unknown>;
  scores: Cell[];
  /** Probabilities of the tokens that remain. */
  expected: Record<string, number>;
}

const file = join(fixture(""), "..", "generation", "processors.json");
const { processors, drawing } = JSON.parse(readFileSync(file, "utf8")) as {
  processors: Processed[];
  drawing: Drawn[];
};
const SPECIAL = { inf: Infinity, "-inf": -Infinity, nan: NaN };
const row = (cells: Cell[]) => Float32Array.from(cells, (c) => (typeof c === "number" ? c : SPECIAL[c]));

test.each(processors)("$name, prompt $prompt, ids $ids", (c) => {
  const { values } = generationValues(c.values, {});
  const context = { prompt: c.prompt, max_length: c.max_length, eos: c.eos, vocab: c.scores.length };
  const scores = row(c.scores);
  for (const process of logitsProcessors(values, context)) process(scores, c.ids);
  expect(scores).toEqual(row(c.expected));
});

test.each(drawing)("drawing with $name", (c) => {
  const { values } = generationValues({ do_sample: true, ...c.values }, {});
  const found = new Sampler(values).distribution(row(c.scores), []);
  expect(found.map(({ id }) => id)).toEqual(Object.keys(c.expected).map(Number));
  for (const { id, p } of found) expect(p).toBeCloseTo(c.expected[id] as number, 5);
});

describe("ids that the model does not have", () => {
  test.each([
    { bad_words_ids: [[5, 99]] },
    { sequence_bias: [[[99], 1]] },
    { forced_bos_token_id: 99 },
    { forced_eos_token_id: [2, 99] },
  ])("%j", (call) => {
    const { values } = generationValues(call, {});
    const context = { prompt: [1], max_length: 9, eos: [], vocab: 24 };
    expect(() => logitsProcessors(values, context)).toThrow(ConfigError);
    expect(() => logitsProcessors(values, context)).toThrow(
      /99 is not a token of the model's vocabulary of 24/,
    );
  });
});
