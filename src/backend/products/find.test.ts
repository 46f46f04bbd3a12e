// Which library of wide products is taken: one whose interface is known, from a folder nobody else may write.

import { chmodSync, copyFileSync, symlinkSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { expect, test } from "vitest";
import { needsLinux, testUnless } from "../../base/testing-unproven.ts";
import { temporaryFolder } from "../../formats/testing.ts";
import { findProductLibrary, productInstallCommand, productMode, search } from "./find.ts";
import { productsMissing } from "./testing.ts";

const noLinux = needsLinux("ELF libraries");

test("a folder without one has none", () => {
  expect(search(temporaryFolder())).toEqual({ refused: [] });
  expect(search("/nowhere/at/all")).toEqual({ refused: [] });
});

test("a relative folder is refused: it means another one in every working directory", () => {
  expect(search("lib").refused).toEqual(["SPILLWAY_DNNL_DIR=lib is relative: name an absolute folder"]);
});

testUnless(noLinux)("a file that is no library, and versions that are not known", () => {
  const folder = temporaryFolder();
  for (const name of ["libdnnl.so.1", "libdnnl.so.4", "libdnnl.so", "libdnnl.so.2", "libdnnl.txt"])
    writeFileSync(join(folder, name), "text");
  const { library, refused } = search(folder);
  expect(library).toBeUndefined();
  expect(refused).toHaveLength(1);
  expect(refused[0]).toContain("libdnnl.so.2 is not used: ");
});

testUnless(productsMissing() ?? noLinux)(
  "the library of this machine is taken, unless others may write it",
  () => {
    const { library } = findProductLibrary();
    expect(library).toMatchObject({ kind: "onednn", name: expect.stringMatching(/^oneDNN [23]\.\d+\.\d+$/) });
    const folder = temporaryFolder();
    const file = library?.file as string;
    const name = basename(file);
    copyFileSync(file, join(folder, name));
    symlinkSync(name, join(folder, `libdnnl.so.${library?.major}`));
    chmodSync(join(folder, name), 0o644);
    expect(search(folder).library).toMatchObject({ name: library?.name });
    chmodSync(join(folder, name), 0o666);
    const { library: none, refused } = search(folder);
    expect(none).toBeUndefined();
    expect(refused).toHaveLength(1);
    expect(refused[0]).toContain("may be written by everybody");
  },
);

test("the environment says off, all or nothing", () => {
  expect(productMode({})).toBe("auto");
  expect(productMode({ SPILLWAY_DNNL: "off" })).toBe("off");
  expect(productMode({ SPILLWAY_DNNL: "all" })).toBe("all");
  expect(productMode({ SPILLWAY_DNNL: "something" })).toBe("auto");
});

testUnless(noLinux)("there is a command that installs it", () => {
  expect(productInstallCommand()).toMatch(/install/);
});
