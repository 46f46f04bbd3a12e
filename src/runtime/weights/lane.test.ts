// A lane brings units ahead of their use, in the order of a cycle, as far as its ring has room; nothing else stops it.
import { expect, test } from "vitest";
import type { NativeBuffer } from "../../backend/ggml/buffer.ts";
import { latch, turn, until } from "../../base/async/testing-events.ts";
import { RingArena } from "../../memory/ring.ts";
import type { Matrix, Unit } from "../../plan/units.ts";
import { Lane, type LaneOptions, release } from "./lane.ts";

/** Spans of a ring begin at multiples of it. Bytes. */
const PAGE = 4096;

/** A unit whose matrices take so many pages of the ring each: "a" has "a0", "a1" ... */
function unit(name: string, ...pages: number[]): Unit {
  return { name, owned: pages.map((n, i) => ({ name: `${name}${i}`, bytes: n * PAGE })) } as unknown as Unit;
}

/** A lane through a ring of so many pages. What it brings is there at once, unless `hold` names it. */
function laneOf(pages: number, cycle: readonly Unit[], options: Partial<LaneOptions> = {}) {
  const ring = new RingArena(pages * PAGE, { tier: "cpu" });
  const begun: string[] = [];
  const held = new Map<string, ReturnType<typeof latch>>();
  const lane = new Lane({
    ring,
    cycle,
    matrices: (one) => one.owned,
    slotBytes: (m) => m.bytes,
    bring: (job, m, offset, signal) => {
      begun.push(m.name);
      job.slots.push({ name: m.name, offset, buffer: {} as NativeBuffer } as (typeof job.slots)[number]);
      const wait = held.get(m.name);
      if (!wait) return Promise.resolve();
      return Promise.race([
        wait.opened,
        new Promise<never>((_, reject) =>
          signal.addEventListener("abort", () => reject(new Error("aborted"))),
        ),
      ]);
    },
    ...options,
  });
  /** The matrix is on its way until this is called. */
  const hold = (name: string) => {
    const wait = latch();
    held.set(name, wait);
    return () => {
      held.delete(name);
      wait.open();
    };
  };
  return { lane, ring, begun, hold };
}

const [A, B, C] = [unit("a", 30), unit("b", 30), unit("c", 30)];

test("units come in the order of the cycle, round and round, as far ahead as the ring has room", async () => {
  const { lane, begun } = laneOf(60, [A, B, C]);
  lane.start();
  await until(() => begun.length === 2);
  await turn();
  expect(begun).toEqual(["a0", "b0"]); // the ring is full
  for (const [i, wanted] of [A, B, C, A, B].entries()) {
    const job = await lane.acquire(wanted);
    expect(job.unit).toBe(wanted);
    release(job);
    await until(() => begun.length === 3 + i);
  }
  expect(begun).toEqual(["a0", "b0", "c0", "a0", "b0", "c0", "a0"]);
  await lane.reset();
});

test("a unit is there once all its matrices are", async () => {
  const two = unit("t", 10, 10);
  const { lane, hold, begun } = laneOf(60, [two]);
  const arrive = hold("t1");
  let there = false;
  const acquired = lane.acquire(two).then((job) => {
    there = true;
    return job;
  });
  await until(() => begun.includes("t1"));
  await turn();
  expect(there).toBe(false);
  arrive();
  expect((await acquired).slots.map(({ name }) => name)).toEqual(["t0", "t1"]);
  await lane.reset();
});

test("matrices get room one by one where the ring holds a unit and a matrix, else a unit gets it as a whole", async () => {
  const [first, second] = [unit("x", 20, 20), unit("y", 20, 20)];
  const wide = laneOf(60, [first, second]);
  wide.lane.start();
  await until(() => wide.begun.length === 3);
  expect(wide.begun).toEqual(["x0", "x1", "y0"]);
  await wide.lane.reset();

  const narrow = laneOf(50, [first, second]);
  narrow.lane.start();
  await until(() => narrow.begun.length === 2);
  await turn();
  expect(narrow.begun).toEqual(["x0", "x1"]);
  const job = await narrow.lane.acquire(first);
  expect(job.slots.map(({ offset }) => offset)).toEqual([0, 20 * PAGE]);
  expect(job.spans).toHaveLength(1);
  release(job);
  await until(() => narrow.begun.length === 4);
  await narrow.lane.reset();
});

test("asked for another unit than the next it starts anew from there; for one of no cycle it is a mistake", async () => {
  const { lane, begun, ring } = laneOf(60, [A, B, C]);
  release(await lane.acquire(A));
  await until(() => begun.length === 3); // b is there and c on its way, but a is asked for
  const job = await lane.acquire(A);
  expect(job.unit).toBe(A);
  expect(begun[3]).toBe("a0");
  release(job);
  await expect(lane.acquire(unit("other", 1))).rejects.toThrow(
    "other was asked for, but is not among what streams",
  );
  await lane.reset();
  expect(ring.taken).toBe(0);
});

test("what fails is thrown by acquire; after a reset all goes on", async () => {
  const broken = new Error("the disk");
  let fails = true;
  const { lane, ring } = laneOf(60, [A, B, C], {
    bring: async (_job, m) => {
      if (m.name === "b0" && fails) throw broken;
    },
  });
  release(await lane.acquire(A));
  await expect(lane.acquire(B)).rejects.toBe(broken);
  fails = false;
  await lane.reset();
  expect(ring.taken).toBe(0);
  release(await lane.acquire(A));
  await lane.reset();
});

test("a reset stops what is on its way", async () => {
  const { lane, hold, ring } = laneOf(60, [A, B, C]);
  hold("a0");
  const waiting = lane.acquire(A);
  await turn();
  await Promise.all([lane.reset(), expect(waiting).rejects.toThrow("aborted")]);
  expect(ring.taken).toBe(0);
});

test("a gate is awaited before a unit is brought, and a reset does not wait for it", async () => {
  const { lane, begun } = laneOf(60, [A, B]);
  const open = latch();
  lane.follow([B, A], (one) => (one === B ? open.opened : Promise.resolve()));
  lane.start();
  await turn();
  expect(begun).toEqual([]);
  open.open();
  expect((await lane.acquire(B)).unit).toBe(B);
  await lane.reset();

  lane.follow([A], () => new Promise(() => {}));
  lane.start();
  await turn();
  await lane.reset();
});

test("a reset waits for what is on its way: memory is not given up under it", async () => {
  const { lane, ring, begun } = laneOf(60, [A, B], {
    bring: (_job, m) => {
      begun.push(m.name);
      return there.opened; // deaf to the signal, as a read is that has begun
    },
  });
  const there = latch();
  lane.start();
  await until(() => begun.length === 2);
  let over = false;
  const reset = lane.reset().then(() => {
    over = true;
  });
  await turn();
  expect([over, ring.taken]).toEqual([false, 60 * PAGE]);
  there.open();
  await reset;
  expect(ring.taken).toBe(0);
});

test("each unit of a cycle of matrices has a slot of its own size", async () => {
  const matrices = (one: Unit): readonly Matrix[] => one.owned.filter(({ bytes }) => bytes > 10 * PAGE);
  const { lane, begun } = laneOf(60, [unit("s", 5, 20), B], { matrices });
  lane.start();
  await until(() => begun.length === 2);
  expect(begun).toEqual(["s1", "b0"]); // what is smaller stays elsewhere
  await lane.reset();
});
