// The streamer brings units from their files into its ring, ahead of their use and in any order asked for.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Device, findDevice } from "../../backend/ggml/device.ts";
import { latch, turn, until } from "../../base/async/testing-events.ts";
import { IoError } from "../../base/errors.ts";
import { temporaryFolder } from "../../formats/testing.ts";
import { type BeforeRead, DirectFile } from "../../memory/io/direct-io.ts";
import { ReadQueue } from "../../memory/io/read-queue.ts";
import { Ledger } from "../../memory/ledger.ts";
import { systemError } from "../../memory/testing.ts";
import type { Matrix, Unit } from "../../plan/units.ts";
import type { Job } from "./lane.ts";
import type { Residents } from "./residents.ts";
import { SourceFiles } from "./sources.ts";
import { largestSlot, slotSize, UnitStreamer } from "./streamer.ts";

const ELEMENTS = 10_000;
const BYTES = ELEMENTS * 4;
/** Where the first unit begins in the file: not at a page. */
const START = 4096 + 20;
const NOTHING_STAYS = { packed: () => undefined, matrix: () => undefined } as unknown as Residents;

let cpu: Device;
let ledger: Ledger;
let file: DirectFile;
let streamer: UnitStreamer;
let units: Unit[];
/** Pages of the file in the order in which reads of them began. */
let reads: number[];
let answer: BeforeRead;

/** A unit of one f32 matrix, whose elements are its index and up. */
function unit(index: number): Unit {
  const offset = START + index * BYTES;
  const source = {
    name: `w${index}`,
    dtype: "f32" as const,
    shape: [ELEMENTS, 1],
    file: 0,
    offset,
    bytes: BYTES,
  };
  const m: Matrix = {
    ...{ name: source.name, source, dtype: "f32", ne: [1, ELEMENTS], bytes: BYTES },
    ...{ transposed: false, kept: false, rowsOnly: false },
  };
  return { index, name: `unit ${index}`, owned: [m], bytes: BYTES } as unknown as Unit;
}

beforeEach(async () => {
  cpu = Device.open(findDevice("cpu"), { threads: 1 });
  ledger = new Ledger();
  reads = [];
  answer = () => {};
  units = [0, 1, 2, 3].map(unit);
  const contents = Buffer.alloc(START + 4 * BYTES);
  for (let i = 0; i < 4 * ELEMENTS; i++)
    contents.writeFloatLE(Math.floor(i / ELEMENTS) + (i % 100) / 100, START + i * 4);
  const path = join(temporaryFolder(), "weights");
  writeFileSync(path, contents);
  file = await DirectFile.open(path);
  const sources = new SourceFiles();
  sources.addPlace(() => ({ file, offset: 0 }));
  const beforeRead: BeforeRead = (read) => {
    reads.push(read.fileOffset / 4096);
    return answer(read);
  };
  const [first] = units as [Unit];
  streamer = new UnitStreamer({
    ...{ device: cpu, cycle: units, residents: NOTHING_STAYS, sources, ledger },
    queue: new ReadQueue({ beforeRead }),
    // Room for one that computes and one that arrives.
    ...{ ring: slotSize(first, "cpu") + largestSlot(first, "cpu"), staging: 0, unpacking: 0 },
  });
});
afterEach(async () => {
  await streamer.dispose();
  ledger.assertEmpty();
  await file.close();
  await cpu.dispose();
});

/** What graphs would compute with. */
function values({ slots }: Job): Float32Array {
  const [slot] = slots;
  if (!slot) throw new Error("the unit has no slot");
  return new Float32Array(slot.buffer.view(slot.offset, BYTES));
}

function expectUnit(job: Job, index: number): void {
  const found = values(job);
  expect([found[0], found[99], found[ELEMENTS - 1]].map((x) => x?.toFixed(2))).toEqual([
    `${index}.00`,
    `${index}.99`,
    `${index}.99`,
  ]);
}

test("units lie in the ring as the file has them, pass after pass", async () => {
  for (let pass = 0; pass < 3; pass++) {
    for (const one of units) {
      const job = await streamer.acquire(one);
      expectUnit(job, one.index);
      streamer.release(job);
    }
  }
  expect(streamer.streamedBytes).toBeGreaterThanOrEqual(3 * 4 * BYTES);
  expect(ledger.entries().map(({ what }) => what)).toEqual(["streaming ring"]);
});

test("the next unit is read while one is in use, and no more than the ring has room for", async () => {
  const first = await streamer.acquire(units[0] as Unit);
  const firstPage = Math.floor((START + BYTES) / 4096);
  await until(() => reads.includes(firstPage));
  await turn();
  expect(reads.every((page) => page <= Math.floor((START + 2 * BYTES) / 4096))).toBe(true);
  expectUnit(first, 0); // nothing has been written over it
  streamer.release(first);
});

test("in another order than the cycle's each comes all the same", async () => {
  for (const index of [2, 1, 3, 3, 0]) {
    const job = await streamer.acquire(units[index] as Unit);
    expectUnit(job, index);
    streamer.release(job);
  }
});

describe("another cycle", () => {
  test("is followed from its start, and left again for that of a pass", async () => {
    const backward = units.toReversed();
    await streamer.follow(backward);
    expect(streamer.follows(backward)).toBe(true);
    for (const one of backward) {
      const job = await streamer.acquire(one);
      expectUnit(job, one.index);
      streamer.release(job);
    }
    await streamer.followPass();
    expect(streamer.follows(streamer.pass)).toBe(true);
    const job = await streamer.acquire(units[0] as Unit);
    expectUnit(job, 0);
    streamer.release(job);
  });

  test("may have a gate: no byte of a unit is read before it", async () => {
    const updated = latch();
    await streamer.follow(units, () => updated.opened);
    streamer.start();
    await turn();
    expect(reads).toEqual([]);
    updated.open();
    const job = await streamer.acquire(units[0] as Unit);
    expectUnit(job, 0);
    streamer.release(job);
  });
});

test("a read that fails is thrown where its unit is wanted; after a reset the cycle begins anew", async () => {
  let fails = true;
  const secondPage = Math.floor((START + BYTES) / 4096) * 4096;
  answer = ({ fileOffset }) => {
    if (fails && fileOffset >= secondPage) throw systemError("EIO");
  };
  const failing = streamer.acquire(units[0] as Unit).then(async (job) => {
    streamer.release(job); // unless the second has failed by then, which ends the reading of all
    return streamer.acquire(units[1] as Unit);
  });
  await expect(failing).rejects.toThrow(IoError);
  fails = false;
  await streamer.reset();
  for (const one of units) {
    const job = await streamer.acquire(one);
    expectUnit(job, one.index);
    streamer.release(job);
  }
});

test("it is disposed of once what is on its way is over, and its memory is given back", async () => {
  const arriving = latch();
  answer = () => arriving.opened;
  streamer.start();
  await until(() => reads.length > 0);
  const disposing = streamer.dispose();
  await turn();
  expect(ledger.used("cpu")).toBeGreaterThan(0);
  arriving.open();
  await disposing;
  ledger.assertEmpty();
});
