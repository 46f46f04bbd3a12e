import { createHash } from "node:crypto";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { NativeBuffer } from "../backend/ggml/buffer.ts";
import { AbortError, BudgetError, ConfigError, DisposedError, IoError } from "../base/errors.ts";
import type { Region } from "./store.ts";
import { holdings, hostBytes, type OpenStore, openStore, testableTiers } from "./stores/testing.ts";

const tiers = testableTiers();

/** `count` bytes that differ from one another and from those of another seed. */
function pattern(count: number, seed: number): Uint8Array {
  return Uint8Array.from({ length: count }, (_, i) => (i * 7 + (i >> 8) * 13 + seed * 31 + 1) & 0xff);
}

async function contents(region: Region, offset = 0, length = region.bytes): Promise<Uint8Array> {
  using memory = hostBytes(length);
  await region.read(memory, 0, offset, length);
  return new Uint8Array(memory.view(0, length)).slice();
}

async function fill(region: Region, offset: number, bytes: Uint8Array): Promise<void> {
  using memory = hostBytes(bytes);
  await region.write(memory, 0, offset, bytes.byteLength);
}

describe.each(tiers)("a region on %s", (tier) => {
  let open: OpenStore;
  let before: ReturnType<typeof holdings>;

  beforeEach(async () => {
    before = holdings();
    open = await openStore(tier);
  });
  afterEach(async () => {
    await open.close();
    open.ledger.assertEmpty();
    expect(holdings()).toEqual(before);
  });

  test("is zeros until it is written", async () => {
    const first = await open.store.allocate(10_000, "moments");
    await fill(first, 0, pattern(10_000, 1));
    await first.free();
    // Most likely the same bytes again.
    const second = await open.store.allocate(10_000, "moments");
    expect(digest(await contents(second))).toBe(digest(new Uint8Array(10_000)));
  });

  test("keeps what is written, at any offset and length", async () => {
    const region = await open.store.allocate(50_001, "moments");
    const expected = pattern(50_001, 2);
    await fill(region, 0, expected);
    for (const [offset, length] of [
      [0, 1],
      [50_000, 1],
      [4095, 2],
      [4096, 4096],
      [8192, 12_288],
      [123, 40_000],
    ] as const) {
      const part = pattern(length, offset);
      expected.set(part, offset);
      await fill(region, offset, part);
      expect(digest(await contents(region, offset, length))).toBe(digest(part));
    }
    expect(digest(await contents(region))).toBe(digest(expected));
  });

  test("is entered in the ledger while it lives", async () => {
    const region = await open.store.allocate(8192, "exp_avg");
    expect(open.ledger.entries(tier)).toContainEqual({ tier, what: "exp_avg", bytes: 8192 });
    await region.free();
    await region.free();
    expect(open.ledger.used(tier)).toBe(0);
  });

  test("refuses ranges that are not inside", async () => {
    const region = await open.store.allocate(100, "moments");
    using memory = hostBytes(50);
    await expect(region.read(memory, 0, 60, 41)).rejects.toThrow(/is outside: it has 100 bytes/);
    await expect(region.write(memory, 20, 0, 31)).rejects.toThrow(/does not fit at 20 of memory of 50 bytes/);
    await expect(region.read(memory, 0, -1, 1)).rejects.toThrow(IoError);
    await expect(region.read(memory, 0, 0.5, 1)).rejects.toThrow(IoError);
    await region.read(memory, 0, 100, 0);
  });

  test("a read sees the writes asked for before it, and not those after", async () => {
    const region = await open.store.allocate(40_000, "moments");
    using one = hostBytes(new Uint8Array(40_000).fill(1));
    using two = hostBytes(new Uint8Array(30_000).fill(2));
    using seen = hostBytes(40_000);
    await Promise.all([
      region.write(one, 0, 0, 40_000),
      region.write(two, 0, 5_000, 30_000),
      region.read(seen, 0, 0, 40_000),
      region.write(one, 0, 0, 40_000),
    ]);
    const expected = new Uint8Array(40_000).fill(1).fill(2, 5_000, 35_000);
    expect(digest(new Uint8Array(seen.view()))).toBe(digest(expected));
    expect(digest(await contents(region))).toBe(digest(new Uint8Array(40_000).fill(1)));
  });

  test("can be declared torn: it is used again once it has been written in whole", async () => {
    const region = await open.store.allocate(10_000, "exp_avg");
    region.markTorn("step 7 was interrupted");
    await expect(contents(region)).rejects.toThrow(
      /exp_avg on .* cannot be used: step 7 was interrupted; write it again in whole/,
    );
    if (tier === "cpu") expect(() => region.buffer).toThrow(IoError);
    await fill(region, 0, pattern(6_000, 1));
    expect(region.torn).toBe("step 7 was interrupted");
    await expect(contents(region)).rejects.toThrow(IoError);
    expect(await contents(region, 0, 6_000)).toEqual(pattern(6_000, 1));
    await fill(region, 6_000, pattern(4_000, 2));
    expect(region.torn).toBeUndefined();
    expect(await contents(region, 6_000, 4_000)).toEqual(pattern(4_000, 2));
  });

  test("only the cpu tier is used in place", async () => {
    const region = await open.store.allocate(4096, "moments");
    expect(region.buffer !== undefined).toBe(tier === "cpu");
    if (!region.buffer) return;
    new Uint8Array(region.buffer.view())[7] = 9;
    expect((await contents(region))[7]).toBe(9);
    expect(Number(region.buffer.address() % 4096n)).toBe(0);
  });

  test("does nothing for a signal that has fired", async () => {
    const region = await open.store.allocate(4096, "moments");
    using memory = hostBytes(pattern(4096, 3));
    const signal = AbortSignal.abort();
    await expect(region.write(memory, 0, 0, 4096, signal)).rejects.toThrow(AbortError);
    await expect(region.read(memory, 0, 0, 4096, signal)).rejects.toThrow(AbortError);
    expect(region.torn).toBeUndefined();
    expect(await contents(region)).toEqual(new Uint8Array(4096));
  });

  test("cannot be used after it was freed, nor its store after dispose", async () => {
    const region = await open.store.allocate(4096, "moments");
    const other = await open.store.allocate(4096, "moments");
    using memory = hostBytes(4096);
    const writing = region.write(memory, 0, 0, 4096);
    const freeing = region.free();
    await expect(region.read(memory, 0, 0, 1)).rejects.toThrow(DisposedError);
    expect(() => region.buffer).toThrow(DisposedError);
    await writing; // begun before
    await freeing;
    const late = open.store.allocate(4096, "late");
    const disposing = open.store.dispose();
    await expect(late).rejects.toThrow(DisposedError);
    await disposing;
    await expect(other.read(memory, 0, 0, 1)).rejects.toThrow(DisposedError);
    await expect(open.store.allocate(1, "late")).rejects.toThrow(DisposedError);
    await open.store.dispose();
  });

  test("is refused where it does not fit or makes no sense", async () => {
    for (const bytes of [0, -1, 1.5, Number.NaN]) {
      await expect(open.store.allocate(bytes, "moments")).rejects.toThrow(ConfigError);
    }
    const small = await openStore(tier, { budgets: { [tier]: 512 * 1024 } });
    try {
      await expect(small.store.allocate(600_000, "exp_avg")).rejects.toThrow(BudgetError);
      const fits = await small.store.allocate(400_000, "exp_avg");
      await expect(small.store.allocate(200_000, "exp_avg_sq")).rejects.toThrow(/short by/);
      expect(fits.torn).toBeUndefined();
    } finally {
      await small.close();
    }
    small.ledger.assertEmpty();
  });
});

/** What is done to a store: indexes count the regions that live, modulo their number. */
type Action =
  | { readonly do: "allocate"; readonly bytes: number }
  | { readonly do: "free"; readonly region: number }
  | {
      readonly do: "write" | "read";
      readonly region: number;
      readonly from: number;
      readonly to: number;
      readonly at: number;
    };

const MOST = 20_000;
const range = {
  region: fc.nat(9),
  from: fc.oneof(
    fc.nat(MOST),
    fc.nat(4).map((block) => block * 4096),
  ),
  to: fc.oneof(
    fc.nat(MOST),
    fc.nat(4).map((block) => block * 4096),
  ),
  at: fc.constantFrom(0, 0, 4096, 1, 100),
};
const actions: fc.Arbitrary<Action[]> = fc.array(
  fc.oneof(
    fc.record({ do: fc.constant("allocate" as const), bytes: fc.integer({ min: 1, max: MOST }) }),
    fc.record({ do: fc.constant("free" as const), region: fc.nat(9) }),
    fc.record({ do: fc.constantFrom("write" as const, "read" as const), ...range }),
    fc.record({ do: fc.constantFrom("write" as const, "read" as const), ...range }),
  ),
  { minLength: 5, maxLength: 40 },
);

/** Stands for bytes where comparing them one by one would take too long. */
function digest(bytes: Uint8Array): string {
  return createHash("sha1").update(bytes).digest("hex");
}

/** Does all of it without waiting in between but for allocations, and returns digests of what every read saw. */
async function perform(open: OpenStore, list: readonly Action[]): Promise<string[]> {
  const regions: Region[] = [];
  const memory: NativeBuffer[] = [];
  const running: Promise<unknown>[] = [];
  const reads: (() => string)[] = [];
  for (const [step, action] of list.entries()) {
    if (action.do === "allocate") {
      regions.push(await open.store.allocate(action.bytes, `region ${step}`));
      continue;
    }
    const index = action.region % Math.max(regions.length, 1);
    const region = regions[index];
    if (!region) continue;
    if (action.do === "free") {
      regions.splice(index, 1);
      running.push(region.free());
      continue;
    }
    const from = Math.min(action.from, action.to, region.bytes);
    const length = Math.min(Math.max(action.from, action.to), region.bytes) - from;
    const host = hostBytes(MOST + 4096);
    memory.push(host);
    if (action.do === "write") {
      new Uint8Array(host.view(action.at, length)).set(pattern(length, step));
      running.push(region.write(host, action.at, from, length));
    } else {
      running.push(region.read(host, action.at, from, length));
      // The bytes on either side must be left alone: they are part of what is compared.
      reads.push(() => digest(new Uint8Array(host.view())));
    }
  }
  await Promise.all(running);
  const seen = reads.map((look) => look());
  for (const region of regions) seen.push(digest(await contents(region)));
  for (const buffer of memory) buffer.dispose();
  return seen;
}

/** The same on plain arrays, one action after another. */
function model(list: readonly Action[]): string[] {
  const regions: Uint8Array[] = [];
  const seen: string[] = [];
  for (const [step, action] of list.entries()) {
    if (action.do === "allocate") {
      regions.push(new Uint8Array(action.bytes));
      continue;
    }
    const index = action.region % Math.max(regions.length, 1);
    const region = regions[index];
    if (!region) continue;
    if (action.do === "free") {
      regions.splice(index, 1);
      continue;
    }
    const from = Math.min(action.from, action.to, region.length);
    const length = Math.min(Math.max(action.from, action.to), region.length) - from;
    if (action.do === "write") region.set(pattern(length, step), from);
    else {
      const host = new Uint8Array(MOST + 4096);
      host.set(region.subarray(from, from + length), action.at);
      seen.push(digest(host));
    }
  }
  return [...seen, ...regions.map(digest)];
}

describe("any sequence of allocations, reads, writes and frees", () => {
  test.each(tiers)("does on %s what it does on arrays", async (tier) => {
    await fc.assert(
      fc.asyncProperty(actions, fc.boolean(), async (list, direct) => {
        const before = holdings();
        // Small chunks, so that transfers are cut up and overtake one another.
        const open = await openStore(tier, { disk: { direct, chunkBytes: 8192, depth: 4 } });
        try {
          expect(await perform(open, list)).toEqual(model(list));
        } finally {
          await open.close();
        }
        open.ledger.assertEmpty();
        expect(holdings()).toEqual(before);
      }),
      { numRuns: tier === "gpu" ? 15 : 50 },
    );
  });
});
