import { existsSync, mkdirSync, readdirSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { expect, test } from "vitest";
import { leftover, temporaryFolder } from "../../formats/testing.ts";
import { FOREIGN_AGE, openNew, ownerOf, stemOf, sweep, temporaryName } from "./temporary.ts";

test("no two names are alike, and each says whose it is", () => {
  const names = Array.from({ length: 100 }, () => temporaryName("/data/model.safetensors"));
  expect(new Set(names).size).toBe(100);
  expect(stemOf(basename(names[0]!))).toBe("model.safetensors");
  expect(ownerOf(names[0]!)).toBe("alive");
  expect(ownerOf(leftover("/data/a", "gone"))).toBe("gone");
  expect(ownerOf(leftover("/data/a", "elsewhere"))).toBe("elsewhere");
  expect(ownerOf("/data/model.safetensors")).toBeUndefined();
  expect(ownerOf("/data/model.safetensors.tmp-123")).toBeUndefined();
});

test("long names stay within what file systems take", () => {
  const name = basename(temporaryName(`/data/${"ä".repeat(127)}`, { hidden: true }));
  expect(Buffer.byteLength(name)).toBeLessThan(255);
  expect(ownerOf(name)).toBe("alive");
});

test("a new file is never somebody else's, not through a link either", async () => {
  const dir = temporaryFolder();
  symlinkSync("target", join(dir, "link"));
  writeFileSync(join(dir, "file"), "");
  for (const name of ["link", "file"])
    await expect(openNew(join(dir, name))).rejects.toMatchObject({ code: "EEXIST" });
  expect(existsSync(join(dir, "target"))).toBe(false);
  await (await openNew(join(dir, "new"))).close();
});

test("what is left of processes that are gone is removed; of others after a week; everything else stays", async () => {
  const dir = temporaryFolder();
  const at = (name: string) => join(dir, name);
  const [gone, folder] = [leftover(at("a"), "gone"), leftover(at("b"), "gone", { hidden: true })];
  const [young, old] = [leftover(at("c"), "elsewhere"), leftover(at("d"), "elsewhere")];
  const mine = temporaryName(at("e"));
  for (const path of [gone, young, old, mine, at("data"), at("x.tmp-1")]) writeFileSync(path, "");
  mkdirSync(folder);
  writeFileSync(join(folder, "inside"), "");
  const past = (Date.now() - FOREIGN_AGE) / 1000 - 60;
  utimesSync(old, past, past);
  const found = await sweep(dir);
  expect([...found.removed].sort()).toEqual([gone, folder, old].map((path) => basename(path)).sort());
  expect(found.left).toEqual([basename(young)]);
  expect(readdirSync(dir).sort()).toEqual(["data", "x.tmp-1", basename(young), basename(mine)].sort());
  expect(await sweep(at("nowhere"))).toEqual({ removed: [], left: [] });
});
