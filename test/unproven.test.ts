// What a run could not prove is listed at its end, and left behind for scripts/unproven.mjs.
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { temporaryFolder } from "../src/formats/testing.ts";
import { type Proof, unprovenLines } from "./support/unproven.ts";

const at = (path: string) => fileURLToPath(new URL(path, import.meta.url));

test("a run lists what was left out, by reason, and leaves it behind for others", () => {
  const folder = temporaryFolder();
  const here = JSON.stringify(at("../src/base/testing-unproven.ts"));
  writeFileSync(
    join(folder, "some.test.mjs"),
    `import { describe, test } from "vitest";
     import { cannotProve, describeUnless, testUnless } from ${here};
     test("one", () => {});
     test("two", () => cannotProve("no mount"));
     testUnless("no GPU").each([["a", 1], ["b", 2]])("%s of %i", () => {});
     testUnless(undefined).each([["c"]])("%s", () => {});
     describeUnless("no GPU")("a group", () => test("three", () => {}));
     describe("another", () => test.skip("four", () => {}));`,
  );
  const config = `import { UnprovenReporter } from ${JSON.stringify(at("./support/unproven.ts"))};
    export default { test: { include: ["*.test.mjs"], reporters: [new UnprovenReporter()] } };`;
  writeFileSync(join(folder, "vitest.config.mjs"), config);
  const vitest = at("../node_modules/vitest/vitest.mjs");
  const proofs = join(folder, "proofs");
  const { stdout, stderr } = spawnSync(process.execPath, [vitest, "run", "--root", folder], {
    encoding: "utf8",
    env: { ...process.env, SPILLWAY_PROOF: proofs, NO_COLOR: "1" },
  });
  expect(stdout, stderr).toContain(`Could not be proven here (Node ${process.versions.node}`);
  expect(stdout).toContain("  no mount: 1 test\n    some.test.mjs > two\n");
  const [file] = readdirSync(proofs);
  const { proven, unproven } = JSON.parse(readFileSync(join(proofs, file as string), "utf8")) as Proof;
  expect(proven).toEqual(["some.test.mjs > one", "some.test.mjs > c"]);
  expect(unproven).toEqual([
    { test: "some.test.mjs > two", reason: "no mount" },
    { test: "some.test.mjs > a of 1", reason: "no GPU" },
    { test: "some.test.mjs > b of 2", reason: "no GPU" },
    { test: "some.test.mjs > a group", reason: "no GPU" },
    { test: "some.test.mjs > another > four", reason: "no reason is given" },
  ]);
});

test("no test is left out in another way", () => {
  const sources = ["src", "test", "bench", "examples", "scripts"].flatMap((folder) =>
    readdirSync(at(`../${folder}`), { recursive: true, encoding: "utf8" })
      .filter((file) => /\.test\.m?ts$|\.test\.mjs$/.test(file) && !file.includes("node_modules"))
      .map((file) => join(at(`../${folder}`), file)),
  );
  expect(sources.length).toBeGreaterThan(100);
  for (const file of sources) {
    if (file === import.meta.filename) continue;
    expect(readFileSync(file, "utf8"), file).not.toMatch(
      /\b(test|describe|it)\.(skip|runIf|todo)|\.skipIf\(|\bskip\("/,
    );
  }
});

test("each reason is a line, with the first of its tests", () => {
  const unproven = ["a", "b", "c", "d"].map((test) => ({ test, reason: "no GPU" }));
  expect(unprovenLines([...unproven, { test: "e", reason: "no mount" }])).toEqual([
    "no GPU: 4 tests",
    "  a",
    "  b",
    "  c",
    "  and 1 more",
    "no mount: 1 test",
    "  e",
  ]);
});
