// Loading goes wrong in ways that people can mend, so the message must say how. Each of these loads fails, and this file
// has a process of its own, so no other test meets what they leave behind.

import { copyFileSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { LibraryError } from "../../base/errors.ts";
import { needsLinux, needsPosix, testUnless } from "../../base/testing-unproven.ts";
import { temporaryFolder } from "../../formats/testing.ts";
import { discover, GGML_VERSION, inspectFolder, installCommand, type LibraryFolder } from "./discover.ts";
import { library, libraryFound } from "./library.ts";

const installed = discover({}).folders.find((folder) => folder.cpu.length > 0);
const notInstalled = installed ? undefined : "no folder of the tensor library was found";

afterEach(() => {
  delete process.env.SPILLWAY_GGML_DIR;
});

/** What loading from `dir` fails with. */
function failure(dir: string): LibraryError {
  process.env.SPILLWAY_GGML_DIR = dir;
  try {
    library();
  } catch (error) {
    expect(error).toBeInstanceOf(LibraryError);
    return error as LibraryError;
  }
  throw new Error("it was loaded");
}

/** A folder with links to every library of another one. */
function linked({ dir, base, registry, cpu }: LibraryFolder): string {
  const folder = temporaryFolder();
  for (const path of [base, registry, ...cpu]) symlinkSync(path, join(folder, basename(path)));
  expect(dir).not.toBe(folder);
  return folder;
}

test("an empty folder: the message says which files are needed", () => {
  const dir = temporaryFolder();
  expect(failure(dir).message).toBe(
    `SPILLWAY_GGML_DIR=${dir} holds no ggml libraries (libggml-base, libggml and libggml-cpu are needed)`,
  );
  expect(libraryFound()).toBe(false);
});

test("files that are no libraries", () => {
  const dir = temporaryFolder();
  for (const name of ["libggml-base.so", "libggml.so", "libggml-cpu.so"])
    writeFileSync(join(dir, name), "not ELF");
  const error = failure(dir);
  expect(error.message).toContain(`${dir}: the tensor library could not be loaded`);
  expect(error.cause).toBeInstanceOf(Error);
});

testUnless(notInstalled ?? needsPosix("links to files"))("libraries without a CPU backend", () => {
  const dir = temporaryFolder();
  const { base, registry } = installed as LibraryFolder;
  for (const path of [base, registry]) symlinkSync(path, join(dir, basename(path)));
  expect(inspectFolder(dir, "test")?.cpu).toEqual([]);
  expect(failure(dir).message).toContain("libggml-cpu are needed");
});

testUnless(notInstalled ?? needsLinux("ELF libraries"))(
  "another version: the message names both and the remedy",
  () => {
    const folder = installed as LibraryFolder;
    const dir = linked({ ...folder, base: copyWithVersion(folder.base, "9.99.9") });
    const { message } = failure(dir);
    expect(message).toContain(`${dir} holds ggml 9.99.9, Spillway needs ${GGML_VERSION}`);
    expect(message).toContain(installCommand());
  },
);

/** A copy of libggml-base whose version string is another one. */
function copyWithVersion(base: string, version: string): string {
  const path = join(temporaryFolder(), basename(base));
  copyFileSync(base, path);
  const bytes = readFileSync(path);
  const at = bytes.indexOf(`\0${GGML_VERSION}\0`);
  if (at < 0) throw new Error(`${base} does not hold its version as text`);
  bytes.write(version.padEnd(GGML_VERSION.length, "\0"), at + 1, "latin1");
  writeFileSync(path, bytes);
  return path;
}
