// The fixtures are written by DuckDB 1.5 (text.*, completion, messages) and hyparquet-writer 0.17 (groups: 4, 1, 7, 3 rows).
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ConfigError, SpillwayError } from "../../../base/errors.ts";
import { openHandles, rejection } from "../../../formats/testing.ts";
import { AutoTokenizer } from "../../../generate/text/tokenizer.ts";
import { RowEncoder } from "../encode.ts";
import type { Example } from "../example.ts";
import type { ChatRow } from "../row.ts";
import { openDataRows } from "../source.ts";
import { FIXTURES, jsonl, temporaryFile } from "../testing.ts";
import { GROUP_CACHE_BYTES, GroupCache } from "./parquet.ts";

const fixture = (name: string) => join(FIXTURES, "data", name);

describe("Parquet", () => {
  test.each(["uncompressed", "snappy", "zstd", "gzip", "brotli", "lz4_raw"])(
    "texts, compression %s",
    async (codec) => {
      await using rows = await openDataRows(fixture(`text.${codec}.parquet`));
      const read = await Promise.all(Array.from({ length: rows.rows }, (_, i) => rows.read(i)));
      const texts = ["The fox ran home.", "A bird sang: über 😀!", "", "It was late.\nThe moon rose."];
      expect(read).toEqual(texts.map((text) => ({ kind: "text", text })));
    },
  );

  test("prompts with completions; columns that rows are not made of are not read", async () => {
    await using rows = await openDataRows(fixture("completion.parquet"));
    expect(rows.rows).toBe(9);
    expect(await rows.read(5)).toEqual({ kind: "completion", prompt: "What is 1 + 2?", completion: " 3" });
  });

  test("conversations; a row without one is named", async () => {
    const path = fixture("messages.parquet");
    await using rows = await openDataRows(path);
    expect(await rows.read(0)).toEqual({
      kind: "chat",
      learned: [2],
      tools: null,
      messages: [
        { role: "system", content: "Be brief." },
        { role: "user", content: "Hi" },
        { role: "assistant", content: "Hello." },
      ],
    });
    expect(String(await rejection(rows.read(2)))).toContain(
      `${path}: row 3: "messages" is null, and there is no other of`,
    );
  });

  // Written by pyarrow: one message with a field of each kind. What is expected is str() of its to_pylist().
  test("values are what Python's readers give, in the types of JSON", async () => {
    await using rows = await openDataRows(fixture("kinds.parquet"));
    const [first, second, third] = await Promise.all(
      [0, 1, 2].map(async (row) => ((await rows.read(row)) as ChatRow).messages[0]),
    );
    expect(first).toEqual({
      ...{ int64: 1, uint64: 1, int8: 1, f32: 1.5, f16: 1.5, bool: true, bin: "abc", fixed: "abc" },
      ...{ date: "2024-01-02", ts_us: "2024-01-02 03:04:05.678901", ts_ms: "2024-01-02 03:04:05.678000" },
      ...{ ts_ns: "2024-01-02 03:04:05.678901", ts_utc: "2024-01-02 03:04:05.678901+00:00" },
      ...{
        ts_berlin: "2024-01-02 03:04:05.678901+00:00",
        time: "03:04:05.678901",
        time32: "03:04:05.678000",
      },
      ...{ dec: "1.50", declong: "12345678901234567890123456.78", list: [1, 2], map: { a: 1, b: 2 } },
      ...{ struct: { a: 1, b: null }, dict: "x", large: "x", dur: 5_000_000, role: "user", content: "hi" },
    });
    expect(second).toMatchObject({
      ...{ int64: 2n ** 60n, uint64: 2n ** 64n - 1n, bin: String.raw`b'\xff\xfe'`, date: "1969-12-31" },
      ...{ dec: "-0.05", declong: "0.00", list: [], ts_ns: "1970-01-01 00:00:00", time: "03:04:05" },
    });
    expect(new Set(Object.values({ ...third, role: null, content: null }))).toEqual(new Set([null]));
  });

  test("whole numbers beside the messages reach a template, which may print them", async () => {
    const chatml = await AutoTokenizer.from_pretrained(join(FIXTURES, "checkpoints/llama"));
    await using rows = await openDataRows(fixture("whole-numbers.parquet"));
    const chat_template = "{% for m in messages %}{{ m.turn }} {{ m.content }};{% endfor %}";
    const encoder = new RowEncoder(chatml, { template_options: { chat_template } });
    const { input_ids } = (await encoder.encode(await rows.read(3))) as Example;
    expect(chatml.decode(input_ids)).toBe("0 Say 3;1 It is 3.;");
  });

  test("rows are found in their row groups, across files", async () => {
    await using rows = await openDataRows([fixture("groups.parquet"), fixture("groups.parquet")]);
    expect(rows.groups?.map((group) => group.rows)).toEqual([4, 1, 7, 3, 4, 1, 7, 3]);
    for (const row of [0, 3, 4, 5, 11, 12, 14, 15, 29]) {
      expect(await rows.read(row)).toEqual({ kind: "text", text: `row ${row % 15}` });
    }
  });

  test("other columns: the message lists them", async () => {
    const bytes = Buffer.from(readFileSync(fixture("text.uncompressed.parquet")));
    for (let at = bytes.indexOf("text"); at !== -1; at = bytes.indexOf("text", at)) bytes.write("body", at);
    const error = await rejection(openDataRows(temporaryFile(bytes)));
    expect(String(error)).toMatch(/has the columns id, body; rows are made of "text"/);
  });

  test("JSONL beside Parquet is refused", async () => {
    const path = temporaryFile(jsonl([{ text: "a" }]));
    expect(String(await rejection(openDataRows([fixture("groups.parquet"), path])))).toMatch(
      /is Parquet and .* is not/,
    );
    expect(openHandles(dirname(path)) ?? 0).toBe(0);
  });

  test("whatever is cut off or overwritten: rows, or an error on purpose, and no handle stays open", async () => {
    const whole = readFileSync(fixture("messages.parquet"));
    const damage = fc.oneof(
      fc.record({ at: fc.nat(whole.length - 1), bytes: fc.uint8Array({ minLength: 1, maxLength: 4 }) }),
      fc.record({ at: fc.nat(whole.length - 1), bytes: fc.constant(undefined) }),
    );
    await fc.assert(
      fc.asyncProperty(damage, async ({ at, bytes }) => {
        const broken = Buffer.from(bytes === undefined ? whole.subarray(0, at) : whole);
        if (bytes !== undefined) broken.set(bytes.subarray(0, broken.length - at), at);
        const path = temporaryFile(broken);
        try {
          await using rows = await openDataRows(path);
          for (let row = 0; row < Math.min(rows.rows, 5); row++) await rows.read(row);
        } catch (error) {
          expect(error).toBeInstanceOf(SpillwayError);
          expect(String(error)).toContain(path);
        }
        expect(openHandles(dirname(path)) ?? 0).toBe(0);
      }),
      { numRuns: 300 },
    );
  });
});

describe("GroupCache", () => {
  const half = GROUP_CACHE_BYTES / 2;

  test("keeps the groups used last, as many as fit", async () => {
    const cache = new GroupCache();
    const decoded: string[] = [];
    const use = (key: string, bytes: number) =>
      cache.get(key, bytes, async () => {
        decoded.push(key);
        return [key];
      });
    for (const key of ["a", "b", "a", "c", "a", "b"]) await use(key, half);
    expect(decoded).toEqual(["a", "b", "c", "b"]); // c took the place of b, a had been used since
    await use("huge", 10 * half);
    await use("huge", 10 * half);
    await use("a", half);
    expect(decoded).toEqual(["a", "b", "c", "b", "huge", "a"]);
  });

  test("a failure is not kept", async () => {
    const cache = new GroupCache();
    const fail = () => Promise.reject(new ConfigError("broken"));
    expect(await rejection(cache.get("a", 1, fail))).toBeInstanceOf(ConfigError);
    expect(await cache.get("a", 1, async () => ["fine"])).toEqual(["fine"]);
  });
});
