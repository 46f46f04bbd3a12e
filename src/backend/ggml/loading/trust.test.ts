// Who may write what will run as code. Ownership by others needs root to be made, and is left out without.

import { chmodSync, chownSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { describeUnless, needsPosix, testUnless } from "../../../base/testing-unproven.ts";
import { temporaryFolder } from "../../../formats/testing.ts";
import { groupHasOnly, whyUntrusted } from "./trust.ts";

const root = process.getuid?.() === 0;

/** A folder with a file in it, both ours alone. */
function library() {
  const folder = join(temporaryFolder(), "bins");
  mkdirSync(folder, { mode: 0o755 });
  const file = join(folder, "libggml.so");
  writeFileSync(file, "");
  chmodSync(file, 0o644);
  return { folder, file };
}

describeUnless(needsPosix("owners and modes of files"))("files and folders", () => {
  test("of this user, writable by nobody else, may run, below a sticky /tmp too", () => {
    const { folder, file } = library();
    expect(whyUntrusted(folder)).toBeUndefined();
    expect(whyUntrusted(file)).toBeUndefined();
  });

  test("that everybody may write are refused with what to do", () => {
    const { folder, file } = library();
    chmodSync(file, 0o666);
    expect(whyUntrusted(file)).toMatch(/libggml\.so may be written by everybody \(mode 666\): chmod o-w/);
    chmodSync(file, 0o644);
    chmodSync(folder, 0o777);
    expect(whyUntrusted(file)).toMatch(/bins may be written by everybody/);
  });

  test("a sticky bit keeps what is there, but does not stop others from adding to a folder that code is loaded from", () => {
    const { folder, file } = library();
    chmodSync(folder, 0o1777);
    expect(whyUntrusted(file)).toBeUndefined();
    expect(whyUntrusted(folder)).toMatch(/may be written by everybody/);
  });

  test("a folder further up counts, and so does the place a link leads to", () => {
    const { folder, file } = library();
    const link = join(temporaryFolder(), "link");
    symlinkSync(folder, link);
    expect(whyUntrusted(join(link, "libggml.so"))).toBeUndefined();
    chmodSync(join(folder, ".."), 0o777);
    expect(whyUntrusted(file)).toMatch(/may be written by everybody/);
    expect(whyUntrusted(join(link, "libggml.so"))).toMatch(/may be written by everybody/);
  });

  test("a circle of links, a file that is not there, a relative path", () => {
    const dir = temporaryFolder();
    symlinkSync(join(dir, "b"), join(dir, "a"));
    symlinkSync(join(dir, "a"), join(dir, "b"));
    expect(whyUntrusted(join(dir, "a"))).toMatch(/circle of links/);
    expect(whyUntrusted(join(dir, "none"))).toMatch(/could not be looked at/);
    expect(whyUntrusted("lib")).toMatch(/not an absolute path/);
  });

  testUnless(root ? undefined : "files that belong to another user take root to make")(
    "of another user, of a group of others",
    () => {
      const { folder, file } = library();
      chownSync(file, 12345, 0);
      expect(whyUntrusted(file)).toMatch(/libggml\.so belongs to user 12345/);
      chownSync(file, 0, 0);
      chownSync(folder, 12345, 0);
      expect(whyUntrusted(file)).toMatch(/bins belongs to user 12345/);
      chownSync(folder, 0, 54321);
      chmodSync(folder, 0o775);
      expect(whyUntrusted(file)).toMatch(/may be written by group 54321 \(mode 775\): chmod g-w/);
    },
  );
});

test("a private group holds nobody else; one that is not known is taken for one of others", () => {
  const files = {
    group: "ann:x:1000:\nstaff:x:50:ann,bob\nown:x:60:ann\nusers:x:100:\n",
    passwd: "root:x:0:0::/:\nann:x:1000:1000::/:\nbob:x:1001:100::/:\n",
    self: "",
  };
  const ours = new Set([0, 1000]);
  expect(groupHasOnly(1000, ours, files)).toBe(true);
  expect(groupHasOnly(60, ours, files)).toBe(true);
  expect(groupHasOnly(50, ours, files)).toBe(false);
  expect(groupHasOnly(100, ours, files)).toBe(false); // bob's primary group
  expect(groupHasOnly(7777, ours, files)).toBe(false);
});
