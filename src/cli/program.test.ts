import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { call, TINY } from "./testing.ts";

describe("help and version", () => {
  test("go to stdout and are no failure", async () => {
    const help = await call(["--help"]);
    expect(help.code).toBe(0);
    for (const command of ["run", "chat", "inspect", "doctor", "demo"])
      expect(help.stdout).toContain(`  ${command} `);
    expect(help.stdout).toContain(
      "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 does not fit in the budget",
    );
    const { version } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };
    expect(await call(["--version"])).toEqual({ code: 0, stdout: `${version}\n`, stderr: "" });
  });

  test("every command has help of its own, with --json in it", async () => {
    for (const command of ["run", "chat", "inspect", "doctor", "demo"]) {
      const { code, stdout } = await call([command, "--help"]);
      expect(code).toBe(0);
      expect(stdout).toContain("--json");
    }
  });

  test("no command at all is answered with the help, as a mistake", async () => {
    const { code, stdout, stderr } = await call([]);
    expect(code).toBe(2);
    expect(stdout).toBe("");
    expect(stderr).toContain("Usage: spillway");
  });
});

describe("mistakes exit with 2 and say what was probably meant", () => {
  test.each([
    [["rnu"], "unknown command 'rnu'", "Did you mean run?"],
    [["run", TINY, "--promt", "x"], "unknown option '--promt'", "Did you mean --prompt?"],
    [["run"], "missing required argument 'model'", "--help"],
    [["run", TINY, "x", "--cpu", "6G"], "--cpu", 'did you mean "6GiB" or "6GB"?'],
    [["run", TINY, "x", "--threads", "two"], "--threads", "Expected a whole number above 0"],
    [["run", TINY, "x", "--max-new-tokens", "0"], "--max-new-tokens", "Expected a whole number above 0"],
    [["run", TINY, "x", "--temperature", "warm"], "--temperature", "Expected a number"],
    [["run", TINY, "x", "--top-p", "2"], "top_p must be", "from 0 to 1"],
    [["run", TINY, "x", "--dtype", "int3"], "int3", "float16"],
    [["run", TINY, "x", "--device", "abacus"], "abacus", "spillway doctor"],
    [["run", TINY, "x", "--device-map", "atuo"], '"atuo" is not a tier', "gpu, cpu, disk"],
    [["run", TINY, "x", "--device-map", "{oops"], "--device-map", "not JSON"],
    [["run", TINY, "x", "--device-map", '{"lm_head": []}'], '"lm_head" is []', "a tier for each module"],
    [["run", TINY, "x", "--device-map", '{"nope": "cpu"}'], '"nope" matches no module', "lm_head"],
    [["run", TINY, "one", "two"], "2 arguments", 'in quotes: "one two"'],
    [["run", TINY, "one", "--prompt", "two"], "given twice", "--prompt"],
    [["run", TINY, ""], "the prompt is empty", ""],
    [["run", TINY], "there is no prompt", "pipe a text in"],
    [["inspect", TINY, "--disk-bandwidth", "0"], "--disk-bandwidth", "above 0"],
  ])("%j", async (argv, problem, help) => {
    const { code, stdout, stderr } = await call(argv as string[]);
    expect(stderr).toContain(problem);
    expect(stderr).toContain(help);
    expect(stderr).toMatch(/^error: /);
    expect(stderr).not.toContain("    at "); // no stack
    expect(stdout).toBe("");
    expect(code).toBe(2);
  });
});

describe("with --json a failure is a document too", () => {
  test("of a mistyped option", async () => {
    const { code, stdout } = await call(["run", TINY, "x", "--json", "--promt"]);
    expect(code).toBe(2);
    expect(JSON.parse(stdout)).toEqual({
      error: { code: "usage", message: expect.stringContaining("unknown option '--promt'") },
    });
  });

  test("of a checkpoint that is not there", async () => {
    const { code, stdout } = await call(["run", "some-org/some-model", "x", "--json"]);
    expect(code).toBe(1);
    const { error } = JSON.parse(stdout) as { error: { code: string; message: string } };
    expect(error.code).toBe("checkpoint");
    expect(error.message).toContain("does not exist");
    expect(error.message).toContain("hf download some-org/some-model");
  });

  test("--json after -- is text, not an option", async () => {
    const { stdout } = await call(["run", "nowhere", "--", "--json"]);
    expect(stdout).toBe("");
  });
});
