import { linkSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { temporaryFolder } from "../../formats/testing.ts";
import { isWithin, realPath, sameFile, sameFileAmong } from "./same-file.ts";

let dir: string;
const at = (...names: string[]) => join(dir, ...names);
beforeEach(() => {
  dir = temporaryFolder();
  mkdirSync(at("base", "sub"), { recursive: true });
  writeFileSync(at("base", "weights"), "");
  linkSync(at("base", "weights"), at("hard"));
  symlinkSync("base", at("link"));
  symlinkSync(at("base", "sub"), at("deep"));
  mkdirSync(at("other"));
});

test("one file under several names", async () => {
  for (const [a, b] of [
    ["base", "base"],
    ["base", "link"],
    ["base", "deep/.."], // the folder of the link's target
    ["base/weights", "hard"],
    ["base/weights", "link/weights"],
    ["base/new", "link/new"], // not there yet
    ["base/new/a", "link/new/a"],
  ])
    expect(await sameFile(`${dir}/${a}`, `${dir}/${b}`), `${a} ${b}`).toBe(true);
});

test("different files", async () => {
  writeFileSync(at("twin"), "");
  for (const [a, b] of [
    ["base", "other"],
    ["base", "base/sub"],
    ["base/weights", "twin"],
    ["base/new", "other/new"],
    ["base/new", "base/newer"],
    ["base", "base/new"],
  ])
    expect(await sameFile(at(a!), at(b!)), `${a} ${b}`).toBe(false);
  expect(await sameFileAmong(at("twin"), [at("hard"), at("twin"), at("base")])).toBe(at("twin"));
  expect(await sameFileAmong(at("twin"), [at("hard")])).toBeUndefined();
});

test("what lies in a folder, through links too, and whether or not it is there", async () => {
  for (const path of ["base", "base/sub", "link/new/model", "deep", "deep/new"])
    expect(await isWithin(at(path), at("base")), path).toBe(true);
  for (const path of ["other", "hard", "basement", "."])
    expect(await isWithin(at(path), at("base")), path).toBe(false);
});

test("where a path leads", async () => {
  expect(await realPath(at("link", "new", "a"))).toBe(at("base", "new", "a"));
});
