// A process that is killed while it saves, again and again: what it said it had saved is there, whole.

import { spawn } from "node:child_process";
import { readdir } from "node:fs/promises";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import { needsPosix, testUnless } from "../../base/testing-unproven.ts";
import { temporaryFolder } from "../../formats/testing.ts";
import { typescriptLoader } from "../../formats/testing-loader.ts";
import { latestCheckpoint, listCheckpoints } from "./list.ts";
import { expectWhole, leftovers, Training } from "./testing.ts";
import { CRASH_SPECS } from "./testing-state.ts";

const PROGRAM = fileURLToPath(new URL("./testing-crash.ts", import.meta.url));

/** Kills the program at its `calls`-th call of the system; resolves to the last save it said was done. */
async function killAt(
  loader: string,
  dir: string,
  first: number,
  calls: number,
): Promise<number | undefined> {
  const child = spawn(process.execPath, ["--import", loader, PROGRAM, dir, String(first)], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors += text;
  });
  const ended = new Promise<string>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => resolve(String(signal ?? code)));
  });
  let begun = 0;
  let saved: number | undefined;
  try {
    for await (const line of createInterface({ input: child.stdout })) {
      const [word, count] = line.split(" ");
      if (word === "saved") saved = Number(count);
      else if (++begun >= calls) child.kill("SIGKILL");
    }
  } finally {
    child.kill("SIGKILL");
  }
  expect(await ended, errors).toBe("SIGKILL");
  return saved;
}

testUnless(needsPosix("kill"))("every kill leaves the last save whole", async () => {
  const loader = await typescriptLoader();
  const dir = temporaryFolder();
  let last: number | undefined;
  // A save is some 30 calls: before, in the middle of and after the first, the replacing and the pruning ones.
  for (const calls of [1, 12, 27, 45, 62, 80, 101]) {
    const saved = await killAt(loader, dir, last === undefined ? 0 : last + 1, calls);
    const found = await listCheckpoints(dir);
    const contents: number[] = [];
    for (const { path } of found) contents.push(await expectWhole(path, CRASH_SPECS));
    const newest = contents.at(-1);
    expect(newest ?? -1).toBeGreaterThanOrEqual(saved ?? last ?? -1);
    // Ascending, one of each step, and never more than two and the one that was not pruned yet.
    expect(contents).toEqual([...contents].sort((a, b) => a - b));
    expect(found.length).toBeLessThanOrEqual(3);
    last = newest;
  }
  expect(last).toBeGreaterThan(3);
  const training = new Training();
  await training.save(dir, 1000, { keep: 1 });
  expect(await leftovers(dir)).toEqual([]);
  expect(await readdir(dir)).toEqual(["checkpoint-1000"]);
  expect((await latestCheckpoint(dir))?.step).toBe(1000);
  await training.end();
});
