import { mkdir, readdir } from "node:fs/promises";
import path from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { AbortError, ConfigError, IoError } from "../../base/errors.ts";
import { alignedMemory, scratchFolder, systemError, writePattern } from "../testing.ts";
import { openFileCount } from "./direct-io.ts";
import { type BandwidthOptions, measureReadBandwidth } from "./disk-bandwidth.ts";

const SIZE = 100_001;

let scratch: Awaited<ReturnType<typeof scratchFolder>>;
let small: string;
let large: string;
let allocated = 0;

beforeAll(async () => {
  scratch = await scratchFolder();
  small = await writePattern(scratch.folder, "small.bin", 4096);
  large = await writePattern(scratch.folder, "large.bin", SIZE);
});
afterAll(() => scratch.remove());
afterEach(() => {
  expect(openFileCount()).toBe(0);
  expect(allocated).toBe(0);
});

function options(change: Partial<BandwidthOptions> = {}): BandwidthOptions {
  const allocate = (bytes: number) => {
    const memory = alignedMemory(bytes);
    allocated += bytes;
    return {
      buffer: memory.buffer,
      free: () => {
        allocated -= bytes;
        memory.free();
      },
    };
  };
  return { allocate, depth: 2, chunkBytes: 8192, ...change };
}

describe("measureReadBandwidth", () => {
  test("reads the largest file once, and the numbers agree", async () => {
    const found = await measureReadBandwidth([small, large], options());
    expect(found).toMatchObject({ path: large, bytes: SIZE });
    expect(found.seconds).toBeGreaterThan(0);
    expect(found.bytesPerSecond).toBeCloseTo(SIZE / found.seconds, 3);
  });

  test("reads no more than it was told to", async () => {
    expect((await measureReadBandwidth(large, options({ bytes: 20_000 }))).bytes).toBe(20_480);
  });

  test("stops when the time is over, with a measurement", async () => {
    vi.useFakeTimers({ toFake: ["performance"] });
    onTestFinished(() => void vi.useRealTimers());
    const beforeRead = () => void vi.advanceTimersByTime(5);
    const found = await measureReadBandwidth(large, options({ seconds: 0.001, beforeRead }));
    expect(found.bytes).toBeGreaterThan(0);
    expect(found.bytes).toBeLessThanOrEqual(2 * 8192); // one read of each of the two slots began in time
  });

  test("in a folder it writes a file of its own and leaves none behind", async () => {
    const folder = path.join(scratch.folder, "empty");
    await mkdir(folder);
    const found = await measureReadBandwidth(folder, options({ bytes: 50_000 }));
    expect(found.bytes).toBe(53_248);
    expect(path.dirname(found.path)).toBe(folder);
    expect(await readdir(folder)).toEqual([]);
  });

  test("a failing disk is an error, after which nothing is left", async () => {
    const folder = path.join(scratch.folder, "failing");
    await mkdir(folder);
    const beforeRead = () => {
      throw systemError("EIO");
    };
    const failing = options({ bytes: 50_000, beforeRead });
    await expect(measureReadBandwidth(folder, failing)).rejects.toThrow(IoError);
    expect(await readdir(folder)).toEqual([]);
  });

  test("abort ends it, before and during", async () => {
    const fired = options({ signal: AbortSignal.abort() });
    await expect(measureReadBandwidth(large, fired)).rejects.toThrow(AbortError);
    const controller = new AbortController();
    const during = options({
      bytes: 50_000,
      signal: controller.signal,
      beforeRead: () => controller.abort(),
    });
    await expect(measureReadBandwidth(scratch.folder, during)).rejects.toThrow(AbortError);
    expect((await readdir(scratch.folder)).filter((name) => name.startsWith("."))).toEqual([]);
  });

  test("what cannot be measured is refused", async () => {
    const empty = await writePattern(scratch.folder, "empty.bin", 0);
    await expect(measureReadBandwidth(empty, options())).rejects.toThrow(/empty\.bin: is empty/);
    await expect(measureReadBandwidth([], options())).rejects.toThrow(IoError);
    const missing = path.join(scratch.folder, "missing.bin");
    await expect(measureReadBandwidth([large, missing], options())).rejects.toThrow(/missing\.bin/);
    await expect(measureReadBandwidth(large, options({ bytes: 0 }))).rejects.toThrow(ConfigError);
    await expect(measureReadBandwidth(large, options({ seconds: Number.NaN }))).rejects.toThrow(ConfigError);
  });
});
