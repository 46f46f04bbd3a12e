// What several runs together did not prove, and what CI makes of it.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished, test } from "vitest";
import { unprovenByAny } from "./unproven.mjs";

const SCRIPT = fileURLToPath(new URL("unproven.mjs", import.meta.url));
const proof = (given) => ({ node: "20.19.0", platform: "linux-x64", proven: [], unproven: [], ...given });

test("what one run left out another may have proven, as one test or as a group", () => {
  const left = proof({
    unproven: [
      { test: "f > new in Node 24", reason: "Node 20" },
      { test: "f > a group", reason: "Node 20" },
      { test: "f > a gr", reason: "no GPU" },
    ],
  });
  const made = proof({ node: "26.0.0", proven: ["f > new in Node 24", "f > a group > its test"] });
  expect(unprovenByAny([left, made])).toEqual([{ test: "f > a gr", reason: "no GPU" }]);
  expect(unprovenByAny([left])).toHaveLength(3);
  expect(unprovenByAny([made, made])).toEqual([]);
});

test("CI ends with an error where a test was proven by no run, and where no run was made", () => {
  const folder = mkdtempSync(join(tmpdir(), "spillway-proof-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const run = () => spawnSync(process.execPath, [SCRIPT, folder], { encoding: "utf8" });
  expect(run().stderr).toContain("no run has left what it proved");
  writeFileSync(join(folder, "a.json"), JSON.stringify(proof({ proven: ["f > x"] })));
  expect(run()).toMatchObject({ status: 0, stdout: "Node 20.19.0: 1 tests proven, 0 left out\n" });
  const unproven = [{ test: "f > y", reason: "no mount" }];
  writeFileSync(join(folder, "b.json"), JSON.stringify(proof({ unproven })));
  const { status, stderr } = run();
  expect(status).toBe(1);
  expect(stderr).toContain("  no mount\n    f > y\n");
});
