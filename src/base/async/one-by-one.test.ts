import { expect, test } from "vitest";
import { OneByOne } from "./one-by-one.ts";

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

test("tasks run one after another, in order, also after one that fails", async () => {
  const tasks = new OneByOne();
  const seen: string[] = [];
  const task = (name: string, turns: number) => async () => {
    seen.push(`${name} begins`);
    for (let i = 0; i < turns; i++) await turn();
    seen.push(`${name} ends`);
    if (name === "b") throw new Error("b failed");
    return name;
  };
  const results = [tasks.run(task("a", 3)), tasks.run(task("b", 2)), tasks.run(task("c", 1))];
  const settled = Promise.allSettled(results);
  await tasks.idle();
  expect(seen).toEqual(["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]);
  expect((await settled).map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
});
