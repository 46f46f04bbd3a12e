import { readdirSync, readlinkSync } from "node:fs";
import { chmod, mkdir, readdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { cpuMemory } from "../../backend/ggml/device.ts";
import { AbortError, BudgetError, IoError } from "../../base/errors.ts";
import { cannotProve, needsPosix, testUnless } from "../../base/testing-unproven.ts";
import { leftover } from "../../formats/testing.ts";
import { Ledger } from "../ledger.ts";
import { scratchFolder, systemError } from "../testing.ts";
import { DiskStore, type DiskStoreOptions } from "./disk.ts";
import { type BeforeTransfer, openStateFileCount, type SystemTransfer } from "./state-file.ts";
import { holdings, hostBytes } from "./testing.ts";

const KIB = 1024;
/** The user that owns nothing. */
const NOBODY = 65_534;

let scratch: Awaited<ReturnType<typeof scratchFolder>>;
let before: ReturnType<typeof holdings>;
let ledger: Ledger;
/** What the system answers to a transfer; set by each test. */
let interfere: BeforeTransfer;

beforeEach(async () => {
  scratch = await scratchFolder();
  before = holdings();
  ledger = new Ledger();
  interfere = () => {};
});
afterEach(async () => {
  ledger.assertEmpty();
  expect(holdings()).toEqual(before);
  await scratch.remove();
});

function open(options: Partial<DiskStoreOptions> = {}): Promise<DiskStore> {
  return DiskStore.open({
    folder: scratch.folder,
    ledger,
    memory: cpuMemory(),
    beforeTransfer: (transfer) => interfere(transfer),
    ...options,
  });
}

function fails(code: string, when: (transfer: SystemTransfer) => boolean = () => true): BeforeTransfer {
  return (transfer) => {
    if (when(transfer)) throw systemError(code);
  };
}

function counting(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i ^ (i >> 8)) & 0xff);
}

describe("the file of a disk store", () => {
  test("has no name while it is open, so that a crash leaves nothing behind", async () => {
    const folder = path.join(scratch.folder, "made", "on the way");
    await using store = await open({ folder });
    await store.allocate(100, "moments");
    expect(openStateFileCount()).toBe(before.stateFiles + 1);
    if (process.platform === "win32") cannotProve("no files without a name on Windows");
    expect(await readdir(folder)).toEqual([]);
    if (process.platform !== "linux") cannotProve("no /proc that names what is open");
    const targets = readdirSync("/proc/self/fd").map((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`);
      } catch {
        return ""; // the descriptor of the listing itself is gone by now
      }
    });
    expect(targets).toContainEqual(
      expect.stringMatching(/on the way\/spillway\.state\.tmp-[-0-9a-f]+ \(deleted\)$/),
    );
  });

  test("grows by what is allocated and shrinks by what is freed at its end; gaps are used again", async () => {
    await using store = await open();
    const a = await store.allocate(10 * KIB, "a");
    const b = await store.allocate(20 * KIB, "b");
    const c = await store.allocate(5 * KIB, "c");
    expect(store.size).toBe(40 * KIB); // each rounded up to blocks of 4 KiB
    expect(ledger.used("disk")).toBe(store.size);
    await b.free();
    expect(store.size).toBe(40 * KIB);
    expect(ledger.entries("disk")).toContainEqual({
      tier: "disk",
      what: "gaps in the state file",
      bytes: 20 * KIB,
    });
    const d = await store.allocate(8 * KIB, "d");
    expect(store.size).toBe(40 * KIB);
    await c.free();
    expect(store.size).toBe(20 * KIB); // c and the rest of the gap before it
    await a.free();
    await d.free();
    expect(store.size).toBe(0);
    expect(ledger.used("disk")).toBe(0);
  });

  test("a region that takes a gap finds zeros there", async () => {
    await using store = await open();
    const first = await store.allocate(8 * KIB, "first");
    await store.allocate(4 * KIB, "holds the end");
    using memory = hostBytes(counting(8 * KIB));
    await first.write(memory, 0, 0, 8 * KIB);
    await first.free();
    const second = await store.allocate(8 * KIB, "second");
    await second.read(memory, 0, 0, 8 * KIB);
    expect(new Uint8Array(memory.view()).every((byte) => byte === 0)).toBe(true);
  });

  test("counts against the budget before it grows", async () => {
    ledger = new Ledger({ disk: 24 * KIB });
    await using store = await open();
    await store.allocate(20 * KIB, "fits");
    await expect(store.allocate(5 * KIB, "exp_avg_sq")).rejects.toThrow(BudgetError);
    expect(store.size).toBe(20 * KIB);
    await store.allocate(4 * KIB, "fits too");
  });

  test("leaves the files of other processes alone", async () => {
    const others = ["spillway.state", leftover(path.join(scratch.folder, "spillway.state"), "elsewhere")];
    for (const name of others) await writeFile(path.resolve(scratch.folder, name), "theirs");
    await using store = await open();
    await store.allocate(100, "moments");
    expect((await readdir(scratch.folder)).length).toBe(others.length);
  });

  testUnless(needsPosix("modes of folders"))(
    "a folder that cannot be written is an error at once",
    async () => {
      const folder = path.join(scratch.folder, "read-only");
      await mkdir(folder);
      await chmod(folder, 0o500);
      const { seteuid } = process;
      const root = process.getuid?.() === 0; // who may write everywhere
      if (root) await chmod(scratch.folder, 0o755);
      if (root) seteuid?.(NOBODY);
      try {
        await expect(open({ folder })).rejects.toThrow(/may not write there; name another folder/);
      } finally {
        if (root) seteuid?.(0);
      }
    },
  );

  test("a file where the folder should be is an error with its path", async () => {
    const folder = path.join(scratch.folder, "file");
    await writeFile(folder, "");
    await expect(open({ folder })).rejects.toThrow(IoError);
    await expect(open({ folder: path.join(folder, "below") })).rejects.toThrow(/file.*not a folder/);
    expect(ledger.used("cpu")).toBe(0);
  });

  test("falls back to the page cache where direct transfers are refused", async () => {
    let refused = 0;
    interfere = () => {
      // The first transfer is the probe of the directly opened file, where there is one.
      if (refused++ === 0) throw systemError("EINVAL");
    };
    const attempt = open();
    if (process.platform !== "linux") {
      await attempt.then((store) => store.dispose()).catch(() => {});
      return;
    }
    await using store = await attempt;
    expect(store.direct).toBe(false);
    expect(await readdir(scratch.folder)).toEqual([]);
    const region = await store.allocate(10_000, "moments");
    using memory = hostBytes(counting(10_000));
    await region.write(memory, 1, 3, 9_000);
    using seen = hostBytes(9_000);
    await region.read(seen, 0, 3, 9_000);
    expect(new Uint8Array(seen.view(0, 9_000)).slice()).toEqual(counting(9_001).slice(1));
  });

  test("a probe that fails otherwise is the error", async () => {
    interfere = fails("EIO");
    await expect(open()).rejects.toThrow(/the disk or its connection failed/);
    expect(await readdir(scratch.folder)).toEqual([]);
  });
});

describe.each([true, false])("transfers, direct: %j", (direct) => {
  test("short and interrupted ones are continued", async () => {
    await using store = await open({ direct });
    const region = await store.allocate(40 * KIB, "moments");
    let turn = 0;
    interfere = (transfer) => {
      if (turn++ % 3 === 0) throw systemError(turn % 2 ? "EINTR" : "EAGAIN");
      transfer.length = Math.min(transfer.length, 10_000);
    };
    using memory = hostBytes(counting(40 * KIB));
    using seen = hostBytes(40 * KIB);
    await region.write(memory, 0, 0, 40 * KIB);
    await region.read(seen, 0, 0, 40 * KIB);
    expect(new Uint8Array(seen.view()).slice()).toEqual(counting(40 * KIB));
    expect(turn).toBeGreaterThan(8);
  });

  test("one that never gets anywhere is given up", async () => {
    await using store = await open({ direct });
    const region = await store.allocate(4 * KIB, "moments");
    interfere = fails("EINTR");
    using memory = hostBytes(4 * KIB);
    await expect(region.read(memory, 0, 0, 4 * KIB)).rejects.toThrow(/moved nothing 8 times in a row/);
    expect(region.torn).toBeUndefined();
  });

  test("a failed read leaves the region whole", async () => {
    await using store = await open({ direct });
    const region = await store.allocate(16 * KIB, "moments");
    using memory = hostBytes(counting(16 * KIB));
    await region.write(memory, 0, 0, 16 * KIB);
    interfere = fails("EIO", (t) => t.direction === "read");
    await expect(region.read(memory, 0, 0, 16 * KIB)).rejects.toThrow(/see the system's log/);
    interfere = () => {};
    await region.read(memory, 0, 0, 16 * KIB);
    expect(new Uint8Array(memory.view()).slice()).toEqual(counting(16 * KIB));
  });

  test("a failed write tears its range and nothing else, until it is written again", async () => {
    await using store = await open({ direct, chunkBytes: 4 * KIB });
    const region = await store.allocate(64 * KIB, "exp_avg");
    using memory = hostBytes(counting(64 * KIB));
    await region.write(memory, 0, 0, 64 * KIB);
    const third = (t: SystemTransfer) => t.direction === "write" && t.position === 24 * KIB;
    interfere = fails("ENOSPC", third);
    await expect(region.write(memory, 0, 16 * KIB, 16 * KIB)).rejects.toThrow(/the disk is full/);
    interfere = () => {};
    expect(region.torn).toMatch(/a write did not complete/);
    await expect(region.read(memory, 0, 20 * KIB, 1)).rejects.toThrow(
      /exp_avg on disk cannot be used: a write did/,
    );
    await region.read(memory, 0, 0, 16 * KIB);
    await region.read(memory, 32 * KIB, 32 * KIB, 32 * KIB);
    await region.write(memory, 0, 16 * KIB, 16 * KIB);
    expect(region.torn).toBeUndefined();
    await region.read(memory, 0, 0, 64 * KIB);
  });

  test("an abort in the middle of a write tears it and is heard between chunks", async () => {
    await using store = await open({ direct, chunkBytes: 4 * KIB, depth: 1 });
    const region = await store.allocate(64 * KIB, "moments");
    using memory = hostBytes(64 * KIB);
    const abort = new AbortController();
    let writes = 0;
    interfere = () => {
      if (++writes === 3) abort.abort();
    };
    await expect(region.write(memory, 0, 0, 64 * KIB, abort.signal)).rejects.toThrow(AbortError);
    expect(writes).toBe(3);
    expect(region.torn).toMatch(/aborted/);
  });
});

describe("a disk that is too small", () => {
  test("is found out when a region is allocated: the message has the bytes needed and free", async () => {
    await using store = await open({ chunkBytes: 4 * KIB });
    const whole = await store.allocate(8 * KIB, "first");
    interfere = fails("ENOSPC", (t) => t.direction === "write" && t.position >= 16 * KIB);
    const refused = store.allocate(32 * KIB, "exp_avg_sq");
    await expect(refused).rejects.toThrow(/exp_avg_sq needs 32768 bytes \(32.0 KiB\), the disk has \d+ free/);
    await expect(refused).rejects.toThrow(IoError);
    expect(store.size).toBe(8 * KIB);
    expect(ledger.used("disk")).toBe(8 * KIB);
    expect(whole.torn).toBeUndefined();
    await store.allocate(8 * KIB, "what fits");
  });

  test("is found out before a byte is written where the file system says how much is free", async () => {
    await using store = await open({ chunkBytes: 4 * KIB });
    let writes = 0;
    interfere = () => {
      writes++;
    };
    // No disk has 4 PiB.
    await expect(store.allocate(2 ** 52, "exp_avg")).rejects.toThrow(/needs 4503599627370496 bytes .* free/);
    expect(writes).toBe(0);
    expect(store.size).toBe(0);
  });

  test("another error while making room leaves nothing behind either", async () => {
    await using store = await open({ chunkBytes: 4 * KIB });
    interfere = fails("EIO", (t) => t.position >= 4 * KIB);
    await expect(store.allocate(32 * KIB, "exp_avg")).rejects.toThrow(/the disk or its connection failed/);
    expect(store.size).toBe(0);
    expect(ledger.used("disk")).toBe(0);
  });
});

test("memory may begin in the middle of a block", async () => {
  await using store = await open();
  const region = await store.allocate(16 * KIB, "stage inputs");
  using memory = hostBytes(48 * KIB);
  const values = counting(16 * KIB);
  for (const start of [100, 4096 + 128]) {
    const part = memory.part(start, 16 * KIB);
    part.bytes().set(values);
    await region.write(part, 0, 0, 16 * KIB);
    const back = memory.part(20 * KIB + start, 16 * KIB);
    // the whole of it, a range offset as the file is, and one that is not
    for (const [at, offset] of [
      [0, 0],
      [4096 - (start % 4096), 4096],
      [7, 300],
    ] as const) {
      const length = 8 * KIB;
      back.bytes().fill(0);
      await region.read(back, at, offset, length);
      expect(back.bytes(at, length)).toEqual(values.subarray(offset, offset + length));
    }
  }
});

test("only the blocks at the ends of a range take a detour when memory and file are offset alike", async () => {
  await using store = await open({ direct: true });
  if (!store.direct) cannotProve("the file system refuses direct I/O");
  const region = await store.allocate(1024 * KIB, "moments");
  using memory = hostBytes(1024 * KIB);
  const sizes: number[] = [];
  interfere = (t) => {
    sizes.push(t.length);
  };
  await region.read(memory, 100, 100, 1000 * KIB);
  // the block of the first bytes, whole blocks, the block of the last ones
  expect(sizes).toEqual([4 * KIB, 996 * KIB, 4 * KIB]);
});
