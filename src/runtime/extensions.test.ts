import { describe, expect, test } from "vitest";
import { type EngineExtension, Extensions } from "./extensions.ts";

const adds = (): EngineExtension => ({ adapter: { lowRank: () => undefined } });

describe("what is attached to an engine", () => {
  test("counts until it is undone, which may happen twice and in any order", () => {
    const extensions = new Extensions();
    const [first, second] = [adds(), adds()];
    const undo = extensions.attach(first);
    const undoSecond = extensions.attach(second);
    expect(extensions.adapter).toBe(second.adapter);
    undo[Symbol.dispose]();
    expect(extensions.adapter).toBe(second.adapter);
    undoSecond[Symbol.dispose]();
    undoSecond[Symbol.dispose]();
    expect(extensions.adapter).toBeUndefined();
  });

  test("is waited for before weights are used, and stops their use where it fails", async () => {
    const extensions = new Extensions();
    const asked: string[] = [];
    extensions.attach({ settle: async () => void asked.push("first") });
    const failing = extensions.attach({ settle: () => Promise.reject(new Error("lost")) });
    extensions.attach({ settle: async () => void asked.push("last") });
    await expect(extensions.settle()).rejects.toThrow("lost");
    expect(asked).toEqual(["first"]);
    failing[Symbol.dispose]();
    await extensions.settle();
    expect(asked).toEqual(["first", "first", "last"]);
  });

  test("goes before the weights do, the last one first, past one that fails", async () => {
    const extensions = new Extensions();
    const gone: string[] = [];
    extensions.attach({ beforeDispose: async () => void gone.push("first") });
    extensions.attach({ beforeDispose: () => Promise.reject(new Error("in the middle")) });
    const last = extensions.attach({
      beforeDispose: async () => {
        gone.push("last");
        last[Symbol.dispose](); // as a trainer does that is disposed with its model
      },
    });
    await expect(extensions.beforeDispose()).rejects.toThrow("in the middle");
    expect(gone).toEqual(["last", "first"]);
  });
});
