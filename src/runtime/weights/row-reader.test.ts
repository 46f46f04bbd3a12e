import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Device, findDevice } from "../../backend/ggml/device.ts";
import { AbortError, IoError } from "../../base/errors.ts";
import { temporaryFolder } from "../../formats/testing.ts";
import { type BeforeRead, DirectFile, openFileCount, type SystemRead } from "../../memory/io/direct-io.ts";
import { ReadQueue } from "../../memory/io/read-queue.ts";
import { Ledger } from "../../memory/ledger.ts";
import { systemError } from "../../memory/testing.ts";
import type { Matrix } from "../../plan/units.ts";
import type { Residents } from "./residents.ts";
import { RowReader, rowStagingBytes } from "./row-reader.ts";
import { SourceFiles } from "./sources.ts";

const ROWS = 4096;
const WIDTH = 96;
const ROW = WIDTH * 4;
/** The table begins in the middle of a page. */
const OFFSET = 1000;

const TABLE: Matrix = {
  ...{ name: "embed", dtype: "f32", ne: [WIDTH, ROWS], transposed: false, kept: false, rowsOnly: true },
  source: { name: "embed", dtype: "f32", shape: [ROWS, WIDTH], file: 0, offset: OFFSET, bytes: ROWS * ROW },
  bytes: ROWS * ROW,
};
const NOWHERE = { matrix: () => undefined } as unknown as Residents;

let cpu: Device;
let reader: RowReader;
let sources: SourceFiles;
const ledger = new Ledger();
const values = Float32Array.from({ length: ROWS * WIDTH }, (_, i) => i);
let reads: SystemRead[];
let answer: BeforeRead;

beforeEach(async () => {
  const path = join(temporaryFolder(), "table");
  writeFileSync(path, Buffer.concat([Buffer.alloc(OFFSET, 7), Buffer.from(values.buffer)]));
  cpu = Device.open(findDevice("cpu"), { threads: 1 });
  const file = await DirectFile.open(path);
  sources = new SourceFiles();
  sources.addPlace(() => ({ file, offset: 0 }));
  reads = [];
  answer = () => {};
  const beforeRead: BeforeRead = (read) => {
    reads.push({ ...read });
    return answer(read);
  };
  reader = new RowReader(cpu, ledger, NOWHERE, sources, [TABLE], new ReadQueue({ beforeRead }));
  closeFile = () => file.close();
});
let closeFile: () => Promise<void>;
afterEach(async () => {
  await reader.dispose();
  ledger.assertEmpty();
  await closeFile();
  await cpu.dispose();
  expect(openFileCount()).toBe(0);
});

async function gather(ids: number[], signal?: AbortSignal): Promise<Uint8Array> {
  const rows = new Uint8Array(ids.length * ROW);
  await reader.gather(TABLE, Int32Array.from(ids), rows, signal);
  return rows;
}

async function expectRows(ids: number[]): Promise<void> {
  const bytes = await gather(ids);
  const expected = ids.map((id) => Buffer.from(values.buffer, id * ROW, ROW));
  expect(Buffer.from(bytes.buffer).equals(Buffer.concat(expected))).toBe(true);
}

describe("rows of a table on disk", () => {
  test("in the order asked for, as often as asked for, first and last among them", async () => {
    await expectRows([5, 0, ROWS - 1, 5, 77, 5]);
  });

  test("one row is one read of the pages it is in", async () => {
    await expectRows([123]);
    expect(reads.map(({ length }) => length)).toEqual([4096]);
    expect(reader.readBytes).toBe(4096);
  });

  test("rows near one another are one read, those far apart are not", async () => {
    await expectRows([10, 14, 12, 300]);
    expect(reads).toHaveLength(1);
    reads.length = 0;
    await expectRows([10, 2000, 4000]); // 750 KiB between them
    expect(reads).toHaveLength(3);
    expect(reader.readBytes).toBeLessThan(256 * 1024);
  });

  test("all of them: as many reads as slots of the memory set aside, and more than one at a time", async () => {
    await expectRows(Array.from({ length: ROWS }, (_, i) => (i * 1031) % ROWS));
    const slot = rowStagingBytes([TABLE]) / 4;
    expect(reads.length).toBeLessThanOrEqual(Math.ceil((ROWS * ROW) / (slot - 2 * 4096)) + 1);
    expect(Math.max(...reads.map(({ length }) => length))).toBeLessThanOrEqual(slot);
  });

  test("a read that fails, or an abort, ends it with its reason; nothing more is read", async () => {
    const all = Array.from({ length: ROWS }, (_, i) => i);
    answer = () => {
      throw systemError("EIO");
    };
    await expect(gather(all)).rejects.toThrow(IoError);
    expect(reads.length).toBeLessThanOrEqual(4);
    answer = () => {};
    await expect(gather(all, AbortSignal.abort())).rejects.toThrow(AbortError);
    await expectRows([1, 2, 3]);
  });
});

test("memory set aside: several reads, of a quarter of a small table, or of a row that is larger", () => {
  const table = (rows: number, width: number): Matrix => ({
    ...TABLE,
    ...{ ne: [width, rows], bytes: rows * width * 4 },
  });
  expect(rowStagingBytes([])).toBe(0);
  expect(rowStagingBytes([table(100_000, 1024)])).toBe(2 ** 20);
  expect(rowStagingBytes([table(64, 64)])).toBeLessThan(64 * 1024);
  expect(rowStagingBytes([table(64, 64), table(8, 100_000)])).toBeGreaterThan(4 * 400_000);
});
