import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { Device, findDevice, PATIENCE_MS } from "./device.ts";

let device: Device;
beforeAll(() => {
  device = Device.open(findDevice("cpu"), { threads: 1 });
});
afterAll(() => device.dispose());
beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
});
afterEach(() => {
  vi.useRealTimers();
});

/** Work that ends when it is told to. */
function work() {
  let begun = false;
  let end: (error?: Error) => void = () => {};
  const over = new Promise<void>((resolve, reject) => {
    end = (error) => (error ? reject(error) : resolve());
  });
  const run = () => {
    begun = true;
    return over;
  };
  return { run, end: (error?: Error) => end(error), begun: () => begun };
}
/** Lets all go on that can. */
const settle = () => new Promise<void>((resolve) => setImmediate(resolve));

describe("work in turn with a device's graphs", () => {
  test("begins when the graph ends, and the next graph when it has ended", async () => {
    const [graph, update, next] = [work(), work(), work()];
    const all = [device.alone(graph.run), device.soon(update.run), device.alone(next.run)];
    await settle();
    expect(graph.begun()).toBe(true);
    await vi.advanceTimersByTimeAsync(PATIENCE_MS - 1);
    expect(update.begun()).toBe(false);
    graph.end();
    await settle();
    expect(update.begun()).toBe(true);
    expect(next.begun()).toBe(false);
    update.end();
    await settle();
    expect(next.begun()).toBe(true);
    next.end();
    await Promise.all(all);
  });

  test("begins beside a graph that takes too long, and is made once", async () => {
    const [graph, update, next] = [work(), work(), work()];
    const run = vi.fn(update.run);
    const all = [device.alone(graph.run), device.soon(run), device.alone(next.run)];
    await vi.advanceTimersByTimeAsync(PATIENCE_MS);
    expect(update.begun()).toBe(true);
    graph.end();
    await settle();
    expect(next.begun()).toBe(false); // the cores are still taken
    update.end();
    await settle();
    expect(next.begun()).toBe(true);
    next.end();
    await Promise.all(all);
    expect(run).toHaveBeenCalledTimes(1);
  });

  test("fails for whoever asked for it, not for what comes after", async () => {
    const [update, next] = [work(), work()];
    const failing = device.soon(update.run);
    const after = device.alone(next.run);
    update.end(new Error("in the middle"));
    next.end();
    await expect(failing).rejects.toThrow("in the middle");
    await after;
  });
});
