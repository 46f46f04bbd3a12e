import { spawn } from "node:child_process";
import { once } from "node:events";
import { expect, test } from "vitest";
import { testUnless } from "../testing-unproven.ts";
import { identityIn, livenessOf, placeTag, shownIdentity, thisProcess } from "./process-identity.ts";

const own = thisProcess();

test("a process is at work until it ends", async () => {
  expect(livenessOf(own)).toBe("alive");
  const child = spawn(process.execPath, ["-e", "process.stdin.resume()"]);
  const other = { ...own, pid: child.pid as number, start: "" };
  expect(livenessOf(other)).toBe("alive");
  child.stdin.end();
  await once(child, "exit");
  expect(livenessOf(other)).toBe("gone");
});

testUnless(own.start !== "" ? undefined : "the system does not say when a process began")(
  "a number that was given out again is not the process that had it before",
  () => {
    expect(livenessOf({ ...own, start: "1" })).toBe("gone");
    expect(livenessOf({ ...own, pid: process.ppid, start: "1" })).toBe("gone");
  },
);

test("nothing is said of another host or another container", () => {
  expect(livenessOf({ ...own, host: "wolf", boot: "another" })).toBe("elsewhere");
  expect(livenessOf({ ...own, namespace: "pid:[1]" })).toBe("elsewhere");
  expect(placeTag({ ...own, namespace: "pid:[1]" })).not.toBe(placeTag());
  expect(shownIdentity({ ...own, host: "wolf", pid: 7 })).toBe("process 7 on wolf");
});

testUnless(own.boot !== "" && own.machine !== "" ? undefined : "the system does not say when it was started")(
  "no process outlives a restart of its machine",
  () => {
    expect(livenessOf({ ...own, boot: "the one before" })).toBe("gone");
  },
);

test("what is read of a file is an identity or nothing", () => {
  expect(identityIn(JSON.parse(JSON.stringify(own)))).toEqual(own);
  for (const value of [
    null,
    [],
    {},
    { ...own, pid: "1" },
    { ...own, pid: -1 },
    { ...own, host: "x".repeat(300) },
  ])
    expect(identityIn(value)).toBeUndefined();
});
