import { describe, expect, test } from "vitest";
import { RangeOrder } from "./range-order.ts";

/** Operations that are begun by the order and ended by hand; `log` tells which have begun. */
function manual(order: RangeOrder) {
  const log: string[] = [];
  const ends = new Map<string, { resolve: () => void; reject: (error: Error) => void }>();
  const start = (name: string, kind: "read" | "write", from: number, to: number) =>
    order.run(kind, from, to, () => {
      log.push(name);
      return new Promise<void>((resolve, reject) => ends.set(name, { resolve, reject }));
    });
  return { log, start, end: (name: string) => ends.get(name)!, settle: () => new Promise(setImmediate) };
}

describe("RangeOrder", () => {
  test("reads wait for the write before them, not for one another", async () => {
    const { log, start, end, settle } = manual(new RangeOrder());
    const all = [start("write", "write", 0, 10), start("a", "read", 5, 15), start("b", "read", 0, 6)];
    await settle();
    expect(log).toEqual(["write"]);
    end("write").resolve();
    await settle();
    expect(log).toEqual(["write", "a", "b"]);
    end("a").resolve();
    end("b").resolve();
    await Promise.all(all);
  });

  test("a write waits for the reads before it; what does not overlap waits for nobody", async () => {
    const { log, start, end, settle } = manual(new RangeOrder());
    const all = [
      start("read", "read", 0, 10),
      start("over", "write", 9, 20),
      start("apart", "write", 20, 30),
      start("late", "read", 15, 16),
    ];
    await settle();
    expect(log).toEqual(["read", "apart"]);
    end("read").resolve();
    await settle();
    expect(log).toEqual(["read", "apart", "over"]);
    end("over").resolve();
    await settle();
    end("late").resolve();
    end("apart").resolve();
    await Promise.all(all);
  });

  test("those who wait go on after a failure, which is its caller's", async () => {
    const order = new RangeOrder();
    const { log, start, end, settle } = manual(order);
    const failing = start("fails", "write", 0, 10);
    const waiting = start("waits", "read", 0, 10);
    await settle();
    end("fails").reject(new Error("no"));
    await expect(failing).rejects.toThrow("no");
    await settle();
    expect(log).toEqual(["fails", "waits"]);
    end("waits").resolve();
    await waiting;
    await order.idle();
  });

  test("operations that share a block conflict", async () => {
    const { log, start, end, settle } = manual(new RangeOrder(4096));
    const all = [
      start("a", "write", 0, 10),
      start("b", "write", 4000, 4010),
      start("c", "write", 4096, 4097),
    ];
    await settle();
    expect(log).toEqual(["a", "c"]);
    end("a").resolve();
    await settle();
    expect(log).toEqual(["a", "c", "b"]);
    end("b").resolve();
    end("c").resolve();
    await Promise.all(all);
  });
});
