import { appendFileSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { openHandles, rejection, temporaryFolder } from "../../checkpoint/testing.ts";
import { AbortError, CheckpointError, ConfigError, DisposedError } from "../../errors.ts";
import type { Row } from "./row.ts";
import { type OpenRowsOptions, openRows } from "./source.ts";
import { jsonl, temporaryFile } from "./testing.ts";

/** Every row of a file with this content. */
async function rowsIn(content: string | Uint8Array, options?: OpenRowsOptions): Promise<Row[]> {
  await using rows = await openRows(temporaryFile(content), options);
  return Promise.all(Array.from({ length: rows.rows }, (_, i) => rows.read(i)));
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
    await using rows = await openRows(paths);
    expect(rows.rows).toBe(4);
    expect(await rows.read(2)).toEqual({ kind: "text", text: "c" });
    expect(await rows.read(3)).toEqual({ kind: "text", text: "d" });
    expect(await rows.locate(1)).toBe(`${paths[0]}: line 2`);
    expect(await rows.locate(3)).toBe(`${paths[1]}: line 5`);
  });
});

describe("bad rows", () => {
  test.each<[string, string | Uint8Array, RegExp]>([
    ["not JSON", '{"text":"a"}\n\n{"text":\n', /line 3: is not JSON/],
    ["no row", '{"text":"a"}\n{"txt":"b"}\n', /line 2: holds "txt"/],
    ["a JSON array", '[\n{"text":"a"}\n]', /line 1: begins a JSON array: write one object a line/],
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
    const error = await rejection(openRows(path));
    expect(error).toBeInstanceOf(ConfigError);
    expect(String(error)).toContain(path);
    expect(String(error)).toMatch(message);
    expect(openHandles(dirname(path)) ?? 0).toBe(0);
  });

  test("all of them are counted, the first ones listed", async () => {
    const content = Array.from({ length: 20 }, (_, i) => (i % 2 === 0 ? "no" : '{"text":"a"}')).join("\n");
    const error = String(await rejection(openRows(temporaryFile(content))));
    expect(error).toMatch(
      /10 of 20 rows cannot be used:\n {2}line 1: .*\n {2}line 3: [\s\S]*line 9: .*\n {2}and 5 more/,
    );
  });

  test("left for later, a bad row is an error when its turn comes, and only then", async () => {
    const path = temporaryFile(`\ufeff\n{"text":"a"}\n\n{"text":1}\n${jsonl([{ text: "c" }])}`);
    await using rows = await openRows(path, { validate: false });
    expect(await rows.read(0)).toMatchObject({ text: "a" });
    expect(await rows.read(2)).toMatchObject({ text: "c" });
    expect(String(await rejection(rows.read(1)))).toContain(`${path}: line 4: "text" is 1`);
  });

  test("a row over the limit is named before it is in memory", async () => {
    const row = JSON.stringify({ text: "x".repeat(100) }); // 111 bytes
    expect(await rowsIn(`${row}\n${row}`, { max_row_bytes: row.length })).toHaveLength(2);
    for (const content of [`{"text":""}\n${row}\n`, `{"text":""}\n${row}`]) {
      const error = rejection(rowsIn(content, { max_row_bytes: row.length - 1 }));
      expect(String(await error)).toMatch(/line 2: is longer than 110 bytes: .*max_row_bytes/);
    }
  });
});

describe("files", () => {
  test.each([
    ["nothing", "", /no rows in it/],
    ["blank lines", "\n\n  \n", /no rows in it/],
    ["gzip", Buffer.from([0x1f, 0x8b, 8, 0]), /compressed with gzip: unpack it first/],
  ])("%s", async (_what, content, message) => {
    expect(String(await rejection(openRows(temporaryFile(content))))).toMatch(message);
  });

  test("a missing file, a folder, no file at all", async () => {
    const dir = temporaryFolder();
    mkdirSync(join(dir, "folder"));
    expect(await rejection(openRows(join(dir, "none.jsonl")))).toBeInstanceOf(CheckpointError);
    expect(String(await rejection(openRows(join(dir, "folder"))))).toMatch(/not a regular file/);
    expect(await rejection(openRows([]))).toBeInstanceOf(ConfigError);
    expect(await rejection(openRows(temporaryFile("{}"), { max_row_bytes: 0 }))).toBeInstanceOf(ConfigError);
  });

  test("a file that grows while it is open does not change the rows; one failure closes all files", async () => {
    const path = temporaryFile(jsonl([{ text: "a" }]));
    await using rows = await openRows(path);
    appendFileSync(path, "garbage\n");
    expect(rows.rows).toBe(1);
    expect(await rows.read(0)).toMatchObject({ text: "a" });
    expect(await rejection(openRows([path, `${path}.none`], { validate: false }))).toBeInstanceOf(
      CheckpointError,
    );
    expect(openHandles(dirname(path)) ?? 1).toBe(1);
  });

  test("closing twice is fine, reading afterwards is not", async () => {
    const path = temporaryFile(jsonl([{ text: "a" }]));
    const rows = await openRows(path);
    await rows.close();
    await rows.close();
    expect(openHandles(dirname(path)) ?? 0).toBe(0);
    expect(await rejection(rows.read(0))).toBeInstanceOf(DisposedError);
  });

  test("an abort ends the indexing", async () => {
    const path = temporaryFile(jsonl([{ text: "a" }]));
    expect(await rejection(openRows(path, { signal: AbortSignal.abort() }))).toBeInstanceOf(AbortError);
    expect(openHandles(dirname(path)) ?? 0).toBe(0);
  });
});
