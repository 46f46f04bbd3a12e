import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, linkSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeEach, describe, expect, test, vi } from "vitest";
import * as system from "../../backend/ggml/system.ts";
import { IoError } from "../../base/errors.ts";
import { thisProcess } from "../../base/files/process-identity.ts";
import { rejection, temporaryFolder } from "../../formats/testing.ts";
import { typescriptLoader } from "../../formats/testing-loader.ts";
import { LOCK_FILE, LockedError, lockFolder, refuseLocked } from "./file-lock.ts";

let dir: string;
beforeEach(() => {
  dir = temporaryFolder();
});

/** A process of its own that holds the lock until its stdin ends. */
async function holder() {
  const program = fileURLToPath(new URL("./testing-holder.ts", import.meta.url));
  const child = spawn(process.execPath, ["--import", await typescriptLoader(), program, dir]);
  child.stderr.pipe(process.stderr);
  await once(child.stdout, "data"); // "held"
  return child;
}

describe.each([
  ["with the system's locks", true],
  ["by the file alone", false],
])("%s", (_, locks) => {
  beforeEach(() => {
    if (locks) return;
    const none = vi.spyOn(system, "lockOpenFile").mockReturnValue(undefined);
    return () => none.mockRestore();
  });

  test("one has it, the next is told who, and gets it once it is free", async () => {
    const lock = await lockFolder(join(dir, "new"), "the folder");
    const error = (await rejection(lockFolder(join(dir, "new"), "the folder"))) as LockedError;
    expect(error).toBeInstanceOf(LockedError);
    expect(error.message).toContain(
      `the folder is in use by process ${process.pid} on ${thisProcess().host}`,
    );
    expect(error.ends).toBe(true);
    await lock.release();
    await lock.release();
    expect(existsSync(join(dir, "new", LOCK_FILE))).toBe(false);
    await (await lockFolder(join(dir, "new"), "the folder")).release();
  });

  test("what a process left that is gone is taken over, by one of several", async () => {
    writeFileSync(join(dir, LOCK_FILE), JSON.stringify({ ...thisProcess(), start: "1" }));
    const results = await Promise.allSettled(Array.from({ length: 8 }, () => lockFolder(dir, "the folder")));
    const taken = results.filter((result) => result.status === "fulfilled");
    expect(taken.length).toBe(1);
    for (const result of results)
      if (result.status === "rejected") expect(result.reason).toBeInstanceOf(LockedError);
    await taken[0]!.value.release();
  });

  test("what was left on another host is refused, with the file to remove", async () => {
    const other = { ...thisProcess(), host: "wolf", machine: "m", boot: "b", pid: 77 };
    writeFileSync(join(dir, LOCK_FILE), JSON.stringify(other));
    const error = (await rejection(lockFolder(dir, "the folder"))) as LockedError;
    expect(error.message).toMatch(/in use by process 77 on wolf.* remove .*\.spillway\.lock/);
    expect([error.holder?.pid, error.ends]).toEqual([77, false]);
    expect(JSON.parse(readFileSync(join(dir, LOCK_FILE), "utf8"))).toEqual(other);
  });
});

test("an empty or damaged lock file is no lock where the system has locks of its own", async () => {
  for (const text of ["", "{", "null", "[]"]) {
    writeFileSync(join(dir, LOCK_FILE), text);
    await (await lockFolder(dir, "the folder")).release();
  }
});

test("links, folders and files with a second name are not taken for a lock", async () => {
  writeFileSync(join(dir, "precious"), "kept");
  const cases = [
    () => symlinkSync("precious", join(dir, "a", LOCK_FILE)),
    () => mkdirSync(join(dir, "b", LOCK_FILE)),
    () => linkSync(join(dir, "precious"), join(dir, "c", LOCK_FILE)),
  ];
  for (const [i, make] of cases.entries()) {
    const folder = join(dir, "abc"[i]!);
    mkdirSync(folder);
    make();
    await expect(lockFolder(folder, "the folder")).rejects.toThrow(IoError);
  }
  expect(readFileSync(join(dir, "precious"), "utf8")).toBe("kept");
});

test("looking whether a folder is in use takes and makes nothing", async () => {
  await refuseLocked(join(dir, "nowhere"), "the folder");
  const lock = await lockFolder(dir, "the folder");
  await expect(refuseLocked(dir, "the folder")).rejects.toThrow(LockedError);
  await lock.release();
  await refuseLocked(dir, "the folder");
  expect(existsSync(join(dir, LOCK_FILE))).toBe(false);
});

test("a lock ends with its process: killed, it leaves its file and no lock; ended, not even that", async () => {
  const killed = await holder();
  const error = (await rejection(lockFolder(dir, "the folder"))) as LockedError;
  expect(error.holder?.pid).toBe(killed.pid);
  killed.kill("SIGKILL");
  await once(killed, "exit");
  expect(existsSync(join(dir, LOCK_FILE))).toBe(true);
  await (await lockFolder(dir, "the folder")).release();
  const ended = await holder();
  ended.stdin.end();
  await once(ended, "exit");
  expect(existsSync(join(dir, LOCK_FILE))).toBe(false);
});
