import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AbortError, BudgetError, ConfigError } from "../base/errors.ts";
import { RingArena, type Span } from "./ring.ts";

const KiB4 = 4096;

describe("RingArena", () => {
  test("hands out aligned spans one after another", () => {
    const ring = new RingArena(10 * KiB4);
    expect(ring.allocate(100)?.offset).toBe(0);
    expect(ring.allocate(KiB4 + 1)).toMatchObject({ offset: KiB4, bytes: KiB4 + 1 });
    expect(ring.allocate(1)?.offset).toBe(3 * KiB4);
    expect(ring.allocate(1, 32)?.offset).toBe(3 * KiB4 + 32);
  });

  test("starts again at 0, where the rest is too short, once the oldest spans are free", () => {
    const ring = new RingArena(100);
    const [a, b] = [ring.allocate(30, 1)!, ring.allocate(50, 1)!];
    expect(ring.allocate(30, 1)).toBeUndefined();
    a.release();
    expect(ring.allocate(31, 1)).toBeUndefined();
    const c = ring.allocate(30, 1)!;
    expect(c.offset).toBe(0);
    expect(ring.allocate(1, 1)).toBeUndefined();
    b.release();
    // The 20 bytes left over at the end of the first lap are free again together with b.
    expect(ring.allocate(60, 1)?.offset).toBe(30);
  });

  test("space released out of order is used again in order", () => {
    const ring = new RingArena(100);
    const [a, b] = [ring.allocate(50, 1)!, ring.allocate(50, 1)!];
    b.release();
    expect(ring.taken).toBe(100);
    expect(ring.allocate(50, 1)).toBeUndefined();
    a.release();
    expect(ring.taken).toBe(0);
  });

  test("an empty arena takes a span as large as itself, wherever it stopped", () => {
    const ring = new RingArena(100);
    ring.allocate(30, 1)!.release();
    const all = ring.allocate(100, 1);
    expect(all?.offset).toBe(0);
    expect(ring.taken).toBe(100);
  });

  test("releasing twice frees once", () => {
    const ring = new RingArena(100);
    const a = ring.allocate(60, 1)!;
    a.release();
    const b = ring.allocate(60, 1)!;
    a.release();
    expect(ring.allocate(60, 1)).toBeUndefined();
    b.release();
    expect(ring.taken).toBe(0);
  });

  test("what can never fit is an error with numbers", async () => {
    const ring = new RingArena(2 ** 20, { tier: "gpu" });
    expect(() => ring.allocate(2 ** 20 + 1)).toThrow(BudgetError);
    await expect(ring.waitFor(3 * 2 ** 20)).rejects.toThrow(/3\.0 MiB .* 1\.0 MiB on gpu.* by 2\.0 MiB/);
    await expect(ring.waitFor(3 * 2 ** 20)).rejects.toMatchObject({ tier: "gpu", smallest: 3 * 2 ** 20 });
    expect(() => new RingArena(0).allocate(1)).toThrow(BudgetError);
  });

  test.each([0, -1, 1.5, Number.NaN])("a span of %d bytes is refused", (bytes) => {
    expect(() => new RingArena(100).allocate(bytes)).toThrow(ConfigError);
    expect(() => new RingArena(100).allocate(1, bytes)).toThrow(ConfigError);
  });

  test.each([-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY])("a capacity of %d is refused", (capacity) => {
    expect(() => new RingArena(capacity)).toThrow(ConfigError);
  });
});

describe("waitFor", () => {
  test("is served at once where there is room", async () => {
    expect((await new RingArena(100).waitFor(40, undefined, 1)).offset).toBe(0);
  });

  test("is served in the order of arrival, and nobody overtakes", async () => {
    const ring = new RingArena(100);
    const a = ring.allocate(60, 1)!;
    const order: string[] = [];
    const large = ring.waitFor(80, undefined, 1).then((span) => {
      order.push("large");
      return span;
    });
    const small = ring.waitFor(10, undefined, 1).then(() => order.push("small"));
    await Promise.resolve();
    expect(ring.waiting).toBe(2);
    expect(ring.allocate(10, 1)).toBeUndefined(); // there are 40 bytes, but others came first
    a.release();
    expect((await large).offset).toBe(0);
    await small;
    expect(order).toEqual(["large", "small"]);
    expect(ring.waiting).toBe(0);
  });

  test("one that gives up makes way for those behind it", async () => {
    const ring = new RingArena(100);
    ring.allocate(60, 1);
    const giveUp = new AbortController();
    const large = ring.waitFor(80, giveUp.signal, 1);
    const small = ring.waitFor(10, undefined, 1);
    giveUp.abort(new Error("enough"));
    await expect(large).rejects.toThrow(AbortError);
    expect((await small).offset).toBe(60);
  });

  test("a signal that has fired takes nothing; one that fires later does not take back", async () => {
    const ring = new RingArena(100);
    await expect(ring.waitFor(10, AbortSignal.abort(), 1)).rejects.toThrow(AbortError);
    expect(ring.taken).toBe(0);
    const late = new AbortController();
    const first = ring.allocate(100, 1)!;
    const second = ring.waitFor(50, late.signal, 1);
    first.release();
    const span = await second;
    late.abort();
    expect(ring.taken).toBe(50);
    span.release();
    expect(ring.taken).toBe(0);
  });
});

describe("against a naive model", () => {
  const capacity = 64;
  const step = fc.oneof(
    fc.record({ do: fc.constant("take" as const), bytes: fc.integer({ min: 1, max: capacity }) }),
    fc.record({ do: fc.constant("release" as const), which: fc.nat(20) }),
  );

  test("live spans lie inside, aligned, and never overlap", () => {
    const property = fc.property(
      fc.array(step, { maxLength: 200 }),
      fc.constantFrom(1, 4, 16),
      (steps, alignment) => {
        const ring = new RingArena(capacity);
        const live: Span[] = [];
        for (const one of steps) {
          if (one.do === "release") {
            live.splice(one.which % Math.max(live.length, 1), 1)[0]?.release();
            continue;
          }
          const span = ring.allocate(one.bytes, alignment);
          if (!span) {
            expect(live.length).toBeGreaterThan(0);
            continue;
          }
          expect(span.offset % alignment).toBe(0);
          expect(span.offset + span.bytes).toBeLessThanOrEqual(capacity);
          for (const other of live) {
            const apart =
              span.offset + span.bytes <= other.offset || other.offset + other.bytes <= span.offset;
            expect(apart, `${span.offset}+${span.bytes} and ${other.offset}+${other.bytes}`).toBe(true);
          }
          live.push(span);
        }
        for (const span of live) span.release();
        expect(ring.taken).toBe(0);
        expect(ring.allocate(capacity, alignment)?.offset).toBe(0);
      },
    );
    fc.assert(property);
  });

  test("spans released in the order they were taken never wait while the next stretch is free", () => {
    // The model: `oldest` is where the oldest live span starts; the next span goes behind the newest, or to 0.
    const sizes = fc.array(fc.integer({ min: 1, max: capacity }), { minLength: 1, maxLength: 100 });
    const property = fc.property(sizes, (all) => {
      const ring = new RingArena(capacity);
      const live: Span[] = [];
      for (const bytes of all) {
        for (;;) {
          const [oldest, newest] = [live[0], live.at(-1)];
          const after = newest ? newest.offset + newest.bytes : 0;
          const wrapped = oldest !== undefined && newest !== undefined && newest.offset < oldest.offset;
          const fitsAfter = after + bytes <= (wrapped ? oldest.offset : capacity);
          const fitsAtZero = !wrapped && oldest !== undefined && bytes <= oldest.offset;
          const span = ring.allocate(bytes, 1);
          expect(span?.offset).toBe(fitsAfter ? after : fitsAtZero ? 0 : undefined);
          if (span) {
            live.push(span);
            break;
          }
          live.shift()!.release();
        }
      }
    });
    fc.assert(property);
  });

  test("whoever waits is served in turn, whatever the order of release", async () => {
    const waits = fc.array(fc.tuple(fc.integer({ min: 1, max: capacity }), fc.nat(7)), { maxLength: 60 });
    const property = fc.asyncProperty(waits, async (all) => {
      const ring = new RingArena(capacity);
      const live: Span[] = [];
      const served: number[] = [];
      const done = all.map(async ([bytes], i) => {
        live.push(await ring.waitFor(bytes, undefined, 1));
        served.push(i);
      });
      for (let turn = 0; served.length < all.length; turn++) {
        // A waiter's continuation runs some microtasks after its span was handed out.
        for (let i = 0; i < 5; i++) await Promise.resolve();
        expect(live.length + all.length - served.length).toBeGreaterThan(0);
        const pick = all[turn % all.length]?.[1] ?? 0;
        live.splice(pick % Math.max(live.length, 1), 1)[0]?.release();
        expect(turn).toBeLessThan(10 * all.length + 10);
      }
      await Promise.all(done);
      expect(served).toEqual(all.map((_, i) => i));
      expect(ring.waiting).toBe(0);
    });
    await fc.assert(property, { numRuns: 50 });
  });
});
