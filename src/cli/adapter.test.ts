// --adapter and merge at the command line.
import { readdirSync } from "node:fs";
import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { MergeResult } from "../adapters/index.ts";
import { call, PLAIN, TINY } from "./testing.ts";

const ADAPTER = fileURLToPath(new URL("../../test/fixtures/adapters/llama", import.meta.url));
const OTHER = fileURLToPath(new URL("../../test/fixtures/checkpoints/llama-tied-sharded", import.meta.url));
const PROMPT = "The lighthouse keeper";
const LENGTH = ["--max-new-tokens", "12", "--ignore-eos"];

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "spillway-adapter-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** What `run` prints. */
async function text(model: string, ...more: string[]): Promise<string> {
  const { code, stdout, stderr } = await call([
    "run",
    model,
    PROMPT,
    ...PLAIN,
    ...LENGTH,
    "--quiet",
    ...more,
  ]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return stdout;
}

describe("--adapter", () => {
  test("changes the text, the same way wherever the weights are", async () => {
    const adapted = await text(TINY, "--adapter", ADAPTER);
    expect(adapted).not.toBe(await text(TINY));
    expect(await text(TINY, "--adapter", ADAPTER, "--device-map", "disk")).toBe(adapted);
  });

  test("chat answers with it", async () => {
    const argv = ["chat", TINY, ...PLAIN, ...LENGTH, "--quiet"];
    const plain = await call(argv, { stdin: "Hello\n" });
    const adapted = await call([...argv, "--adapter", ADAPTER], { stdin: "Hello\n" });
    expect([plain.code, adapted.code]).toEqual([0, 0]);
    expect(adapted.stdout).not.toBe(plain.stdout);
  });

  test("inspect shows its bytes", async () => {
    const { stdout } = await call(["inspect", TINY, ...PLAIN, "--adapter", ADAPTER]);
    expect(stdout).toMatch(/^ +adapter +21\.0 KiB$/m);
    expect((await call(["inspect", TINY, ...PLAIN])).stdout).not.toMatch(/^ +adapter/m);
  });

  test.each<[string, string, string, RegExp, number]>([
    ["is not there", TINY, "nowhere", /nowhere: does not exist; name the folder that PEFT/, 1],
    ["is for another model", OTHER, ADAPTER, /tensors do not fit adapter_config\.json and the model/, 1],
  ])("one that %s", async (_what, model, adapter, message, exitCode) => {
    const { code, stderr } = await call(["run", model, "hi", ...PLAIN, "--quiet", "--adapter", adapter]);
    expect(stderr).toMatch(message);
    expect(code).toBe(exitCode);
  });
});

describe("merge", () => {
  test("writes a model that says what base and adapter say", async () => {
    const out = join(folder, "merged");
    const { code, stdout, stderr } = await call(["merge", TINY, ADAPTER, out]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^updates added +6$/m);
    expect(stderr).toMatch(/^writing 761\.8 KiB\nwrote 761\.8 KiB in /);
    expect(await text(out)).toBe(await text(TINY, "--adapter", ADAPTER));
  });

  test("--json", async () => {
    const out = join(folder, "json");
    const { code, stdout } = await call([
      "merge",
      TINY,
      ADAPTER,
      out,
      "--dtype",
      "bfloat16",
      "--json",
      "--quiet",
    ]);
    expect(code).toBe(0);
    const result = JSON.parse(stdout) as MergeResult;
    expect(result).toMatchObject({
      path: out,
      files: ["model.safetensors"],
      merged: 6,
      replaced: 0,
      untied: [],
    });
    expect(result.bytes).toBe(195_008 * 2);
  });

  test.each<[string, string[], RegExp, number]>([
    [
      "a folder that is not empty",
      [TINY, ADAPTER, TINY],
      /is not empty; name a folder that does not exist yet/,
      2,
    ],
    [
      "a base that is not there",
      ["nowhere", ADAPTER, "out"],
      /nowhere: does not exist; give the directory/,
      1,
    ],
    ["an adapter that is not there", [TINY, "nowhere", "out"], /nowhere: does not exist; name the folder/, 1],
    ["a type there is not", [TINY, ADAPTER, "out", "--dtype", "int3"], /int3/, 2],
    ["a word too few", [TINY, ADAPTER], /missing required argument 'out'/, 2],
  ])("%s", async (_what, argv, message, exitCode) => {
    const { code, stdout, stderr } = await call(["merge", ...argv, "--json"]);
    expect(stderr).toMatch(message);
    expect(code).toBe(exitCode);
    expect(JSON.parse(stdout)).toHaveProperty("error.message");
  });

  test("Ctrl-C leaves nothing", async () => {
    const parent = join(folder, "stopped");
    await cp(ADAPTER, join(parent, "adapter"), { recursive: true });
    const { code } = await call(["merge", TINY, ADAPTER, join(parent, "out")], {
      signal: AbortSignal.abort(),
    });
    expect(code).not.toBe(0);
    expect(readdirSync(parent)).toEqual(["adapter"]);
  });
});
