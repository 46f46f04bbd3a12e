// The part of the tests that is run with the newest Node, and which Node that is.
import { dirname } from "node:path";
import { expect, test } from "vitest";
import { newest } from "./newest-node.mjs";
import { CHOSEN, smokeTests, testFiles } from "./smoke.mjs";

test("one file of each folder: the chosen one, or the first by name", () => {
  const files = [
    "src/b.test.ts",
    "src/a.test.ts",
    "src/memory/io/direct-io.test.ts",
    "src/memory/io/a.test.ts",
  ];
  expect(smokeTests(files)).toEqual(["src/a.test.ts", "src/memory/io/direct-io.test.ts"]);
});

test("no folder is left out, and what is chosen is there", () => {
  const files = testFiles();
  const made = smokeTests(files);
  expect(made.map(dirname).toSorted()).toEqual([...new Set(files.map(dirname))].toSorted());
  for (const file of CHOSEN) expect(made).toContain(file);
});

test("the newest Node is the release with the highest number", () => {
  expect(newest(["24.9.0", "24.10.0", "24.2.0"])).toBe("24.10.0");
  expect(newest(["26.0.0-rc.1", "22.22.3", "26.0.0", "v8-canary"])).toBe("26.0.0");
  expect(newest([])).toBeUndefined();
});
