// What a config.json means, held against logits of transformers 5.18 over the same weights: test/fixtures/data/
// config-logits.json has every eighth of the first 64 scores after the last token, for each change of a fixture's config.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ConfigError } from "../src/base/errors.ts";
import { rejection } from "../src/formats/testing.ts";
import { AutoModelForCausalLM } from "../src/generate/causal-lm.ts";
import { FIXTURES, largestDifference } from "./golden/golden.ts";
import { copyOfFixture } from "./support/checkpoints.ts";
import { editConfig } from "./support/damage.ts";
import { leavesNothing } from "./support/leaks.ts";

interface Reference {
  readonly fixture: string;
  readonly what: string;
  readonly config: Record<string, unknown>;
  readonly remove: readonly string[];
  readonly tokens: number;
  readonly logits: readonly number[];
}

const REFERENCES: readonly Reference[] = JSON.parse(
  readFileSync(join(FIXTURES, "../data/config-logits.json"), "utf8"),
);
const CPU = { device: "cpu", kv_dtype: "float32", threads: 1 } as const;
const ids = (count: number) => Array.from({ length: count }, (_, i) => (i * 37 + 11) % 509);

test.each(REFERENCES)("$fixture: $what", async ({ fixture, config, remove, tokens, logits }) => {
  const dir = copyOfFixture(fixture);
  editConfig(dir, { ...config, ...Object.fromEntries(remove.map((key) => [key, undefined])) });
  await leavesNothing(async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(dir, CPU);
    const { data, dims } = (await model.forward({ input_ids: [ids(tokens)] })).logits;
    const last = data.subarray((tokens - 1) * dims[2]);
    const some = Float32Array.from(logits, (_, i) => last[8 * i] as number);
    expect(largestDifference(some, Float32Array.from(logits))).toBeLessThan(1e-3);
  });
});

describe("positions", () => {
  test("beyond the config's number they are there when asked for, with a warning", async () => {
    const dir = copyOfFixture("llama");
    await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, context_length: 300 });
    expect(model.warnings).toEqual([
      expect.stringMatching(/context_length 300 is more than the 256 positions/),
    ]);
    const [longer] = await model.generate({ input_ids: [ids(290)], max_new_tokens: 4, ignore_eos: true });
    expect(longer).toHaveLength(294);
  });

  test("what was not asked for is refused with how to ask", async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(copyOfFixture("llama"), CPU);
    const refused = await rejection(model.forward({ input_ids: [ids(257)] }));
    expect(refused).toBeInstanceOf(ConfigError);
    expect((refused as Error).message).toMatch(/257 tokens are more than the model's 256 positions/);
    expect((refused as Error).message).toMatch(/context_length 257/);
  });

  test.each<[string, object, number, RegExp]>([
    ["gpt2", {}, 257, /positions for 256 tokens: its table of positions has no more rows/],
    ["llama", { rope_scaling: { type: "dynamic", factor: 2 } }, 257, /rope type "dynamic" is computed up to/],
    ["llama", { sliding_window: 100 }, 101, /positions for 100 tokens: 3 layers of 3 attend to the last 100/],
  ])("of %s with %j end for good", async (fixture, config, context_length, message) => {
    const dir = copyOfFixture(fixture);
    editConfig(dir, config as Record<string, unknown>);
    const refused = await rejection(AutoModelForCausalLM.from_pretrained(dir, { ...CPU, context_length }));
    expect(refused).toBeInstanceOf(ConfigError);
    expect((refused as Error).message).toMatch(message);
  });
});
