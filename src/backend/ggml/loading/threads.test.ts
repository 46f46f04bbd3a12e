// Threads are tried before native code needs them; what refuses them is named.

import { spawnSync } from "node:child_process";
import { mkdirSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { cannotProve } from "../../../base/testing-unproven.ts";
import { typescriptLoader } from "../../../formats/testing-loader.ts";
import { needThreads, tryThreads, whyFewer } from "./threads.ts";

test("as many as there is room for are had, and are gone afterwards", () => {
  for (let i = 0; i < 3; i++) expect(tryThreads(3)).toBe(3);
  expect(tryThreads(0)).toBe(0);
  expect(() => needThreads(2, "a test")).not.toThrow();
});

test("every limit on the way is named: control groups of both versions, ulimit", () => {
  const files: Record<string, string> = {
    "/proc/self/cgroup": "5:pids:/box\n0::/user/app\n",
    "/proc/self/limits": "Max processes             20                   40                   processes\n",
    "/sys/fs/cgroup/pids/box/pids.max": "20\n",
    "/sys/fs/cgroup/pids/box/pids.current": "12\n",
    "/sys/fs/cgroup/user/app/pids.max": "max\n",
    "/sys/fs/cgroup/user/pids.max": "100\n",
    "/sys/fs/cgroup/user/pids.current": "99\n",
  };
  const why = whyFewer((path) => files[path], 12345);
  expect(why).toContain("/sys/fs/cgroup/pids/box/pids.max allows 20, 12 are there");
  expect(why).toContain("/sys/fs/cgroup/user/pids.max allows 100, 99 are there");
  expect(why).toContain("ulimit -u is 20, this user has 0");
  expect(whyFewer(() => undefined, 0)).toMatch(/the machine's own/);
});

test("in a control group that gives no more, the number that works is said", async () => {
  const group = `/sys/fs/cgroup/pids/spillway-test-${process.pid}`;
  try {
    mkdirSync(group);
    onTestFinished(() => rmdirSync(group));
    writeFileSync(join(group, "pids.max"), "20");
  } catch {
    cannotProve("no pids control group of version 1 that may be written");
  }
  const loader = await typescriptLoader();
  const module = new URL("./threads.ts", import.meta.url).href;
  const program =
    `process.exitCode = 3; const { needThreads } = await import(${JSON.stringify(module)});` +
    "try { needThreads(63, 'computing') } catch (e) { console.log(e.code + ': ' + e.message) }";
  const { stdout } = spawnSync(
    "sh",
    [
      "-c",
      `echo $$ > ${group}/cgroup.procs; exec "$0" "$@"`,
      process.execPath,
      "--import",
      loader,
      "--input-type=module",
      "-e",
      program,
    ],
    { encoding: "utf8" },
  );
  expect(stdout).toMatch(
    /^library: computing: the system gives this process \d+ more threads?, 63 are needed \(.*pids\.max allows 20, \d+ are there.*\); try: --threads \d+/,
  );
});
