// doctor where optional dependencies were left out: what is missing, and the command that brings it.
import { expect, test, vi } from "vitest";
import { LibraryError } from "../../base/errors.ts";
import { call } from "../testing.ts";

vi.mock("../../backend/ggml/loading/ffi.ts", async (original) => ({
  ...(await original<object>()),
  ffi: () => {
    throw new LibraryError("koffi could not be loaded (not there); try: npm install koffi@1.2.3");
  },
}));

test("the binding is missing: it is named with its own command, and the exit code is 1", async () => {
  const { code, stdout, stderr } = await call(["doctor", "--no-disk"]);
  expect(code).toBe(1);
  expect(stdout).toContain("  koffi could not be loaded (not there)\n    -> npm install koffi@1.2.3\n");
  expect(stdout).toContain("This machine cannot run models yet.");
  expect(stderr).toContain("koffi could not be loaded (not there); npm install koffi@1.2.3");
});

test("what computes nothing works", async () => {
  const { code } = await call(["--version"]);
  expect(code).toBe(0);
});
