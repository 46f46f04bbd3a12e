// A process that has threads for wide products ends like any other: when nothing is left to do, and when it is told to while
// they start or compute.

import { spawnSync } from "node:child_process";
import { symlink } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "tsdown";
import { expect } from "vitest";
import { workerText } from "../scripts/worker-text.ts";
import { productsMissing } from "../src/backend/products/testing.ts";
import { testUnless } from "../src/base/testing-unproven.ts";
import { temporaryFolder } from "../src/formats/testing.ts";

/** The child as one file of JavaScript. */
async function bundled(): Promise<string> {
  const outDir = temporaryFolder();
  const modules = fileURLToPath(new URL("../node_modules", import.meta.url));
  await symlink(modules, join(outDir, "node_modules"), "junction");
  const entry = fileURLToPath(new URL("./support/products-child.ts", import.meta.url));
  await build({
    ...{ entry: { child: entry }, format: "esm", platform: "node", target: "node20", fixedExtension: true },
    ...{ outDir, config: false, dts: false, clean: false, logLevel: "silent", plugins: [workerText()] },
  });
  return join(outDir, "child.mjs");
}

testUnless(productsMissing())("it ends by itself, and by process.exit at any moment", async () => {
  const program = await bundled();
  const run = (when: string) => {
    const { status, signal, stdout, stderr } = spawnSync(process.execPath, [program, when], {
      encoding: "utf8",
    });
    return { when, status, signal, stdout, stderr };
  };
  const well = { status: 0, signal: null, stderr: "" };
  expect(run("idle")).toEqual({ when: "idle", ...well, stdout: "computed\n" });
  for (let i = 0; i < 5; i++) {
    expect(run("starting")).toMatchObject({ when: "starting", ...well });
    expect(run("computing")).toMatchObject({ when: "computing", ...well });
  }
});
