import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { liveBufferCount } from "../../backend/ggml/buffer.ts";
import { Device, findDevice } from "../../backend/ggml/device.ts";
import { BudgetError } from "../../base/errors.ts";
import { Ledger } from "../../memory/ledger.ts";
import { ResidentArena } from "./resident-memory.ts";

describe("memory for what stays", () => {
  const weights = { tier: "cpu", what: "weights", usage: "weights" } as const;
  let cpu: Device;
  beforeEach(() => {
    cpu = Device.open(findDevice("cpu"), { threads: 1 });
  });
  afterEach(() => cpu.dispose());

  test("parts lie one behind the other and are bytes of their own", () => {
    const ledger = new Ledger();
    const memory = new ResidentArena();
    const [a, b, c] = memory.take(ledger, cpu.memory, weights, [4096, 8192, 4096]);
    if (!a || !b || !c) throw new Error("three parts");
    expect([a.size, b.size, c.size]).toEqual([4096, 8192, 4096]);
    expect(a.address() % 4096n).toBe(0n);
    expect(b.address()).toBe(a.address() + 4096n);
    b.bytes().fill(7);
    a.bytes().fill(1);
    c.bytes().fill(2);
    expect(b.bytes().every((value) => value === 7)).toBe(true);
    expect(b.bytes().buffer).toBe(a.bytes().buffer); // one view of all
    expect(ledger.used("cpu")).toBe(16384);
    memory.dispose();
    memory.dispose();
    ledger.assertEmpty();
  });

  test("what memory allows at once is the limit of a block", () => {
    const ledger = new Ledger();
    const memory = new ResidentArena();
    const before = liveBufferCount();
    const narrow = {
      maxSize: 8192,
      allocate: (bytes: number, usage: "any" | "weights" | "compute") => cpu.memory.allocate(bytes, usage),
    };
    const parts = memory.take(ledger, narrow, weights, [4096, 4096, 4096]);
    expect(parts.map((part) => part.size)).toEqual([4096, 4096, 4096]);
    expect(liveBufferCount()).toBe(before + 2);
    memory.dispose();
    expect(liveBufferCount()).toBe(before);
  });

  test("beyond the budget nothing more is taken, and what was is freed", () => {
    const ledger = new Ledger({ cpu: 10_000 });
    const memory = new ResidentArena();
    const before = liveBufferCount();
    memory.take(ledger, cpu.memory, weights, [4096]);
    expect(() => memory.take(ledger, cpu.memory, weights, [8192])).toThrow(BudgetError);
    expect(liveBufferCount()).toBe(before + 1);
    memory.dispose();
    expect(liveBufferCount()).toBe(before);
    ledger.assertEmpty();
  });
});
