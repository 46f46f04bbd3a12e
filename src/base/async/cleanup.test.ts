// Giving back goes on past a step that fails, and nothing that failed is lost.
import { expect, test } from "vitest";
import { CleanupError } from "../errors.ts";
import { Cleanup, disposeAll, disposeInTurn, runAll, runAllNow, undoAfter, undoNowAfter } from "./cleanup.ts";

/** Steps that note that they ran; the named ones throw an error of their name. */
function steps(names: string, failing: string) {
  const ran: string[] = [];
  const made = [...names].map((name) => () => {
    ran.push(name);
    if (failing.includes(name)) throw new Error(name);
  });
  return { ran, made };
}

test("steps run one after another, each when the one before has ended", async () => {
  const seen: string[] = [];
  const step = (name: string) => async () => {
    seen.push(`${name} begins`);
    await new Promise((resolve) => setImmediate(resolve));
    seen.push(`${name} ends`);
  };
  await runAll([step("a"), step("b")]);
  expect(seen).toEqual(["a begins", "a ends", "b begins", "b ends"]);
});

test("one that fails does not keep the others from running, and its error is thrown as it is", async () => {
  const { ran, made } = steps("abc", "a");
  await expect(runAll(made)).rejects.toThrow(/^a$/);
  expect(ran).toEqual(["a", "b", "c"]);
  const now = steps("abc", "b");
  expect(() => runAllNow(now.made)).toThrow(/^b$/);
  expect(now.ran).toEqual(["a", "b", "c"]);
});

test("of several failures one error names the first, counts the others and holds them all", async () => {
  const { made } = steps("abcd", "bcd");
  const error = (await runAll(made).catch((e: unknown) => e)) as CleanupError;
  expect(error).toBeInstanceOf(CleanupError);
  expect(error.code).toBe("cleanup");
  expect(error.message).toBe("b; 2 more steps of giving back what was taken failed");
  expect((error.cause as AggregateError).errors.map(({ message }: Error) => message)).toEqual([
    "b",
    "c",
    "d",
  ]);
  expect(() => runAllNow(steps("xy", "xy").made)).toThrow(/^x; 1 more step of giving back/);
});

test("things are disposed of in order; one that was never taken is passed over", async () => {
  const { ran, made } = steps("ab", "a");
  const held = [undefined, ...made.map((dispose) => ({ dispose }))];
  expect(() => disposeAll(held)).toThrow(/^a$/);
  await expect(disposeInTurn(held)).rejects.toThrow(/^a$/);
  expect(ran).toEqual(["a", "b", "a", "b"]);
});

test("after an error that error is thrown; what failed while giving back is its cause", async () => {
  const first = new Error("first");
  const { ran, made } = steps("ab", "a");
  await expect(undoAfter(first, made)).rejects.toBe(first);
  expect(ran).toEqual(["a", "b"]);
  expect(first.cause).toMatchObject({ message: "a" });

  const reason = new Error("reason");
  const known = new Error("known", { cause: reason });
  expect(() => undoNowAfter(known, steps("a", "a").made)).toThrow(known);
  expect(known.cause).toBe(reason);
  expect(() => undoNowAfter("no error at all", steps("a", "a").made)).toThrow("no error at all");
});

test("a cleanup undoes in reverse, once", async () => {
  const { ran, made } = steps("abc", "b");
  const cleanup = new Cleanup();
  for (const step of made) cleanup.add(step);
  await expect(cleanup.run()).rejects.toThrow(/^b$/);
  await cleanup.run();
  expect(ran).toEqual(["c", "b", "a"]);

  const error = new Error("why");
  const other = new Cleanup();
  other.add(made[0] as () => void);
  await expect(other.runAfter(error)).rejects.toBe(error);
  await other.run();
  expect(ran).toEqual(["c", "b", "a", "a"]);
});
