import { appendFileSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AbortError, CheckpointError, ConfigError, DisposedError } from "../../../base/errors.ts";
import { openHandles, rejection, temporaryFolder } from "../../../formats/testing.ts";
import type { Row } from "../row.ts";
import { type OpenRowsOptions, openDataRows } from "../source.ts";
import { jsonl, temporaryFile } from "../testing.ts";

/** Every row of a file with this content. */
async function rowsIn(content: string | Uint8Array, options?: OpenRowsOptions): Promise<Row[]> {
  await using rows = await openDataRows(temporaryFile(content), options);
  return await Promise.all(Array.from({ length: rows.rows }, (_, i) => rows.read(i)));
}

const texts = (...all: string[]) => all.map((text) => ({ kind: "text", text }));

describe("JSONL", () => {
  test("one row a line; the last line may lack its end", async () => {
    expect(await rowsIn('{"text":"a"}\n{"text":"b"}')).toEqual(texts("a", "b"));
  });

  test("a byte order mark, CRLF and blank lines are taken", async () => {
    expect(await rowsIn('\ufeff{"text":"a"}\r\n\r\n \t\n{"text":"b\\r\\n"}\r\n\n')).toEqual(
      texts("a", "b\r\n"),
    );
  });

  test("rows longer than any single read", async () => {
    const long = ["x".repeat(100), "y".repeat(3_000_000), "z".repeat(70_000), "w".repeat(65_525)];
    expect(await rowsIn(jsonl(long.map((text) => ({ text }))))).toEqual(texts(...long));
  });

  test("whatever the texts, line ends and blank lines, the rows come back", async () => {
    const line = fc.record({
      text: fc.string({ unit: "grapheme", maxLength: 40 }),
      end: fc.constantFrom("\n", "\r\n", "\n\n", "\n  \t\r\n"),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(line, { minLength: 1, maxLength: 30 }), fc.boolean(), async (lines, mark) => {
        const content = lines.map(({ text, end }) => JSON.stringify({ text }) + end).join("");
        expect(await rowsIn(mark ? `\ufeff${content}` : content)).toEqual(
          texts(...lines.map(({ text }) => text)),
        );
      }),
      { numRuns: 50 },
    );
  });

  test("several files are numbered through, and rows are named by their own file and line", async () => {
    const dir = temporaryFolder();
    const paths = ["a.jsonl", "b.jsonl"].map((name) => join(dir, name));
    writeFileSync(paths[0]!, jsonl([{ text: "a" }, { text: "b" }]));
    writeFileSync(paths[1]!, `\n${jsonl([{ text: "c" }])}\n\n${jsonl([{ text: "d" }])}`);
    await using rows = await openDataRows(paths);
    expect(rows.rows).toBe(4);
    expect(await rows.read(2)).toEqual({ kind: "text", text: "c" });
    expect(await rows.read(3)).toEqual({ kind: "text", text: "d" });
    expect(await rows.locate(1)).toBe(`${paths[0]}: line 2`);
    expect(await rows.locate(3)).toBe(`${paths[1]}: line 5`);
  });
});

describe("JSON", () => {
  test.each([
    ["on one line", (rows: unknown[]) => JSON.stringify(rows)],
    [
      "pretty-printed, with a byte order mark",
      (rows: unknown[]) => `\ufeff${JSON.stringify(rows, null, 4)}\r\n`,
    ],
    ["a row a line", (rows: unknown[]) => `[\n${rows.map((row) => JSON.stringify(row)).join(",\n")}\n]`],
  ])("an array of objects, %s", async (_what, write) => {
    const all = ['a "quoted" \\ [text', "b]}", "", "\u00e4\ud83d\ude00", "c".repeat(3_000_000)];
    expect(await rowsIn(write(all.map((text) => ({ meta: { list: [1, "]"] }, text }))))).toEqual(
      texts(...all),
    );
  });

  test("whatever the texts, the rows come back, and each is found on its line", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.string({ unit: "grapheme", maxLength: 30 }), { minLength: 1, maxLength: 20 }),
        fc.nat(4),
        async (all, indent) => {
          const content = JSON.stringify(
            all.map((text) => ({ text })),
            null,
            indent,
          );
          await using rows = await openDataRows(temporaryFile(content, "rows.json"));
          for (const [i, text] of all.entries()) expect(await rows.read(i)).toMatchObject({ text });
          const line = indent === 0 ? 1 : 2 + 3 * (all.length - 1);
          expect(await rows.locate(all.length - 1)).toMatch(`line ${line}, row ${all.length}`);
        },
      ),
      { numRuns: 40 },
    );
  });
});

describe("bad rows", () => {
  test.each<[string, string | Uint8Array, RegExp]>([
    ["not JSON", '{"text":"a"}\n\n{"text":\n', /line 3: is not JSON/],
    ["no row", '{"text":"a"}\n{"txt":"b"}\n', /line 2: holds "txt"/],
    [
      "an array on a line",
      '{"text":"a"}\n[{"text":"b"}]',
      /line 2: is \[\{"text": "b"\}\], expected an object/,
    ],
    ["an array cut short", '[\n{"text":"a"},\n{"text":"b"}\n', /line 4: ends before the array does/],
    ["an array without a comma", '[{"text":"a"}\n{"text":"b"}]', /line 2: has no comma between two rows/],
    ["an array and more", '[{"text":"a"}]\n{"text":"b"}', /line 2: goes on after the end of the array/],
    ["an array with a bad row", '[\n{"text":"a"},\n{"txt":"b"}]', /line 3, row 2: holds "txt"/],
    ["control characters", '{"text": "a\u001b[2J\u0007"', /line 1: is not JSON \([^\p{Cc}]*$/u],
    ["a value nested beyond reason", `{"text":${"[".repeat(1000)}`, /line 1: is not JSON \(nests deeper/],
    [
      "latin-1",
      Buffer.concat([Buffer.from('{"text":"a'), Buffer.from([0xe9]), Buffer.from('"}')]),
      /line 1: is not UTF-8/,
    ],
    [
      "UTF-16",
      Buffer.from('\ufeff{"text":"a"}\n', "utf16le"),
      /line 1: is not UTF-8 text: it looks like UTF-16/,
    ],
  ])("%s: file, line and what is wrong", async (_what, content, message) => {
    const path = temporaryFile(content);
    const error = await rejection(openDataRows(path));
    expect(error).toBeInstanceOf(ConfigError);
    expect(String(error)).toContain(path);
    expect(String(error)).toMatch(message);
    expect(openHandles(dirname(path)) ?? 0).toBe(0);
  });

  test("all of them are counted, the first ones listed", async () => {
    const content = Array.from({ length: 20 }, (_, i) => (i % 2 === 0 ? "no" : '{"text":"a"}')).join("\n");
    const error = String(await rejection(openDataRows(temporaryFile(content))));
    expect(error).toMatch(
      /10 of 20 rows cannot be used:\n {2}line 1: .*\n {2}line 3: [\s\S]*line 9: .*\n {2}and 5 more/,
    );
  });

  test("left for later, a bad row is an error when its turn comes, and only then", async () => {
    const path = temporaryFile(`\ufeff\n{"text":"a"}\n\n{"text":1}\n${jsonl([{ text: "c" }])}`);
    await using rows = await openDataRows(path, { validate: false });
    expect(await rows.read(0)).toMatchObject({ text: "a" });
    expect(await rows.read(2)).toMatchObject({ text: "c" });
    expect(String(await rejection(rows.read(1)))).toContain(`${path}: line 4: "text" is 1`);
  });

  test("a row over the limit is named before it is in memory", async () => {
    const row = JSON.stringify({ text: "x".repeat(100) }); // 111 bytes
    expect(await rowsIn(`${row}\n${row}`, { max_row_bytes: row.length })).toHaveLength(2);
    for (const content of [`{"text":""}\n${row}\n`, `{"text":""}\n${row}`]) {
      const error = rejection(rowsIn(content, { max_row_bytes: row.length - 1 }));
      expect(String(await error)).toMatch(/line 2: is longer than 110 bytes: split it into several rows/);
    }
  });
});

describe("files", () => {
  test.each([
    ["nothing", "", /no rows in it/],
    ["blank lines", "\n\n  \n", /no rows in it/],
    ["an empty array", "[ ]", /no rows in it/],
    ["an Arrow file", "ARROW1\0\0", /is an Arrow file: write it as Parquet/],
    ["gzip", Buffer.from([0x1f, 0x8b, 8, 0]), /compressed with gzip: unpack it first/],
  ])("%s", async (_what, content, message) => {
    expect(String(await rejection(openDataRows(temporaryFile(content))))).toMatch(message);
  });

  test("a table with separators is named, with what to do", async () => {
    const path = temporaryFile("text,label\na,1\n", "rows.csv");
    expect(String(await rejection(openDataRows(path)))).toMatch(
      /is a table of CSV.*write it as JSON Lines or Parquet/,
    );
  });

  test("columns that nothing uses are known once rows have been read", async () => {
    const path = temporaryFile(
      jsonl([
        { text: "a", id: 1 },
        { text: "b", source: "x" },
      ]),
    );
    await using rows = await openDataRows(path);
    expect(rows.unused).toEqual(new Map());
    for (const row of [0, 1]) await rows.read(row);
    expect(rows.unused).toEqual(new Map([[path, ["id", "source"]]]));
  });

  test("a missing file, a folder, no file at all", async () => {
    const dir = temporaryFolder();
    mkdirSync(join(dir, "folder"));
    expect(await rejection(openDataRows(join(dir, "none.jsonl")))).toBeInstanceOf(CheckpointError);
    expect(String(await rejection(openDataRows(join(dir, "folder"))))).toMatch(/not a regular file/);
    expect(await rejection(openDataRows([]))).toBeInstanceOf(ConfigError);
    expect(await rejection(openDataRows(temporaryFile("{}"), { max_row_bytes: 0 }))).toBeInstanceOf(
      ConfigError,
    );
  });

  test("a file that grows while it is open does not change the rows; one failure closes all files", async () => {
    const path = temporaryFile(jsonl([{ text: "a" }]));
    await using rows = await openDataRows(path);
    appendFileSync(path, "garbage\n");
    expect(rows.rows).toBe(1);
    expect(await rows.read(0)).toMatchObject({ text: "a" });
    expect(await rejection(openDataRows([path, `${path}.none`], { validate: false }))).toBeInstanceOf(
      CheckpointError,
    );
    expect(openHandles(dirname(path)) ?? 1).toBe(1);
  });

  test("closing twice is fine, reading afterwards is not", async () => {
    const path = temporaryFile(jsonl([{ text: "a" }]));
    const rows = await openDataRows(path);
    await rows.close();
    await rows.close();
    expect(openHandles(dirname(path)) ?? 0).toBe(0);
    expect(await rejection(rows.read(0))).toBeInstanceOf(DisposedError);
  });

  test("an abort ends the indexing", async () => {
    const path = temporaryFile(jsonl([{ text: "a" }]));
    expect(await rejection(openDataRows(path, { signal: AbortSignal.abort() }))).toBeInstanceOf(AbortError);
    expect(openHandles(dirname(path)) ?? 0).toBe(0);
  });
});
