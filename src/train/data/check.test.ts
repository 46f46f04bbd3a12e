import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AbortError, ConfigError } from "../../base/errors.ts";
import { rejection } from "../../formats/testing.ts";
import { type CheckOptions, checkRows } from "./check.ts";
import { RowEncoder } from "./encode.ts";
import { DataLoader } from "./loader.ts";
import { openDataRows } from "./source.ts";
import { collect, jsonl, numbers, rowsOf, temporaryFile } from "./testing.ts";

const OPTIONS: CheckOptions = { max_length: 8, isValidation: () => false };

describe("rows that cannot be used", () => {
  test("are listed with file and line, the first ones, whatever is wrong with them", async () => {
    const bad = [
      { text: 1 },
      { messages: [{ role: "assistant", content: "a" }] },
      { text: "5 99" },
      {},
      { text: null },
    ];
    const path = temporaryFile(jsonl([{ text: "5 6" }, ...bad, { txt: "" }]));
    await using rows = await openDataRows(path, { validate: false });
    const encoder = new RowEncoder(numbers, { vocab_size: 99 });
    const error = await rejection(checkRows(rows, encoder, OPTIONS));
    expect(error).toBeInstanceOf(ConfigError);
    expect(String(error)).toMatch(/6 of 7 rows cannot be used:\n/);
    for (const [line, problem] of [
      [2, '"text" is 1'],
      [3, "no template"],
      [4, "has the token 99"],
      [5, "holds nothing"],
      [6, '"text" is null'],
    ] as const)
      expect(String(error)).toContain(`${path}: line ${line}: ${problem}`);
    expect(String(error)).toMatch(/\n {2}and 1 more$/);
  });

  test("one alone is named by itself", async () => {
    const path = temporaryFile(jsonl([{ text: "5" }, { text: 7 }]));
    await using rows = await openDataRows(path, { validate: false });
    const error = String(await rejection(checkRows(rows, new RowEncoder(numbers), OPTIONS)));
    expect(error).toBe(`ConfigError: ${path}: line 2: "text" is 7, expected a string`);
  });
});

test("rows, tokens and targets of both sides are counted; an abort ends it", async () => {
  const rows = rowsOf(["5 6 7", "8", "9 9"]);
  const seen: number[] = [];
  const facts = await checkRows(rows, new RowEncoder(numbers), {
    ...{ max_length: 8, isValidation: (row) => row === 1 },
    progress: (done) => seen.push(done),
  });
  expect(facts.train).toEqual({ rows: 2, tokens: 4 + 3, targets: 3 + 2 });
  expect(facts.held_out).toEqual({ rows: 1, tokens: 2, targets: 1 });
  expect(seen).toEqual([1, 2, 3]);
  const signal = AbortSignal.abort();
  const aborted = checkRows(rows, new RowEncoder(numbers), { ...OPTIONS, signal });
  expect(await rejection(aborted)).toBeInstanceOf(AbortError);
});

test("what stands for the rows packs as they do", async () => {
  // A completion whose prompt is longer than a sequence has pieces with nothing to learn.
  const row = fc.record({ prompt: fc.nat(20), completion: fc.nat(12) });
  await fc.assert(
    fc.asyncProperty(
      fc.array(row, { minLength: 1, maxLength: 20 }),
      fc.integer({ min: 2, max: 9 }),
      fc.boolean(),
      async (lengths, max_length, packing) => {
        const words = (n: number) => Array.from({ length: n }, (_, i) => `${i + 1}`).join(" ");
        const path = temporaryFile(
          jsonl(lengths.map((l) => ({ prompt: words(l.prompt), completion: ` ${words(l.completion)}` }))),
        );
        await using rows = await openDataRows(path);
        const facts = await checkRows(rows, new RowEncoder(numbers), { ...OPTIONS, max_length });
        const options = { tokenizer: numbers, max_length, packing, epochs: 2 };
        const sizes = async (more: object) =>
          (await collect(new DataLoader(rows, { ...options, ...more }))).map(
            (b) => b.micro_batches[0]?.lengths,
          );
        expect(await sizes({ stands: (at: number) => facts.stand(at) })).toEqual(await sizes({}));
      },
    ),
    { numRuns: 60 },
  );
});
