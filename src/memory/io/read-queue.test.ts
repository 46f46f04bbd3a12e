import { truncate } from "node:fs/promises";
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { AbortError, ConfigError, DisposedError, IoError } from "../../base/errors.ts";
import {
  type AlignedMemory,
  alignedMemory,
  patternByte,
  scratchFolder,
  systemError,
  writePattern,
} from "../testing.ts";
import { type BeforeRead, DirectFile, openFileCount, type SystemRead } from "./direct-io.ts";
import { IoTurns } from "./io-turns.ts";
import { ReadQueue, type ReadRequest } from "./read-queue.ts";

const CHUNK = 4096;
const SIZE = 30 * CHUNK - 77;
const WHOLE = 30 * CHUNK;

let scratch: Awaited<ReturnType<typeof scratchFolder>>;
let memory: AlignedMemory;
let path: string;

beforeAll(async () => {
  scratch = await scratchFolder();
  memory = alignedMemory(WHOLE);
  path = await writePattern(scratch.folder, "weights.bin", SIZE);
});
afterAll(async () => {
  memory.free();
  await scratch.remove();
});
afterEach(() => expect(openFileCount()).toBe(0));

/** Holds every read back until it is let go, and notes the order in which they came. */
function gate() {
  const held: { at: number; go: (error?: Error) => void }[] = [];
  const seen: number[] = [];
  let most = 0;
  const beforeRead: BeforeRead = ({ fileOffset }) =>
    new Promise<void>((resolve, reject) => {
      seen.push(fileOffset / CHUNK);
      held.push({ at: fileOffset / CHUNK, go: (error) => (error ? reject(error) : resolve()) });
      most = Math.max(most, held.length);
    });
  /** Lets the read of chunk `at` go, with an error if one is given. */
  const letGo = (at: number, error?: Error) => {
    const found = held.findIndex((one) => one.at === at);
    held.splice(found, 1)[0]!.go(error);
  };
  /** Lets all go, those that come later too, until `done` settles. */
  const open = async (done: Promise<unknown>) => {
    let over = false;
    const end = () => {
      over = true;
    };
    done.then(end, end);
    while (!over) {
      for (const one of held.splice(0)) one.go();
      await turn();
    }
  };
  return { held, seen, most: () => most, beforeRead, letGo, open };
}

/** One turn of the event loop. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Turns until `condition` holds. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await turn();
}

function chunks(file: DirectFile, from: number, count: number): ReadRequest {
  const [fileOffset, length] = [from * CHUNK, count * CHUNK];
  return { file, fileOffset, length, target: memory.buffer, targetOffset: fileOffset };
}

function expectPattern(from: number, to: number): void {
  const bytes = new Uint8Array(memory.buffer, from, to - from);
  expect(bytes.findIndex((byte, i) => byte !== patternByte(from + i))).toBe(-1);
}

describe("ReadQueue", () => {
  test.each([1, 3, 64])("reads a whole file in chunks, depth %i", async (depth) => {
    new Uint8Array(memory.buffer).fill(0xee);
    await using file = await DirectFile.open(path);
    const queue = new ReadQueue({ depth, chunkBytes: 3 * CHUNK, turns: new IoTurns(depth) });
    await queue.submit({ file, fileOffset: 0, length: WHOLE, target: memory.buffer, targetOffset: 0 });
    expectPattern(0, SIZE);
    expect(queue.stats()).toMatchObject({ bytes: SIZE, reads: 10 });
  });

  test("never has more reads in flight than its depth, and starts them first come first served", async () => {
    await using file = await DirectFile.open(path);
    const { beforeRead, seen, most, open, held } = gate();
    const queue = new ReadQueue({ depth: 3, chunkBytes: CHUNK, beforeRead });
    const all = [
      queue.submit(chunks(file, 4, 4)),
      queue.submit(chunks(file, 0, 2)),
      queue.submit(chunks(file, 20, 3)),
    ];
    expect(held.length).toBe(3);
    await open(Promise.all(all));
    expect(most()).toBe(3);
    expect(seen).toEqual([4, 5, 6, 7, 0, 1, 20, 21, 22]);
  });

  test("the next submission starts before the one in front of it is complete", async () => {
    await using file = await DirectFile.open(path);
    const { beforeRead, letGo, held } = gate();
    const queue = new ReadQueue({ depth: 2, chunkBytes: CHUNK, beforeRead });
    const first = queue.submit(chunks(file, 0, 2));
    const second = queue.submit(chunks(file, 10, 1));
    letGo(1);
    await until(() => held.length === 2);
    expect(held.map(({ at }) => at)).toEqual([0, 10]);
    letGo(10);
    await second; // although the first is not complete
    letGo(0);
    await first;
  });

  test("an error rejects its own submission when its reads are over, and no other", async () => {
    await using file = await DirectFile.open(path);
    const { beforeRead, letGo, held, seen, open } = gate();
    const queue = new ReadQueue({ depth: 2, chunkBytes: CHUNK, beforeRead });
    const bad = queue.submit(chunks(file, 0, 6));
    const good = queue.submit(chunks(file, 20, 2));
    let settled = false;
    bad.catch(() => {
      settled = true;
    });
    letGo(1, systemError("EIO"));
    await until(() => held.length === 2);
    expect(held.map(({ at }) => at)).toEqual([0, 20]); // chunks 2 to 5 were dropped
    expect(settled).toBe(false); // chunk 0 may still write to the target
    await open(Promise.all([good, queue.idle()]));
    await expect(bad).rejects.toThrow(/reading 4096 bytes at 4096 failed.*EIO/);
    expect(seen).toEqual([0, 1, 20, 21]);
    expectPattern(20 * CHUNK, 22 * CHUNK);
  });

  test("the first error is the one that is reported", async () => {
    await using file = await DirectFile.open(path);
    const { beforeRead, letGo } = gate();
    const queue = new ReadQueue({ depth: 2, chunkBytes: CHUNK, beforeRead });
    const bad = queue.submit(chunks(file, 0, 2));
    letGo(1, systemError("EIO"));
    await turn();
    letGo(0, systemError("ESTALE"));
    await expect(bad).rejects.toThrow(/EIO/);
    await queue.idle();
  });

  test("abort drops what has not started and waits for what has", async () => {
    await using file = await DirectFile.open(path);
    const { beforeRead, letGo, seen, open } = gate();
    const queue = new ReadQueue({ depth: 2, chunkBytes: CHUNK, beforeRead });
    const controller = new AbortController();
    const aborted = queue.submit(chunks(file, 0, 8), controller.signal);
    const queued = queue.submit(chunks(file, 10, 4), controller.signal);
    const other = queue.submit(chunks(file, 20, 1));
    let settled = false;
    aborted.catch(() => {
      settled = true;
    });
    const reason = new Error("the user left");
    controller.abort(reason);
    await expect(queued).rejects.toMatchObject({ name: "AbortError", cause: reason });
    letGo(0);
    await until(() => seen.includes(20));
    expect(settled).toBe(false); // chunk 1 is still in flight
    await open(Promise.all([other, queue.idle()]));
    await expect(aborted).rejects.toThrow(AbortError);
    expect(seen).toEqual([0, 1, 20]);
  });

  test("a real read in flight is over when an aborted submission rejects", async () => {
    await using file = await DirectFile.open(path);
    const target = new Uint8Array(memory.buffer);
    for (let i = 0; i < 20; i++) {
      const controller = new AbortController();
      const queue = new ReadQueue({ depth: 4, chunkBytes: CHUNK });
      const read = queue.submit(chunks(file, 0, 29), controller.signal);
      for (let turns = i % 4; turns > 0; turns--) await turn();
      controller.abort();
      await read.catch((error: unknown) => expect(error).toBeInstanceOf(AbortError));
      target.fill(0xaa);
      await turn();
      await turn();
      expect(target.findIndex((byte) => byte !== 0xaa)).toBe(-1);
    }
  });

  test("a signal that has fired reads nothing", async () => {
    await using file = await DirectFile.open(path);
    const queue = new ReadQueue();
    await expect(queue.submit(chunks(file, 0, 1), AbortSignal.abort())).rejects.toThrow(AbortError);
    expect(queue.stats().reads).toBe(0);
  });

  test("a signal used for many submissions keeps no listeners", async () => {
    await using file = await DirectFile.open(path);
    const { signal } = new AbortController();
    let listeners = 0;
    const [add, remove] = [signal.addEventListener, signal.removeEventListener];
    signal.addEventListener = (...args: Parameters<typeof add>) => {
      listeners++;
      add.apply(signal, args);
    };
    signal.removeEventListener = (...args: Parameters<typeof remove>) => {
      listeners--;
      remove.apply(signal, args);
    };
    const queue = new ReadQueue();
    for (let i = 0; i < 5; i++) await queue.submit(chunks(file, i, 1), signal);
    expect(listeners).toBe(0);
  });

  test("short reads, delays and interruptions do not change what is read", async () => {
    new Uint8Array(memory.buffer).fill(0xee);
    await using file = await DirectFile.open(path);
    let calls = 0;
    const beforeRead = async (read: SystemRead) => {
      const call = calls++;
      if (call % 5 === 1) throw systemError("EINTR");
      if (call % 3 === 0) await turn();
      read.length = CHUNK;
    };
    const queue = new ReadQueue({ depth: 4, chunkBytes: 4 * CHUNK, beforeRead });
    await queue.submit({ file, fileOffset: 0, length: WHOLE, target: memory.buffer, targetOffset: 0 });
    expectPattern(0, SIZE);
    expect(calls).toBeGreaterThan(30);
  });

  test("a file that became shorter fails its submission alone", async () => {
    const shrinking = await writePattern(scratch.folder, "shrinking.bin", SIZE);
    await using short = await DirectFile.open(shrinking);
    await using file = await DirectFile.open(path);
    await truncate(shrinking, 10 * CHUNK);
    const queue = new ReadQueue({ depth: 2, chunkBytes: CHUNK });
    const bad = queue.submit(chunks(short, 8, 10));
    const good = queue.submit(chunks(file, 0, 8));
    await expect(bad).rejects.toThrow(/was truncated from 122803 to 40960 bytes/);
    await good;
    expectPattern(0, 8 * CHUNK);
  });

  test("a request that cannot be read is refused before anything is", async () => {
    const file = await DirectFile.open(path);
    const queue = new ReadQueue();
    const outside = { ...chunks(file, 0, 1), targetOffset: WHOLE };
    await expect(queue.submit(outside)).rejects.toThrow(IoError);
    const past = { ...chunks(file, 29, 2), targetOffset: 0 };
    await expect(queue.submit(past)).rejects.toThrow(/past its end/);
    await queue.submit(chunks(file, 0, 0));
    await file.close();
    await expect(queue.submit(chunks(file, 0, 1))).rejects.toThrow(DisposedError);
    expect(queue.stats().reads).toBe(0);
  });

  test("closing the file fails what is queued and leaves the queue usable", async () => {
    const closing = await DirectFile.open(path);
    await using file = await DirectFile.open(path);
    const queue = new ReadQueue({ depth: 1, chunkBytes: CHUNK });
    const lost = queue.submit(chunks(closing, 0, 20));
    const closed = closing.close();
    await expect(lost).rejects.toThrow(DisposedError);
    await closed;
    await queue.submit(chunks(file, 0, 2));
    await queue.idle();
  });

  test("idle waits for everything, and not where there is nothing", async () => {
    await using file = await DirectFile.open(path);
    const { beforeRead, letGo, held } = gate();
    const queue = new ReadQueue({ depth: 1, chunkBytes: CHUNK, beforeRead });
    await queue.idle();
    const read = queue.submit(chunks(file, 0, 2));
    let idle = false;
    const waiting = queue.idle().then(() => {
      idle = true;
    });
    letGo(0);
    await until(() => held.length === 1);
    expect(idle).toBe(false);
    letGo(1);
    await Promise.all([read, waiting]);
  });

  test("busy time is the time with a read in flight, not the sum over reads nor the time between", async () => {
    vi.useFakeTimers({ toFake: ["performance"] });
    onTestFinished(() => void vi.useRealTimers());
    await using file = await DirectFile.open(path);
    const { beforeRead, held, letGo } = gate();
    const queue = new ReadQueue({ depth: 8, chunkBytes: CHUNK, beforeRead });
    const both = queue.submit(chunks(file, 0, 2));
    await until(() => held.length === 2);
    vi.advanceTimersByTime(3000);
    expect(queue.stats().busySeconds).toBe(3);
    letGo(0);
    letGo(1);
    await both;
    vi.advanceTimersByTime(5000);
    const third = queue.submit(chunks(file, 0, 1));
    await until(() => held.length === 1);
    vi.advanceTimersByTime(2000);
    letGo(0);
    await third;
    expect(queue.stats().busySeconds).toBe(5);
  });
});

describe("settings", () => {
  test.each([0, -1, 1.5, Number.NaN])("a depth of %d is refused", (depth) => {
    expect(() => new ReadQueue({ depth })).toThrow(ConfigError);
  });

  test.each([0, 4095, 4097, -4096, Number.NaN])("chunks of %d bytes are refused", (chunkBytes) => {
    expect(() => new ReadQueue({ chunkBytes })).toThrow(ConfigError);
  });
});
