import { describe, expect, test } from "vitest";
import { inParallel, type Load } from "./residents.ts";

/** Jobs that take a few turns of the event loop, and what was under way whenever one began. */
function jobs(kinds: string, failing = -1) {
  const running = new Set<string>();
  const begun: string[] = [];
  const all = [...kinds].map((kind, i): Load => {
    const name = `${kind}${i}`;
    const run = async () => {
      running.add(name);
      begun.push([...running].join(" "));
      for (let turn = 0; turn < 3 + (i % 3); turn++) await new Promise((resolve) => setImmediate(resolve));
      running.delete(name);
      if (i === failing) throw new Error(`${name} failed`);
    };
    return { staged: kind === "s", run };
  });
  return { all, begun, running };
}

describe("what is loaded at the same time", () => {
  test("what is read straight to its place, four at a time", async () => {
    const { all, begun } = jobs("dddddd");
    await inParallel(all);
    expect(begun[3]).toBe("d0 d1 d2 d3");
    expect(Math.max(...begun.map((names) => names.split(" ").length))).toBe(4);
    expect(begun).toHaveLength(6);
  });

  test.each(["sd", "ds", "ss", "dsds", "ssddss", "dssdsd"])(
    "%s: of what is staged, one at a time",
    async (kinds) => {
      const { all, begun } = jobs(kinds.repeat(3));
      await inParallel(all);
      expect(begun).toHaveLength(3 * kinds.length);
      for (const names of begun) expect(names.match(/s/g)?.length ?? 0).toBeLessThanOrEqual(1);
    },
  );

  test("after a failure none begins, and those under way end first", async () => {
    const { all, begun, running } = jobs("dsdsddddd", 1);
    await expect(inParallel(all)).rejects.toThrow("s1 failed");
    expect(running.size).toBe(0);
    expect(begun.length).toBeLessThan(9);
  });
});
