import { type FileHandle, open, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { temporaryFolder } from "../../formats/testing.ts";
import { DirectWriter } from "./direct-writer.ts";

let path: string;
let handle: FileHandle;

beforeEach(async () => {
  path = join(temporaryFolder(), "file");
  handle = await open(path, "wx");
});
afterEach(() => handle.close());

const bytes = (length: number, seed = 1) =>
  Uint8Array.from({ length }, (_, i) => (i * 31 + seed + (i >> 8)) & 255);

describe.each([{ direct: true }, { direct: false }])("writes, direct where possible: $direct", (options) => {
  test.each([0, 1, 4095, 4096, 2 ** 21 - 1, 2 ** 21, 2 ** 21 + 1, 5 * 2 ** 20 + 77])(
    "%i bytes in chunks of odd lengths",
    async (length) => {
      const all = bytes(length);
      const writer = new DirectWriter(handle, options);
      for (let at = 0; at < length; ) {
        const chunk = all.slice(at, at + 1 + ((at * 7) % 700_001));
        await writer.append(chunk);
        chunk.fill(0); // the caller may use it again
        at += chunk.length;
        expect(writer.position).toBe(at);
      }
      await writer.finish();
      expect((await readFile(path)).equals(all)).toBe(true);
    },
  );

  test.each([
    [100, 50],
    [100, 3996],
    [4096, 4096],
    [100, 3_000_001],
    [2 ** 21 + 9, 2 ** 22],
    [0, 12_345],
    [2 ** 21 - 100, 200],
  ])("%i bytes, a hole of %i, and more", async (before, hole) => {
    const parts = [bytes(before), new Uint8Array(hole), bytes(70_000, 3), new Uint8Array(10)];
    const writer = new DirectWriter(handle, options);
    await writer.append(parts[0]!);
    await writer.skip(hole);
    await writer.append(parts[2]!);
    await writer.skip(10);
    await writer.finish();
    expect((await readFile(path)).equals(Buffer.concat(parts))).toBe(true);
  });

  test("a hole takes no room", async () => {
    const writer = new DirectWriter(handle, options);
    await writer.append(bytes(10));
    await writer.skip(2 ** 30);
    await writer.append(bytes(10));
    await writer.finish();
    const { size, blocks } = await stat(path);
    expect(size).toBe(2 ** 30 + 20);
    expect(blocks * 512).toBeLessThan(2 ** 20);
  });
});

test("an error of the system is thrown by what comes next, and nothing stays open", async () => {
  const reading = await open(path, "r");
  const writer = new DirectWriter(reading, { direct: false });
  const append = async () => {
    for (let i = 0; i < 4; i++) await writer.append(bytes(2 ** 21));
  };
  await expect(append()).rejects.toThrow("EBADF");
  await writer.dispose();
  await reading.close();
});
