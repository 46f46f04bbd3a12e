import { readdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { describe, expect, test } from "vitest";
import { GGML_VERSION } from "../../backend/ggml/discover.ts";
import { call } from "../testing.ts";
import type { Findings } from "./examination.ts";

describe("doctor", () => {
  test("finds the library, the CPU and the memory", async () => {
    const { code, stdout } = await call(["doctor", "--no-disk", "--json"]);
    expect(code).toBe(0);
    const found = JSON.parse(stdout) as Findings & { ok: boolean };
    expect(found.ok).toBe(true);
    expect(found.library?.version).toBe(GGML_VERSION);
    expect(found.devices.at(-1)).toMatchObject({ name: "cpu", kind: "cpu" });
    expect(found.memory.default_budget).toBeLessThan(found.memory.total);
    expect(found.threads).toBeGreaterThan(0);
    // oneDNN is there, or it is said how to install it.
    const hint = found.missing.find(({ what }) => what.startsWith("no oneDNN"));
    expect(found.products !== null && hint !== undefined).toBe(false);
    if (process.platform === "linux") expect(found.products?.file ?? hint?.do).toMatch(/libdnnl|install/);
    expect(found.disk).toMatchObject({ bytes_per_second: null, problem: "not asked for" });
  });

  test("measures the disk of a folder and leaves no file behind", async () => {
    const before = await readdir(tmpdir());
    const { stdout } = await call(["doctor", tmpdir()]);
    expect(stdout).toMatch(/^disk .*: [\d.]+ [KMG]iB\/s, /m);
    expect((await readdir(tmpdir())).filter((name) => name.startsWith(".spillway"))).toEqual(
      before.filter((name) => name.startsWith(".spillway")),
    );
  });

  test("a folder that is not there is a disk that was not measured, not a failure", async () => {
    const { code, stdout } = await call(["doctor", "/nowhere/at/all"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^disk .*not measured \(.*ENOENT/m);
  });

  test("explains the pool that reads and compute share", async () => {
    const { stdout } = await call(["doctor", "--no-disk"]);
    expect(stdout).toMatch(/^libuv pool +\d+ threads: \d+ reads? in flight beside compute$/m);
    expect(stdout).toContain("UV_THREADPOOL_SIZE");
  });
});
