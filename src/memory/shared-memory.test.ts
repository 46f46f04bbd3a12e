// Buffers that compiled loops reach: apart from one another, zero at first, given back. Which loops is not its concern.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { liveBufferCount, type NativeBuffer, PAGE } from "../backend/ggml/buffer.ts";
import { canGiveBack } from "../backend/ggml/system.ts";
import { describeUnless } from "../base/testing-unproven.ts";
import { FreeList } from "./free-list.ts";
import { sharedMemory, sharedSpace, streamBytes } from "./shared-memory.ts";

describe("free list", () => {
  test("hands out ranges that do not overlap, and is whole again when all are back", () => {
    const steps = fc.array(fc.tuple(fc.integer({ min: 1, max: 300 }), fc.boolean()), { maxLength: 60 });
    fc.assert(
      fc.property(steps, (list) => {
        const free = new FreeList();
        free.give(100, 1100);
        const held: { start: number; end: number }[] = [];
        for (const [bytes, giveBack] of list) {
          const old = giveBack && held.splice(bytes % Math.max(1, held.length), 1)[0];
          if (old) free.give(old.start, old.end);
          const start = free.take(bytes);
          if (start === undefined) continue;
          expect(start >= 100 && start + bytes <= 1100).toBe(true);
          for (const other of held) expect(start >= other.end || start + bytes <= other.start).toBe(true);
          held.push({ start, end: start + bytes });
        }
        for (const { start, end } of held) free.give(start, end);
        expect(free.tail(1100)).toBe(1000);
        expect(free.take(1000)).toBe(100);
      }),
    );
  });
});

describeUnless(canGiveBack() ? undefined : "memory of threads cannot be given back to the system here")(
  "shared memory",
  () => {
    const allocate = (bytes: number) => sharedMemory.allocate(bytes, "any");

    test("buffers begin at pages, hold what is written, and do not overlap", () => {
      const sizes = [1, 5000, 3 * 2 ** 20, 0, 70_000, 2 ** 20];
      const buffers = sizes.map(allocate);
      for (const [i, buffer] of buffers.entries()) {
        expect(buffer.address() % BigInt(PAGE)).toBe(0n);
        expect(buffer.size).toBe(sizes[i]);
        new Uint8Array(buffer.view()).fill(i + 1);
      }
      for (const [i, buffer] of buffers.entries()) {
        expect(new Uint8Array(buffer.view()).every((byte) => byte === i + 1)).toBe(true);
      }
      for (const buffer of buffers) buffer.dispose();
    });

    test("large ones of the same power of two do not begin one apart", () => {
      const [a, b] = [allocate(2 ** 20), allocate(2 ** 20)] as [NativeBuffer, NativeBuffer];
      const apart = Number(b.address() - a.address());
      expect(Math.abs(apart) % 2 ** 16).not.toBe(0);
      expect(streamBytes(2 ** 20) % 2 ** 16).not.toBe(0);
      a.dispose();
      b.dispose();
    });

    test("disposed memory is given back, and zero when it is used again", () => {
      const live = liveBufferCount();
      const keeps = allocate(100); // so that the memory stays the same one
      const first = allocate(8 * 2 ** 20);
      const address = first.address();
      new Uint8Array(first.view()).fill(7);
      const resident = process.memoryUsage.rss();
      first.dispose();
      first.dispose();
      expect(process.memoryUsage.rss()).toBeLessThan(resident - 4 * 2 ** 20);
      const second = allocate(8 * 2 ** 20);
      expect(second.address()).toBe(address);
      expect(new Uint8Array(second.view()).every((byte) => byte === 0)).toBe(true);
      second.dispose();
      keeps.dispose();
      expect(liveBufferCount()).toBe(live);
    });

    test("ranges are found by their address, also those of a part; plain memory is not", () => {
      const buffer = allocate(10_000);
      const part = buffer.part(4096, 100);
      const space = sharedSpace(buffer.address(), buffer.size);
      expect(space).toBeDefined();
      expect(sharedSpace(part.address(), 100)).toBe(space);
      expect(space!.offsetOf(part.address(), 100)).toBe(space!.offsetOf(buffer.address(), 1)! + 4096);
      expect(sharedSpace(buffer.address(), 2 ** 33)).toBeUndefined();
      expect(sharedSpace(4096n, 10)).toBeUndefined();
      buffer.dispose();
    });

    test("what is too large for such a memory comes from plain memory", () => {
      const buffer = allocate(5 * 2 ** 30); // address space alone
      expect(sharedSpace(buffer.address(), buffer.size)).toBeUndefined();
      expect(buffer.type.host).toBe(true);
      buffer.dispose();
    });
  },
);
