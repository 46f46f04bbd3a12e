import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AbortError, ConfigError } from "../../base/errors.ts";
import { rejection } from "../../formats/testing.ts";
import { AutoTokenizer } from "../../generate/text/tokenizer.ts";
import type { Batch } from "./batch.ts";
import { IGNORE_INDEX } from "./example.ts";
import { DataLoader, type DataLoaderOptions } from "./loader.ts";
import { openDataRows, type RowSource } from "./source.ts";
import { collect, END, FIXTURES, jsonl, numbers, rowsOf, temporaryFile } from "./testing.ts";

/** Texts "n n n ...": row n holds its number, 2 to 9 times, so that a batch tells which rows are in it. */
const texts = (count: number) =>
  Array.from({ length: count }, (_, n) => `${n + 1} `.repeat(2 + ((n * 7) % 8)).trim());

const loader = (rows: RowSource, options: Partial<DataLoaderOptions> = {}) =>
  new DataLoader(rows, { tokenizer: numbers, max_length: 16, ...options });

/** Numbers of the rows in batches, in order of their first tokens. */
function rowsIn(batches: readonly Batch[]): number[] {
  const ids = batches
    .flatMap(({ micro_batches }) => micro_batches)
    .flatMap((micro) =>
      micro.input_ids.flatMap((tokens, s) => tokens.filter((_, i) => micro.positions[s]![i] === 0)),
    );
  return ids.map((id) => id - 1);
}

const ascending = (rows: readonly number[]) => [...rows].sort((a, b) => a - b);
const upTo = (n: number) => Array.from({ length: n }, (_, i) => i);

describe("batches", () => {
  test("a step's sequences in micro-batches, with the targets of the whole step", async () => {
    const rows = rowsOf(["1 1 1", "2 2", "3 3 3 3", "4", "5 5"]);
    const options = { max_length: 5, shuffle: false, packing: false };
    const batches = await collect(
      loader(rows, { ...options, micro_batch_size: 2, gradient_accumulation_steps: 2 }),
    );
    expect(batches).toHaveLength(2);
    const [first, last] = batches as [Batch, Batch];
    expect(first.micro_batches.map(({ input_ids }) => input_ids)).toEqual([
      [
        [1, 1, 1, END],
        [2, 2, END],
      ],
      [
        [3, 3, 3, 3, END],
        [4, END],
      ],
    ]);
    expect(first.micro_batches[0]!.labels).toEqual([
      [IGNORE_INDEX, 1, 1, END],
      [IGNORE_INDEX, 2, END],
    ]);
    expect(first.micro_batches.map(({ target_tokens }) => target_tokens)).toEqual([5, 5]);
    expect(first).toMatchObject({ target_tokens: 10, tokens: 14, epoch: 0, index: 0 });
    expect(last).toMatchObject({ target_tokens: 2, tokens: 3, epoch: 0, index: 1 }); // what is left of the epoch
  });

  test("targets are the labels that a shifted loss sees", async () => {
    for (const { micro_batches, target_tokens } of await collect(
      loader(rowsOf(texts(40)), { micro_batch_size: 3 }),
    )) {
      const shifted = micro_batches.flatMap(({ labels }) => labels.flatMap((row) => row.slice(1)));
      expect(target_tokens).toBe(shifted.filter((label) => label !== IGNORE_INDEX).length);
    }
  });

  test("every row once an epoch, in another order each time", async () => {
    const batches = await collect(loader(rowsOf(texts(50)), { epochs: 3, seed: 7 }));
    const orders = [0, 1, 2].map((epoch) => rowsIn(batches.filter((batch) => batch.epoch === epoch)));
    for (const order of orders) expect(ascending(order)).toEqual(upTo(50));
    expect(orders[0]).not.toEqual(orders[1]);
    expect(orders[1]).not.toEqual(orders[2]);
    expect(batches.map(({ index }) => index)).toEqual(upTo(batches.length));
  });

  test("the same seed gives the same batches, another seed others", async () => {
    const order = async (seed: number) => rowsIn(await collect(loader(rowsOf(texts(30)), { seed })));
    expect(await order(1)).toEqual(await order(1));
    expect(await order(2)).not.toEqual(await order(1));
  });

  test("packing wastes little: sequences but the last are nearly full", async () => {
    const batches = await collect(loader(rowsOf(texts(200)), { max_length: 64 }));
    const lengths = batches.map(({ tokens }) => tokens);
    expect(Math.min(...lengths.slice(0, -2))).toBeGreaterThanOrEqual(60);
  });

  test("memory: one row is read at a time, each of them once", async () => {
    const rows = rowsOf(texts(60));
    for await (const { cursor } of loader(rows, { look_ahead: 4 }))
      expect(cursor.waiting.length).toBeLessThanOrEqual(5);
    expect([...rows.reads.values()].every((reads) => reads === 1)).toBe(true);
    expect(rows.reads.size).toBe(60);
  });
});

describe("validation split", () => {
  test.each([0.2, 10])("%s: the two sides share no row and lack none", async (validation_size) => {
    const train = rowsIn(await collect(loader(rowsOf(texts(50)), { validation_size })));
    const held = rowsIn(await collect(loader(rowsOf(texts(50)), { validation_size, split: "validation" })));
    expect(ascending([...train, ...held])).toEqual(upTo(50));
    expect(held.length).toBeGreaterThan(0);
    if (validation_size === 10) expect(held).toHaveLength(10);
  });

  test("validation is in the order of the rows, and the same in every epoch", async () => {
    const options = { validation_size: 10, split: "validation", packing: false, epochs: 2 } as const;
    const held = rowsIn(await collect(loader(rowsOf(texts(50)), options)));
    expect(held.slice(0, 10)).toEqual(ascending(held.slice(0, 10)));
    expect(held.slice(10)).toEqual(held.slice(0, 10));
  });
});

describe("resuming", () => {
  /** Through JSON, as a file would. */
  const saved = (cursor: unknown): unknown => JSON.parse(JSON.stringify(cursor));

  test("from any batch on, the rest is the same, cursors included", async () => {
    const settings = fc.record({
      rows: fc.integer({ min: 1, max: 40 }),
      max_length: fc.integer({ min: 4, max: 30 }), // below the longest row: some are split
      look_ahead: fc.nat(5),
      micro_batch_size: fc.integer({ min: 1, max: 3 }),
      gradient_accumulation_steps: fc.integer({ min: 1, max: 2 }),
      packing: fc.boolean(),
      shuffle: fc.boolean(),
      seed: fc.nat(),
      epochs: fc.integer({ min: 1, max: 3 }),
    });
    await fc.assert(
      fc.asyncProperty(settings, fc.nat(), async ({ rows: count, ...options }, stop) => {
        const rows = rowsOf(texts(count).map((text) => `${text} `.repeat(3)));
        const all = await collect(loader(rows, options));
        const at = stop % all.length;
        const rest = await collect(loader(rows, { ...options, cursor: saved(all[at]!.cursor) }));
        expect(rest).toEqual(all.slice(at + 1));
      }),
      { numRuns: 150 },
    );
  });

  test("rows of a file, in groups or not, go on as well", async () => {
    const tokenizer = await AutoTokenizer.from_pretrained(join(FIXTURES, "checkpoints/llama"));
    const lines = temporaryFile(jsonl(upTo(30).map((n) => ({ text: `row ${n} `.repeat(1 + (n % 5)) }))));
    for (const path of [lines, join(FIXTURES, "data/groups.parquet")]) {
      await using rows = await openDataRows(path);
      const options = { tokenizer, max_length: 24, epochs: 2 };
      const all = await collect(loader(rows, options));
      await using reopened = await openDataRows(path);
      const middle = Math.floor(all.length / 2);
      expect(await collect(loader(reopened, { ...options, cursor: saved(all[middle]!.cursor) }))).toEqual(
        all.slice(middle + 1),
      );
    }
  });

  test("leaving the loop and coming back goes on, too", async () => {
    const data = loader(rowsOf(texts(30)));
    const batches: Batch[] = [];
    for (let i = 0; i < 3; i++) {
      for await (const batch of data) {
        batches.push(batch);
        if (i < 2) break;
      }
    }
    expect(batches).toEqual(await collect(loader(rowsOf(texts(30)))));
    expect(await collect(data)).toEqual([]);
    expect(data.cursor).toEqual(batches.at(-1)!.cursor);
  });

  test("with other data or another order the cursor is refused, and what differs is named", async () => {
    const { cursor } = (await collect(loader(rowsOf(texts(30)))))[0]!;
    const resume = (count: number, options: Partial<DataLoaderOptions>) => () =>
      loader(rowsOf(texts(count)), { cursor: saved(cursor), ...options });
    expect(resume(31, {})).toThrow(/rows was 30 and is 31; give what was given before/);
    expect(resume(30, { seed: 4 })).toThrow(/seed was 0 and is 4/);
    expect(resume(30, { validation_size: 3 })).toThrow(/validation_size was 0 and is 3/);
    expect(resume(30, { max_length: 17 })).toThrow(/max_length was 16 and is 17/);
    expect(resume(30, { micro_batch_size: 2 })).not.toThrow();
  });

  test.each([
    null,
    5,
    {},
    { version: 2 },
    { epoch: -1 },
    { position: 31 },
    { position: 0.5 },
    { waiting: 5 },
    { waiting: [[2]] },
    { waiting: [[30, 0]] },
    { batches: "1" },
  ])("a damaged cursor is refused: %j", async (damage) => {
    const { cursor } = (await collect(loader(rowsOf(texts(30)))))[0]!;
    const isWhole = typeof damage === "object" && damage !== null && Object.keys(damage).length > 0;
    const broken = isWhole ? { ...cursor, position: 20, ...damage } : damage;
    expect(() => loader(rowsOf(texts(30)), { cursor: broken })).toThrow(ConfigError);
  });

  test("a cursor that points past the end of a row says that something has changed", async () => {
    const { cursor } = (await collect(loader(rowsOf(texts(30)))))[0]!;
    const moved = { ...cursor, waiting: [[1, 999]] };
    const error = await rejection(collect(loader(rowsOf(texts(30)), { cursor: moved })));
    expect(String(error)).toMatch(/token 999 of memory: row \d+, which has \d+ tokens/);
  });
});

describe("failures", () => {
  test("a row that cannot be encoded is named by its file and line", async () => {
    const messages = [
      { role: "user", content: "Hi" },
      { role: "assistant", content: "Ho" },
    ];
    const path = temporaryFile(`${jsonl([{ text: "1 2" }])}\n${jsonl([{ messages }])}`);
    await using rows = await openDataRows(path);
    const error = await rejection(collect(loader(rows, { shuffle: false })));
    expect(error).toBeInstanceOf(ConfigError);
    expect(String(error)).toContain(`${path}: line 3: no template`);
  });

  test("rows with nothing to learn do not go on for ever", async () => {
    const error = await rejection(
      collect(loader(rowsOf(["", "", ""]), { epochs: Number.POSITIVE_INFINITY })),
    );
    expect(String(error)).toMatch(/of 3 rows, no row has a token to learn/);
    const held = { validation_size: 0.001, split: "validation" } as const;
    expect(String(await rejection(collect(loader(rowsOf(texts(3)), held))))).toMatch(
      /validation_size 0.001 keeps no row/,
    );
  });

  test("an abort ends the iteration", async () => {
    const controller = new AbortController();
    const data = loader(rowsOf(texts(30)), { signal: controller.signal });
    const reading = async () => {
      for await (const { index } of data) if (index === 1) controller.abort();
    };
    expect(await rejection(reading())).toBeInstanceOf(AbortError);
  });

  test.each<[Partial<DataLoaderOptions>, RegExp]>([
    [{ max_length: 1 }, /max_length is 1, expected a whole number of 2 or more/],
    [{ micro_batch_size: 0 }, /micro_batch_size is 0/],
    [{ gradient_accumulation_steps: 1.5 }, /gradient_accumulation_steps is 1.5/],
    [{ look_ahead: -1 }, /look_ahead is -1/],
    [{ seed: 2 ** 53 }, /seed is/],
    [{ epochs: 0 }, /epochs is 0/],
    [{ split: "test" as "train" }, /split is "test"/],
    [{ split: "validation" }, /give validation_size/],
    [{ validation_size: 30 }, /none would be left/],
  ])("refuses %j", (options, message) => {
    expect(() => loader(rowsOf(texts(30)), options)).toThrow(ConfigError);
    expect(() => loader(rowsOf(texts(30)), options)).toThrow(message);
  });
});
