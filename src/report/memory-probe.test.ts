import { describe, expect, onTestFinished, test, vi } from "vitest";
import { testUnless } from "../base/testing-unproven.ts";
import { alignedMemory } from "../memory/testing.ts";
import { MemoryProbe, type MemoryReader, parseStatus, resetPeak, residentMemory } from "./memory-probe.ts";

const MiB = 2 ** 20;
const cannotReset = resetPeak() ? undefined : "the system does not start its peak of memory again";

/** Native memory that is really there (pages are not resident until they are written), and gone once freed. */
function resident(bytes: number) {
  const memory = alignedMemory(bytes);
  new Uint8Array(memory.buffer).fill(1);
  return memory;
}

describe("residentMemory", () => {
  test("reads /proc/self/status", () => {
    const status = "Name:\tnode\nVmPeak:\t  999 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
    expect(parseStatus(status)).toEqual({ now: MiB, peak: 2 * MiB });
    expect(parseStatus("Name:\tnode\n")).toEqual({ now: undefined, peak: undefined });
  });

  test("sees native memory that is written to", () => {
    const before = residentMemory();
    const held = resident(64 * MiB);
    const after = residentMemory();
    held.free();
    expect(after.now - before.now).toBeGreaterThan(48 * MiB);
    expect(after.peak).toBeGreaterThanOrEqual(after.now);
  });

  testUnless(cannotReset)("the peak stays when memory is freed, until it is made to start again", () => {
    const before = residentMemory().now;
    resident(128 * MiB).free();
    expect(residentMemory().peak - before).toBeGreaterThan(96 * MiB);
    expect(resetPeak()).toBe(true);
    expect(residentMemory().peak - before).toBeLessThan(64 * MiB);
  });
});

describe("MemoryProbe", () => {
  testUnless(cannotReset)("sees a peak that came and went without the event loop turning", () => {
    const probe = new MemoryProbe().start();
    resident(128 * MiB).free();
    const { before, after, peak } = probe.stop();
    expect(peak - before).toBeGreaterThan(96 * MiB);
    expect(peak).toBeGreaterThanOrEqual(after);
  });

  testUnless(cannotReset)("does not see what was over before it started", () => {
    resident(128 * MiB).free();
    const { before, peak } = new MemoryProbe().start().stop();
    expect(peak - before).toBeLessThan(64 * MiB);
  });

  testUnless(cannotReset)("a probe inside another does not take the outer one's peak away", () => {
    const outer = new MemoryProbe().start();
    resident(128 * MiB).free();
    const inner = new MemoryProbe().start().stop();
    const { before, peak } = outer.stop();
    expect(inner.peak - inner.before).toBeLessThan(64 * MiB);
    expect(peak - before).toBeGreaterThan(96 * MiB);
  });

  test("where the kernel's peak cannot be reset, samples are taken until it stops", () => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
    onTestFinished(() => void vi.useRealTimers());
    let now = 100;
    let readings = 0;
    const source: MemoryReader = {
      resident: () => {
        readings++;
        return { now, peak: 5000 };
      },
      resetPeak: () => false,
    };
    const probe = new MemoryProbe(source).start();
    now = 700;
    vi.advanceTimersByTime(1000);
    expect(readings).toBeGreaterThan(10);
    now = 300;
    expect(probe.stop()).toEqual({ before: 100, after: 300, peak: 700 });
    const last = readings;
    vi.advanceTimersByTime(1000);
    expect(readings).toBe(last);
  });

  test("a process peak that rose between two samples is the peak", () => {
    const readings = [
      { now: 100, peak: 5000 },
      { now: 300, peak: 6000 },
    ];
    const probe = new MemoryProbe({ resident: () => readings.shift()!, resetPeak: () => false });
    expect(probe.start().stop()).toEqual({ before: 100, after: 300, peak: 6000 });
  });

  test("a process peak from before the probe is not", () => {
    const probe = new MemoryProbe({ resident: () => ({ now: 100, peak: 5000 }), resetPeak: () => false });
    expect(probe.start().stop().peak).toBe(100);
  });

  test("stop without start says what is resident now", () => {
    const probe = new MemoryProbe({ resident: () => ({ now: 7, peak: 9 }), resetPeak: () => true });
    expect(probe.stop()).toEqual({ before: 7, after: 7, peak: 7 });
  });
});
