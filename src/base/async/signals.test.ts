// Linked signals fire with the first of others, and leave nothing behind in them.
import { getEventListeners } from "node:events";
import { expect, test } from "vitest";
import { linkSignals, withLinked } from "./signals.ts";

test("fires with the first, with its reason; one that has fired before too", () => {
  const [a, b] = [new AbortController(), new AbortController()];
  const { signal } = linkSignals(a.signal, undefined, b.signal);
  b.abort("late");
  expect([signal.aborted, signal.reason]).toEqual([true, "late"]);
  expect(linkSignals(a.signal, b.signal).signal.reason).toBe("late");
  expect(linkSignals(undefined).signal).toBeUndefined();
});

test("a signal that outlives many pieces of work has no listener left, whether they fail or not", async () => {
  const { signal } = new AbortController();
  for (let i = 0; i < 20; i++) {
    await withLinked([signal], async (linked) => expect(linked?.aborted).toBe(false));
    await withLinked([signal], () => Promise.reject(new Error("work"))).catch(() => {});
  }
  expect(getEventListeners(signal, "abort")).toHaveLength(0);
});
