import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { MemoryProbe, type MemorySource, parseStatus, resetPeak, residentMemory } from "./memory-probe.ts";

const MiB = 2 ** 20;
const canReset = resetPeak();

/** Bytes that are really there: zeroed pages are not resident until they are written. */
function touched(bytes: number): Uint8Array {
  return new Uint8Array(bytes).fill(1);
}

describe("residentMemory", () => {
  test("reads /proc/self/status", () => {
    const status = "Name:\tnode\nVmPeak:\t  999 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
    expect(parseStatus(status)).toEqual({ now: MiB, peak: 2 * MiB });
    expect(parseStatus("Name:\tnode\n")).toEqual({ now: undefined, peak: undefined });
  });

  test("sees memory that is written to", () => {
    const before = residentMemory();
    const held = touched(64 * MiB);
    const after = residentMemory();
    expect(after.now - before.now).toBeGreaterThan(48 * MiB);
    expect(after.peak).toBeGreaterThanOrEqual(after.now);
    expect(held[held.length - 1]).toBe(1);
  });

  test.skipIf(!canReset)("the peak can be made to start again", () => {
    let held: Uint8Array | undefined = touched(64 * MiB);
    const high = residentMemory().peak;
    // transfer(0) gives the pages back at once, where dropping the reference waits for the collector.
    expect(held.length).toBe(64 * MiB);
    structuredClone(held.buffer, { transfer: [held.buffer as ArrayBuffer] });
    held = undefined;
    expect(resetPeak()).toBe(true);
    expect(residentMemory().peak).toBeLessThanOrEqual(high);
  });
});

describe("MemoryProbe", () => {
  test("reports before, after and a peak at least as high as both", () => {
    const probe = new MemoryProbe().start();
    const held = touched(64 * MiB);
    const { before, after, peak } = probe.stop();
    expect(after - before).toBeGreaterThan(48 * MiB);
    expect(peak).toBeGreaterThanOrEqual(after);
    expect(held[0]).toBe(1);
  });

  test.skipIf(!canReset)("a probe inside another does not take the outer one's peak away", () => {
    const source = pretend([100, 900, 200, 300], true);
    const outer = new MemoryProbe(source).start();
    expect(outer.stop().peak).toBe(900);

    const real = new MemoryProbe().start();
    const high = residentMemory().peak;
    const inner = new MemoryProbe().start();
    inner.stop();
    expect(real.stop().peak).toBeGreaterThanOrEqual(high);
  });

  test("where the kernel's peak cannot be reset, samples are taken", async () => {
    let now = 100;
    const source: MemorySource = {
      resident: () => ({ now, peak: 5000 }),
      resetPeak: () => false,
    };
    const probe = new MemoryProbe(source).start();
    now = 700;
    let seen = 0;
    source.resident = () => {
      seen++;
      return { now, peak: 5000 };
    };
    while (seen < 2) await sleep(5);
    now = 300;
    expect(probe.stop()).toEqual({ before: 100, after: 300, peak: 700 });
    const stopped = seen;
    await sleep(30);
    expect(seen).toBe(stopped);
  });

  test("a process peak that rose between samples is the peak", () => {
    const readings = [
      { now: 100, peak: 5000 },
      { now: 300, peak: 6000 },
    ];
    const probe = new MemoryProbe({ resident: () => readings.shift()!, resetPeak: () => false });
    expect(probe.start().stop()).toEqual({ before: 100, after: 300, peak: 6000 });
  });

  test("stop without start, and twice", () => {
    const probe = new MemoryProbe(pretend([1, 2, 3], true));
    expect(probe.stop()).toEqual({ before: 1, after: 1, peak: 1 });
    probe.start();
    expect(probe.stop().before).toBe(2);
  });
});

/** A source whose resident bytes are `now`, one per reading, and whose peak is the largest so far. */
function pretend(now: number[], resets: boolean): MemorySource {
  let peak = 0;
  return {
    resident: () => {
      const at = now.shift() ?? 0;
      peak = Math.max(peak, at);
      return { now: at, peak };
    },
    resetPeak: () => resets,
  };
}
