// What a callback throws reaches the one who told it, whether at once or in a promise, and never goes unhandled.
import { expect, test, vi } from "vitest";
import { ConfigError } from "../errors.ts";
import { Listener, requireFunctions } from "./listener.ts";

const thrown = (work: () => void): unknown => {
  try {
    work();
  } catch (error) {
    return error;
  }
  return undefined;
};

test("passes on what it is told, and does without a callback", async () => {
  const callback = vi.fn();
  const listener = new Listener<[number, string]>(callback);
  listener.tell(1, "a");
  await listener.settled();
  expect(callback).toHaveBeenCalledExactlyOnceWith(1, "a");
  new Listener<[number]>(undefined).tell(1);
});

test("throws the very object that the callback throws", () => {
  const mine = { not: "even an error" };
  const listener = new Listener(() => {
    throw mine;
  });
  expect(thrown(() => listener.tell())).toBe(mine);
});

test("a promise that is rejected is thrown by the next call, and when it is waited for", async () => {
  const mine = new Error("mine");
  const listener = new Listener((bad: boolean) => (bad ? Promise.reject(mine) : Promise.resolve()));
  listener.tell(false);
  listener.tell(true);
  await expect(listener.settled()).rejects.toBe(mine);
  expect(thrown(() => listener.tell(false))).toBe(mine);
});

test("waits for every promise and keeps the first failure", async () => {
  const first = new Error("first");
  let later = false;
  const answers = [
    () => Promise.reject(first),
    () =>
      new Promise<void>((resolve) => setImmediate(resolve)).then(() => {
        later = true;
      }),
  ];
  const listener = new Listener((i: number) => answers[i]?.());
  for (const i of answers.keys()) listener.tell(i);
  await expect(listener.settled()).rejects.toBe(first);
  expect(later).toBe(true);
});

test("what is no function is refused by name", () => {
  for (const value of [5, "x", {}, true])
    expect(() => requireFunctions({ on_step: value }, ["on_step"])).toThrow(ConfigError);
  requireFunctions({ on_step: undefined, on_save: null }, ["on_step", "on_save", "absent"]);
});
