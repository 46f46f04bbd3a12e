// The built program as a shell starts it. Left out where it was not built: npm ci and npm run build do that.

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { describeUnless } from "../base/testing-unproven.ts";
import { makeCheckpoint } from "../formats/synthetic.ts";
import { PLAIN, TINY } from "./testing.ts";

const PROGRAM = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const built = existsSync(PROGRAM);

interface Ended {
  code: number | null;
  signal: string | null;
  stdout: string;
  stderr: string;
}

/** Starts the program; `onText` sees everything it has written so far, stdout and stderr together. */
function start(
  argv: readonly string[],
  env: NodeJS.ProcessEnv = {},
  onText: (text: string, child: ChildProcess) => void = () => {},
): Promise<Ended> {
  const child = spawn(process.execPath, [PROGRAM, ...argv], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const text = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name].setEncoding("utf8").on("data", (chunk: string) => {
      text[name] += chunk;
      onText(text.stdout + text.stderr, child);
    });
  }
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal, ...text }));
  });
}

let folder: string;
let model: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "spillway-executable-"));
  // Long enough at work to be interrupted: 8192 positions.
  const shape = { max_position_embeddings: 8192 };
  model = (await makeCheckpoint(join(folder, "long"), { family: "llama", shape })).path;
});
afterAll(() => rm(folder, { recursive: true, force: true }));

describeUnless(built ? undefined : "dist/cli.js is not there: npm run build")("the built program", () => {
  const endless = () => ["run", model, "once", ...PLAIN, "--max-new-tokens", "8000", "--ignore-eos"];

  test("runs, and ends by itself with 0", async () => {
    const { code, stdout, stderr } = await start([
      "run",
      TINY,
      "once",
      ...PLAIN,
      "--max-new-tokens",
      "4",
      "--quiet",
    ]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout.length).toBeGreaterThan(1);
  });

  test.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const)("%s ends generation in order, with %d", async (signal, code) => {
    let sent = false;
    const ended = await start(endless(), {}, (text, child) => {
      if (!sent && text.includes("loaded") && text.split("\n").length > 2) sent = child.kill(signal);
    });
    expect(ended).toMatchObject({ code, signal: null });
    expect(ended.stderr).toContain("interrupted");
  });

  test("a reader that leaves ends it quietly", async () => {
    let left = false;
    const { code, stderr } = await start([...endless(), "--quiet"], {}, (_text, child) => {
      if (!left) child.stdout?.destroy();
      left = true;
    });
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  });

  test("without the tensor library doctor says what to install, and inspect still says what the model is", async () => {
    const env = { SPILLWAY_GGML_DIR: folder };
    const doctor = await start(["doctor"], env);
    expect(doctor.code).toBe(1);
    expect(doctor.stdout).toMatch(/^tensor library +missing$/m);
    expect(doctor.stdout).toContain("unset SPILLWAY_GGML_DIR");
    const inspect = await start(["inspect", TINY, "--json"], env);
    expect(inspect.code).toBe(0);
    expect(JSON.parse(inspect.stdout)).toMatchObject({
      parameters: 195008,
      plan: null,
      plan_error: { code: "library" },
    });
  });

  test("colours errors on request only, and shows a stack only when asked", async () => {
    const plain = await start(["run", "nowhere", "x"]);
    expect(plain.stderr).toMatch(/^error: nowhere: does not exist/);
    expect(plain.stderr).not.toContain("    at ");
    const debug = await start(["run", "nowhere", "x"], { SPILLWAY_DEBUG: "1" });
    expect(debug.stderr).toContain("    at ");
  });
});
