import { expect, test } from "vitest";
import { mapBounded } from "./concurrency.ts";

const soon = () => new Promise<void>((resolve) => setImmediate(resolve));

test("results come in the order of the items, and no more than the limit run at once", async () => {
  let running = 0;
  let most = 0;
  const results = await mapBounded([5, 1, 4, 2, 3], 2, async (turns) => {
    most = Math.max(most, ++running);
    for (let i = 0; i < turns; i++) await soon();
    running--;
    return 10 * turns;
  });
  expect(results).toEqual([50, 10, 40, 20, 30]);
  expect(most).toBe(2);
});

test("after a failure nothing is started and nothing is left running", async () => {
  const events: string[] = [];
  const mapping = mapBounded(["slow", "fails", "never"], 2, async (item) => {
    events.push(`${item} starts`);
    await soon();
    if (item === "fails") throw new Error("it failed");
    await soon();
    events.push(`${item} ends`);
  });
  await expect(mapping).rejects.toThrow("it failed");
  expect(events).toEqual(["slow starts", "fails starts", "slow ends"]);
});

test("of several failures the first item's is thrown", async () => {
  const mapping = mapBounded([2, 1], 2, async (turns) => {
    for (let i = 0; i < turns; i++) await soon();
    throw new Error(`item of ${turns}`);
  });
  await expect(mapping).rejects.toThrow("item of 2");
  expect(await mapBounded([], 4, async () => 1)).toEqual([]);
});
