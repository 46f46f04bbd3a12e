import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { PageHeader } from "hyparquet";
import { describe, expect, test } from "vitest";
import { ConfigError } from "../../../base/errors.ts";
import { rejection } from "../../../formats/testing.ts";
import { openDataRows } from "../source.ts";
import { FIXTURES, temporaryFile } from "../testing.ts";
import { type ColumnChunk, checkPages } from "./parquet-pages.ts";

const column: ColumnChunk = {
  column: { codec: "UNCOMPRESSED", type: "BYTE_ARRAY" },
  maxRepetition: 0,
  maxDefinition: 1,
  rows: 4,
  maxBytes: 1000,
};

/** Definition levels as a page has them: their length in 4 bytes, then runs. */
const levels = (...runs: number[]) => [runs.length, 0, 0, 0, ...runs];
/** Four values that are there: one run of 4 (length times 2), level 1. */
const FOUR = levels(8, 1);

/** Checks one page of `body`; each header takes one byte of the chunk. `changes` are what the header says wrongly. */
function check(
  body: readonly number[],
  changes: Partial<PageHeader> = {},
  chunk: Partial<ColumnChunk> = {},
): void {
  const header: PageHeader = {
    type: "DATA_PAGE",
    uncompressed_page_size: body.length,
    compressed_page_size: body.length,
    data_page_header: {
      num_values: 4,
      encoding: "PLAIN",
      definition_level_encoding: "RLE",
      repetition_level_encoding: "RLE",
    },
    ...changes,
  };
  const parquetHeader = (reader: { offset: number }) => {
    reader.offset++;
    return header;
  };
  checkPages(Uint8Array.from([0, ...body]), { ...column, ...chunk }, { parquetHeader, compressors: {} });
}

const dataPage = (num_values: number, encoding: "PLAIN" | "RLE_DICTIONARY" = "PLAIN") => ({
  data_page_header: {
    num_values,
    encoding,
    definition_level_encoding: "RLE" as const,
    repetition_level_encoding: "RLE" as const,
  },
});

describe("checkPages", () => {
  test("takes runs of equal levels and packed ones, which may fill up a group", () => {
    check(FOUR);
    check(levels(3, 0b1111)); // one packed group of 8 values, of which 4 count
    check([...levels(8, 1), 2, 3, 0b11_10_01_00, 0], dataPage(4, "RLE_DICTIONARY")); // indices 0 to 3 of 2 bits
  });

  test("values that are absent have no index", () => {
    check([...levels(3, 0b0101), 2, 4, 1], dataPage(4, "RLE_DICTIONARY")); // two are there: a run of 2
    expect(() => check([...levels(3, 0b0101), 2, 8, 1], dataPage(4, "RLE_DICTIONARY"))).toThrow(
      /a run of 4 where 2/,
    );
  });

  test("rows of lists begin where the repetition level is 0", () => {
    const lists = { maxRepetition: 1, rows: 2 };
    check([...levels(3, 0b1010), ...FOUR], {}, lists); // levels 0 1 0 1
    expect(() => check([...levels(3, 0b1000), ...FOUR], {}, lists)).toThrow(/3 rows of 2/);
  });

  test.each<[string, () => void, RegExp]>([
    [
      "a page that ends before it begins",
      () => check(FOUR, { compressed_page_size: -5 }),
      /bytes of a page is -5/,
    ],
    [
      "a page past the column",
      () => check(FOUR, { compressed_page_size: 7 }),
      /bytes of a page is 7, at most 6/,
    ],
    [
      "a page that grows too large",
      () => check(FOUR, { uncompressed_page_size: 1001 }),
      /decompressed pages is 1001/,
    ],
    ["fewer values than none", () => check(FOUR, dataPage(-1)), /values of a column is -1/],
    ["values without end", () => check(FOUR, dataPage(2 ** 31)), /values of a column is 2147483648/],
    ["rows that are not there", () => check(FOUR, {}, { rows: 5 }), /4 rows of 5/],
    [
      "a run without end",
      () => check(levels(0xfe, 0xff, 0xff, 0xff, 0x0f, 1)),
      /a run of 2147483647 where 4/,
    ],
    ["a run with an endless length", () => check(levels(...Array<number>(9).fill(0xff))), /not a number/],
    ["levels past the page", () => check([99, 0, 0, 0, 8, 1]), /bytes of levels is 99, at most 2/],
    ["a page cut short", () => check([1, 0]), /./],
    ["unknown compression", () => check(FOUR, {}, { column: { codec: "LZO", type: "BYTE_ARRAY" } }), /LZO/],
  ])("refuses %s", (_what, run, message) => {
    expect(run).toThrow(RangeError);
    expect(run).toThrow(message);
  });
});

test("a file that made the decoder go round for ever is an error", async () => {
  const bytes = Buffer.from(readFileSync(join(FIXTURES, "data/groups.parquet")));
  bytes[12] = 0x9e; // more values in the first page than the row group has
  await using rows = await openDataRows(temporaryFile(bytes));
  const error = await rejection(rows.read(0));
  expect(error).toBeInstanceOf(ConfigError);
  expect(String(error)).toMatch(/row group 0 cannot be read/);
  expect(await rows.read(4)).toEqual({ kind: "text", text: "row 4" });
});
