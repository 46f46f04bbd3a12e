// koffi is loaded when it is first needed: an import would put it into bundles, where its native part cannot follow, and
// would make everything fail where optional packages were left out.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { ffi, ffiFile } from "./ffi.ts";

const sources = fileURLToPath(new URL("../../../", import.meta.url));

test("no source imports it but for its types", () => {
  const files = readdirSync(sources, { recursive: true, encoding: "utf8" });
  const importing = files.filter((name) => {
    if (!/\.ts$/.test(name) || /(\.test|testing[^/\\]*)\.ts$/.test(name)) return false;
    return /^import (?!type )[^;]*from "koffi"/m.test(readFileSync(join(sources, name), "utf8"));
  });
  expect(importing).toEqual([]);
});

test("it is found from the package's own place, as a file that threads can load", () => {
  expect(typeof ffi().load).toBe("function");
  expect(ffiFile()).toMatch(/koffi/);
});
