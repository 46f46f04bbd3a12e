// What libraries need is loaded first and from safe places, because their own search path may name the working directory.

import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { cannotProve, needsLinux, testUnless } from "../../../base/testing-unproven.ts";
import { temporaryFolder } from "../../../formats/testing.ts";
import { discover } from "../discover.ts";
import { loadNeeds, readNeeds } from "./needed.ts";

const compiler = spawnSync("cc", ["--version"]).status === 0;
const noLinux = needsLinux("ELF libraries");

testUnless(noLinux)("needs and search path of a real library", () => {
  const [folder] = discover().folders;
  if (!folder) cannotProve("no folder of the tensor library was found");
  const needs = readNeeds(folder.registry);
  expect(needs?.needed).toContain("libc.so.6");
  expect(needs?.needed).toContain("libggml-base.so");
});

test("what is no library has no needs; neither has a library that was cut short", () => {
  const dir = temporaryFolder();
  const file = join(dir, "x.so");
  writeFileSync(file, "text");
  expect(readNeeds(file)).toBeUndefined();
  const elf = Buffer.alloc(64);
  elf.write("\x7fELF\x02\x01", "latin1");
  elf.writeBigUInt64LE(2n ** 40n, 32);
  elf.writeUInt16LE(56, 54);
  elf.writeUInt16LE(9, 56);
  writeFileSync(file, elf);
  expect(readNeeds(file)).toBeUndefined();
});

testUnless(noLinux ?? (compiler ? undefined : "no C compiler (cc)"))(
  "a library of the working directory is not run; what is missing is named",
  () => {
    const [work, lib] = [temporaryFolder(), temporaryFolder()];
    const mark = join(work, "RAN");
    const source = join(lib, "planted.c");
    writeFileSync(
      source,
      `#include <stdio.h>\n__attribute__((constructor)) static void go(void){FILE*f=fopen("${mark}","w");if(f)fclose(f);}\nint planted(void){return 1;}\n`,
    );
    const planted = join(lib, "libspillwaytest.so.1");
    expect(
      spawnSync("cc", ["-shared", "-fPIC", "-Wl,-soname,libspillwaytest.so.1", "-o", planted, source]).status,
    ).toBe(0);
    const main = join(lib, "main.c");
    writeFileSync(main, "int planted(void);\nint use(void){return planted();}\n");
    const victim = join(lib, "libvictim.so");
    const link = [
      "-shared",
      "-fPIC",
      "-Wl,-rpath,$ORIGIN/none:",
      "-Wl,--enable-new-dtags",
      "-o",
      victim,
      main,
      planted,
    ];
    expect(spawnSync("cc", link).status).toBe(0);
    expect(readNeeds(victim)?.path).toContain("");
    mkdirSync(join(work, "clean"));
    copyFileSync(planted, join(work, "libspillwaytest.so.1"));
    const alone = join(work, "clean", "libvictim.so");
    copyFileSync(victim, alone);
    const before = process.cwd();
    process.chdir(work);
    try {
      expect(loadNeeds(alone)).toBe("it needs libspillwaytest.so.1, which this system does not have");
      expect(existsSync(mark)).toBe(false);
    } finally {
      process.chdir(before);
    }
    // Beside the library it is part of it.
    expect(loadNeeds(victim)).toBeUndefined();
    expect(existsSync(mark)).toBe(true);
  },
);
