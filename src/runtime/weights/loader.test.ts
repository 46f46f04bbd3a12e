import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import { Device, findDevice } from "../../backend/ggml/device.ts";
import { latch, turn } from "../../base/async/testing-events.ts";
import { AbortError, IoError } from "../../base/errors.ts";
import { temporaryFolder } from "../../formats/testing.ts";
import { type BeforeRead, DirectFile, type SystemRead } from "../../memory/io/direct-io.ts";
import { ReadQueue } from "../../memory/io/read-queue.ts";
import { Ledger } from "../../memory/ledger.ts";
import { systemError } from "../../memory/testing.ts";
import type { Matrix } from "../../plan/units.ts";
import { Loader, residentSize } from "./loader.ts";
import { SourceFiles } from "./sources.ts";

const MIB = 2 ** 20;

let cpu: Device;
let reads: SystemRead[];
let answer: BeforeRead;
let progress: number;

beforeEach(() => {
  cpu = Device.open(findDevice("cpu"), { threads: 1 });
  reads = [];
  answer = () => {};
  progress = 0;
});
afterEach(() => cpu.dispose());

/** A matrix of `bytes` bytes that begins at byte `offset` of its file, and a loader for it. */
async function open(bytes: number, offset: number, signal?: AbortSignal) {
  const contents = Buffer.alloc(offset + bytes);
  for (let i = 0; i < contents.length; i += 4) contents.writeUInt32LE((i * 2654435761) >>> 0, i);
  const path = join(temporaryFolder(), "weights");
  writeFileSync(path, contents);
  const file = await DirectFile.open(path);
  const sources = new SourceFiles();
  sources.addPlace(() => ({ file, offset: 0 }));
  const beforeRead: BeforeRead = (read) => {
    reads.push({ ...read });
    return answer(read);
  };
  const queue = new ReadQueue({ beforeRead, chunkBytes: MIB });
  const loader = new Loader({
    ...{ cpu, sources, signal, queue, ledger: new Ledger() },
    onBytes: (_, read) => {
      progress += read;
    },
  });
  const source = { name: "w", dtype: "f32" as const, shape: [bytes / 4, 1], file: 0, offset, bytes };
  const m: Matrix = {
    ...{ name: "w", source, dtype: "f32", ne: [1, bytes / 4], bytes },
    ...{ transposed: false, kept: false, rowsOnly: false },
  };
  const buffer = cpu.memory.allocate(residentSize(m, cpu.memory));
  const close = async () => {
    loader.dispose();
    buffer.dispose();
    await file.close();
  };
  return { loader, m, buffer, queue, wanted: contents.subarray(offset), close };
}

const held = (buffer: NativeBuffer, from: number, bytes: number) => Buffer.from(buffer.bytes(from, bytes));

describe("a matrix that is read straight to its place", () => {
  test.each([
    ["at the start of a page", 4096, 20 * MIB],
    ["at the start of a cache line", 4096 + 128, 20 * MIB],
    ["four bytes into one", 8192 + 4, 20 * MIB],
    ["near the end of a page", 4096 - 4, 20 * MIB],
    ["small", 4096 + 100, 40],
    ["as long as one piece and no more", 4096 + 72, 8 * MIB - 72],
    ["a little longer than one piece", 4096 + 72, 8 * MIB - 68],
    ["of whole pieces", 4096 + 8, 16 * MIB],
  ])("%s: starts at a cache line and has the file's bytes", async (_, offset, bytes) => {
    const { loader, m, buffer, wanted, close } = await open(bytes, offset);
    const placed = await loader.matrix(m, buffer);
    expect(placed.offset % 64).toBe(0);
    expect(held(placed.buffer, placed.offset, bytes).equals(wanted)).toBe(true);
    expect(progress).toBe(bytes);
    await close();
  });

  test("no byte is read twice", async () => {
    const { loader, m, buffer, close } = await open(20 * MIB, 4096 + 72);
    await loader.matrix(m, buffer);
    const total = reads.reduce((sum, read) => sum + read.length, 0);
    expect(total).toBe(20 * MIB + 4096); // whole pages
    await close();
  });

  test("its pieces may arrive in any order", async () => {
    const { loader, m, buffer, wanted, close } = await open(20 * MIB, 4096 + 72);
    const last = latch();
    answer = ({ fileOffset }) => {
      if (fileOffset >= 19 * MIB) last.open();
      return fileOffset < MIB ? last.opened : undefined; // the first piece comes after the last has been asked for
    };
    const { offset } = await loader.matrix(m, buffer);
    expect(reads.findIndex(({ fileOffset }) => fileOffset >= 19 * MIB)).toBeGreaterThan(0);
    expect(held(buffer, offset, 20 * MIB).equals(wanted)).toBe(true);
    await close();
  });

  test("a failed read ends the others, and nothing is written to the memory afterwards", async () => {
    const { loader, m, buffer, queue, close } = await open(64 * MIB, 4096 + 72);
    answer = async ({ fileOffset }) => {
      await turn();
      if (fileOffset >= 9 * MIB) throw systemError("EIO");
    };
    await expect(loader.matrix(m, buffer)).rejects.toThrow(IoError);
    const begun = reads.length;
    expect(begun).toBeLessThan(20); // of 65
    const before = held(buffer, 0, buffer.size);
    await queue.idle();
    await turn();
    expect(reads.length).toBe(begun);
    expect(held(buffer, 0, buffer.size).equals(before)).toBe(true);
    await close();
  });

  test("the error is that of the read that failed first, though others are stopped for it", async () => {
    const { loader, m, buffer, close } = await open(64 * MIB, 4096 + 72);
    const failing = latch();
    answer = async ({ fileOffset }) => {
      if (fileOffset < MIB) return failing.opened.then(turn); // it is on its way when another fails
      if (fileOffset < 17 * MIB) return;
      failing.open();
      throw systemError("EIO");
    };
    await expect(loader.matrix(m, buffer)).rejects.toThrow(IoError);
    await close();
  });

  test("stops when it is told to", async () => {
    const stop = new AbortController();
    const { loader, m, buffer, close } = await open(64 * MIB, 4096 + 72, stop.signal);
    answer = () => stop.abort();
    await expect(loader.matrix(m, buffer)).rejects.toThrow(AbortError);
    expect(reads.length).toBeLessThan(20);
    await close();
  });
});
