import { execFileSync } from "node:child_process";
import { appendFile, rename, rm, truncate } from "node:fs/promises";
import path from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { AbortError, DisposedError, IoError } from "../../base/errors.ts";
import { cannotProve, needsLinux, needsPosix, testUnless } from "../../base/testing-unproven.ts";
import {
  type AlignedMemory,
  alignedMemory,
  patternByte,
  scratchFolder,
  systemError,
  writePattern,
} from "../testing.ts";
import { ALIGNMENT, type BeforeRead, DirectFile, openFileCount } from "./direct-io.ts";

/** Not a multiple of 4096, so that every whole read meets the short tail. */
const SIZE = 50_001;
const WHOLE = Math.ceil(SIZE / ALIGNMENT) * ALIGNMENT;

let scratch: Awaited<ReturnType<typeof scratchFolder>>;
let memory: AlignedMemory;
let file: string;
let refusesDirect: boolean;

beforeAll(async () => {
  scratch = await scratchFolder();
  memory = alignedMemory(WHOLE);
  file = await writePattern(scratch.folder, "weights.bin", SIZE);
  const probe = await DirectFile.open(file);
  await probe.read(memory.buffer, 0, 0, ALIGNMENT);
  refusesDirect = !probe.direct;
  await probe.close();
});
afterAll(async () => {
  memory.free();
  await scratch.remove();
});
afterEach(() => expect(openFileCount()).toBe(0));

/** Clears the target, reads, and compares every byte with the file's pattern. */
async function expectRange(opened: DirectFile, at: number, length: number, beforeRead?: BeforeRead) {
  const target = new Uint8Array(memory.buffer);
  target.fill(0xee);
  const got = await opened.read(memory.buffer, 0, at, length, { beforeRead });
  expect(got).toBe(Math.max(0, Math.min(length, opened.size - at)));
  const wrong = target.subarray(0, got).findIndex((byte, i) => byte !== patternByte(at + i));
  expect(wrong).toBe(-1);
}

describe.each([true, false])("a file opened with direct: %j", (direct) => {
  test("reads what is in it, tail included", async () => {
    await using opened = await DirectFile.open(file, { direct });
    expect(opened.size).toBe(SIZE);
    expect(opened.mtimeMs).toBeGreaterThan(0);
    await expectRange(opened, 0, WHOLE);
    await expectRange(opened, 8192, 12_288);
    await expectRange(opened, WHOLE - ALIGNMENT, ALIGNMENT);
    await expectRange(opened, 0, 0);
    expect(opened.direct).toBe(direct && !refusesDirect);
  });

  test("continues short reads", async () => {
    await using opened = await DirectFile.open(file, { direct });
    const starts: number[] = [];
    await expectRange(opened, 4096, WHOLE - 4096, (read) => {
      starts.push(read.fileOffset);
      read.length = Math.min(read.length, 10_000);
    });
    // A direct file goes on at the start of the block that was read in part.
    expect(starts.slice(0, 3)).toEqual(opened.direct ? [4096, 12_288, 20_480] : [4096, 14_096, 24_096]);
  });

  test("asks again when it was interrupted", async () => {
    await using opened = await DirectFile.open(file, { direct });
    const answers = ["EINTR", "EAGAIN", "EINTR"];
    await expectRange(opened, 0, WHOLE, () => {
      const code = answers.shift();
      if (code) throw systemError(code);
    });
    expect(answers).toEqual([]);
  });

  test("does not ask for ever", async () => {
    await using opened = await DirectFile.open(file, { direct });
    let calls = 0;
    const read = opened.read(memory.buffer, 0, 0, WHOLE, {
      beforeRead: () => {
        calls++;
        throw systemError("EAGAIN");
      },
    });
    await expect(read).rejects.toThrow(/gave nothing 8 times in a row/);
    expect(calls).toBe(8);
  });

  test("a failing disk is an IoError with path, range and what to do", async () => {
    await using opened = await DirectFile.open(file, { direct });
    const beforeRead = () => {
      throw systemError("EIO");
    };
    const read = opened.read(memory.buffer, 0, 4096, 8192, { beforeRead });
    await expect(read).rejects.toThrow(IoError);
    await expect(read).rejects.toThrow(/weights\.bin: reading 8192 bytes at 4096 failed .*EIO.*system's log/);
    await expectRange(opened, 0, WHOLE); // the file is still good
  });

  test("a file that became shorter is an error with both sizes", async () => {
    const shrinking = await writePattern(scratch.folder, "shrinking.bin", SIZE);
    await using opened = await DirectFile.open(shrinking, { direct });
    await truncate(shrinking, 20_000);
    const read = opened.read(memory.buffer, 0, 0, WHOLE);
    await expect(read).rejects.toThrow(
      /shrinking\.bin: was truncated from 50001 to 20000 bytes since it was/,
    );
    await expectRange(opened, 0, 16_384); // what is left can be read
  });

  test("a file that grew is read as it was", async () => {
    const growing = await writePattern(scratch.folder, "growing.bin", SIZE);
    await using opened = await DirectFile.open(growing, { direct });
    await appendFile(growing, "more");
    await expectRange(opened, WHOLE - ALIGNMENT, ALIGNMENT);
  });

  test("stops between reads of the system when aborted", async () => {
    await using opened = await DirectFile.open(file, { direct });
    const controller = new AbortController();
    let calls = 0;
    const read = opened.read(memory.buffer, 0, 0, WHOLE, {
      signal: controller.signal,
      beforeRead: (request) => {
        request.length = 4096;
        if (++calls === 2) controller.abort();
      },
    });
    await expect(read).rejects.toThrow(AbortError);
    expect(calls).toBe(2);
  });

  test.each([
    [-4096, 0, 4096, /not a range of bytes/],
    [0, -4096, 4096, /not a range of bytes/],
    [0, 0, Number.NaN, /not a range of bytes/],
    [0, 0.5, 4096, /not a range of bytes/],
    [WHOLE - 4096, 0, 8192, /do not fit/],
    [0, WHOLE - 4096, 8192, /past its end: it has 50001 bytes/],
    [0, WHOLE, 4096, /past its end/],
  ])(
    "target offset %d, file offset %d, length %d is refused",
    async (targetOffset, fileOffset, length, why) => {
      await using opened = await DirectFile.open(file, { direct });
      const read = opened.read(memory.buffer, targetOffset, fileOffset, length);
      await expect(read).rejects.toThrow(IoError);
      await expect(read).rejects.toThrow(why);
    },
  );

  test("closes once, ends reads between two of the system, and is of no use after", async () => {
    const opened = await DirectFile.open(file, { direct });
    expect(openFileCount()).toBe(1);
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const read = opened.read(memory.buffer, 0, 0, WHOLE, { beforeRead: () => held });
    const closed = Promise.all([opened.close(), opened.close()]);
    release();
    await expect(read).rejects.toThrow(DisposedError);
    await closed;
    expect(openFileCount()).toBe(0);
    await opened.close();
    await expect(opened.read(memory.buffer, 0, 0, ALIGNMENT)).rejects.toThrow(DisposedError);
  });

  test("an empty file opens and has nothing to read", async () => {
    const empty = await writePattern(scratch.folder, "empty.bin", 0);
    await using opened = await DirectFile.open(empty, { direct });
    await expectRange(opened, 0, 0);
    await expect(opened.read(memory.buffer, 0, 0, ALIGNMENT)).rejects.toThrow(/past its end/);
  });

  test("what is not a file is an IoError, and leaves nothing open", async () => {
    const missing = path.join(scratch.folder, "missing.bin");
    await expect(DirectFile.open(missing, { direct })).rejects.toThrow(
      /missing\.bin: .*there is no such file/,
    );
    await expect(DirectFile.open(scratch.folder, { direct })).rejects.toThrow(/is not a regular file/);
    await expect(DirectFile.open("\0", { direct })).rejects.toThrow(IoError);
  });

  testUnless(needsPosix("named pipes"))("a named pipe is refused and does not block", async () => {
    const pipe = path.join(scratch.folder, `pipe-${direct}`);
    execFileSync("mkfifo", [pipe]);
    await expect(DirectFile.open(pipe, { direct })).rejects.toThrow(/is not a regular file/);
  });
});

test("a buffered file takes any offsets", async () => {
  await using opened = await DirectFile.open(file, { direct: false });
  await expectRange(opened, 1, 40_001);
  await expectRange(opened, SIZE - 5, 5);
});

describe("direct I/O and its refusal", () => {
  test("unaligned numbers are refused before the system sees them", async () => {
    if (refusesDirect) cannotProve("the file system refuses direct I/O");
    await using opened = await DirectFile.open(file);
    for (const [targetOffset, fileOffset, length] of [
      [1, 0, 4096],
      [0, 512, 4096],
      [0, 0, 4095],
    ] as const) {
      const read = opened.read(memory.buffer, targetOffset, fileOffset, length);
      await expect(read).rejects.toThrow(/direct reads need multiples of 4096/);
    }
  });

  test("memory at an unaligned address is named as the cause, once direct reads have worked", async () => {
    if (refusesDirect) cannotProve("the file system refuses direct I/O");
    await using opened = await DirectFile.open(file);
    await expectRange(opened, 0, WHOLE);
    const beforeRead = () => {
      throw systemError("EINVAL");
    };
    const read = opened.read(memory.buffer, 0, 0, 4096, { beforeRead });
    await expect(read).rejects.toThrow(/EINVAL.*address that is a multiple of 4096/);
    expect(opened.direct).toBe(true);
  });

  test("a file system that refuses the first reads is read through the page cache", async () => {
    if (refusesDirect) cannotProve("the file system refuses direct I/O");
    await using opened = await DirectFile.open(file);
    let refusals = 0;
    const beforeRead: BeforeRead = ({ file }) => {
      if (!file.direct) return;
      refusals++;
      throw systemError("EINVAL");
    };
    const reads = [0, 8192, 16_384].map((at) => opened.read(memory.buffer, at, at, 8192, { beforeRead }));
    expect(await Promise.all(reads)).toEqual([8192, 8192, 8192]);
    expect(refusals).toBe(3); // all were in flight, one opened the file again
    expect(opened.direct).toBe(false);
    expect(openFileCount()).toBe(1);
    expect(new Uint8Array(memory.buffer, 20_000, 1)[0]).toBe(patternByte(20_000));
    await expectRange(opened, 0, WHOLE);
  });

  test("it is not read through the page cache if another file has taken its name", async () => {
    if (refusesDirect) cannotProve("the file system refuses direct I/O");
    const victim = await writePattern(scratch.folder, "victim.bin", SIZE);
    const beforeRead: BeforeRead = ({ file }) => {
      if (file.direct) throw systemError("EINVAL");
    };
    await using opened = await DirectFile.open(victim);
    await rename(await writePattern(scratch.folder, "other.bin", SIZE), victim);
    const read = opened.read(memory.buffer, 0, 0, WHOLE, { beforeRead });
    await expect(read).rejects.toThrow(/victim\.bin: was changed or replaced/);

    await using gone = await DirectFile.open(victim);
    await rm(victim);
    const lost = gone.read(memory.buffer, 0, 0, WHOLE, { beforeRead });
    await expect(lost).rejects.toThrow(/without direct I\/O failed.*there is no such file/);
  });

  test("closing while the file is opened again leaves nothing open", async () => {
    if (refusesDirect) cannotProve("the file system refuses direct I/O");
    const opened = await DirectFile.open(file);
    let closed: Promise<void> | undefined;
    const read = opened.read(memory.buffer, 0, 0, WHOLE, {
      beforeRead: ({ file }) => {
        // In the next turn of the event loop: the file is being opened then.
        setImmediate(() => {
          closed = file.close();
        });
        throw systemError("EINVAL");
      },
    });
    await expect(read).rejects.toThrow(DisposedError);
    await closed;
    expect(openFileCount()).toBe(0);
  });

  testUnless(needsLinux("/proc"))("a file system without O_DIRECT is opened without", async () => {
    await using opened = await DirectFile.open("/proc/version");
    expect(opened.direct).toBe(false);
  });
});
