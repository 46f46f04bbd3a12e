import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { liveBufferCount } from "../backend/ggml/buffer.ts";
import { cannotProve } from "../base/testing-unproven.ts";
import { temporaryFolder } from "../formats/testing.ts";
import { openFileCount } from "../memory/io/direct-io.ts";
import type { RunReport } from "../report/run-report.ts";
import { call, PLAIN, TINY } from "./testing.ts";

const PROMPT = "The lighthouse";
const RUN = ["run", TINY, PROMPT, ...PLAIN, "--max-new-tokens", "8"];

interface Result {
  text: string;
  finish_reason: string;
  tokens: number[];
  report: RunReport;
}

/** The document of `run --json`. */
async function result(...more: string[]): Promise<Result> {
  const { code, stdout, stderr } = await call([...RUN, "--json", ...more]);
  expect(stderr + code).toMatch(/0$/);
  return JSON.parse(stdout) as Result;
}

let buffers: number;
let files: number;
beforeAll(() => {
  buffers = liveBufferCount();
  files = openFileCount();
});
afterAll(() => {
  expect(liveBufferCount()).toBe(buffers);
  expect(openFileCount()).toBe(files);
});

describe("run", () => {
  test("prints the text on stdout; progress and report on stderr", async () => {
    const { code, stdout, stderr } = await call(RUN);
    const { text } = await result();
    expect(code).toBe(0);
    expect(stdout).toBe(`${text}\n`);
    expect(stderr).toMatch(/^loading 761\.8 KiB\nloaded 761\.8 KiB in /);
    expect(stderr).toMatch(/^memory +budget +used +peak$/m);
    expect(stderr).toMatch(/^decode +7 tokens in .* tokens\/s$/m); // the eighth token needs no pass of its own
  });

  test("--quiet leaves stderr empty", async () => {
    const { code, stderr } = await call([...RUN, "--quiet"]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  });

  test("streams: text is there before generation is over", async () => {
    const sizes: number[] = [];
    await call([...RUN, "--quiet"], { onOutput: (text) => sizes.push(text.length) });
    expect(sizes.length).toBeGreaterThan(3);
  });

  test("takes the prompt from stdin, without the line end that echo adds", async () => {
    const argv = ["run", TINY, ...PLAIN, "--max-new-tokens", "8", "--quiet"];
    const piped = await call(argv, { stdin: `${PROMPT}\n` });
    const given = await call([...argv, "--prompt", PROMPT]);
    expect(piped).toEqual(given);
    expect(piped.code).toBe(0);
    expect((await call(argv, { stdin: "\n" })).stderr).toContain("the prompt is empty");
  });

  test("the same seed draws the same text", async () => {
    const hot = ["--do-sample", "--temperature", "5", "--seed", "1"];
    const greedy = await result();
    expect(await result(...hot)).toHaveProperty("tokens", (await result(...hot)).tokens);
    expect((await result(...hot)).tokens).not.toEqual(greedy.tokens);
    expect((await result("--do-sample", "--top-k", "1")).tokens).toEqual(greedy.tokens);
  });

  test("a temperature without --do-sample has no effect, as in the library, and that is said", async () => {
    const plain = await call([...RUN, "--quiet"]);
    const warm = await call([...RUN, "--quiet", "--temperature", "0.7"]);
    expect(warm.stdout).toBe(plain.stdout);
    expect(warm.stderr).toMatch(/^warning: temperature is used only where tokens are drawn.*--do-sample/);
    const cold = await call([...RUN, "--do-sample", "--temperature", "0"]);
    expect(cold.code).toBe(2);
    expect(cold.stderr).toContain("do_sample: false (--no-do-sample)");
  });

  test("more tokens than there are positions end the text with its context, which is said", async () => {
    const { code, stdout, stderr } = await call([
      ...RUN,
      "--json",
      "--ignore-eos",
      "--max-new-tokens",
      "9999",
    ]);
    expect(code).toBe(0);
    expect((JSON.parse(stdout) as Result).finish_reason).toBe("context");
    expect(stderr).toMatch(/the context is full: the model has positions for \d+ tokens/);
  });

  test("--stop ends before the text, and says why it ended", async () => {
    const { text } = await result();
    const stop = text.slice(4, 8);
    const stopped = await result("--stop", "never in there", "--stop", stop);
    expect(stopped.finish_reason).toBe("stop");
    expect(stopped.text).toBe(text.slice(0, text.indexOf(stop)));
    expect((await result()).finish_reason).toBe("length");
  });

  test("--chat puts the prompt into the template, and --system a message before it", async () => {
    const plain = await result();
    const chat = await result("--chat");
    const system = await result("--system", "Be brief.");
    expect(chat.report.prefill.tokens).toBeGreaterThan(plain.report.prefill.tokens);
    expect(system.report.prefill.tokens).toBeGreaterThan(chat.report.prefill.tokens);
  });
});

describe("budgets", () => {
  const SMALL = ["--cpu", "700KiB", "--context-length", "64"];

  test("a small one streams from disk, says how much, and changes nothing in the text", async () => {
    const everything = await result("--context-length", "64");
    const { tokens, report } = await result(...SMALL);
    expect(tokens).toEqual(everything.tokens);
    expect(everything.report.streaming).toBeNull();
    const cpu = report.tiers.find((t) => t.tier === "cpu");
    expect(cpu?.budget).toBe(700 * 1024);
    expect(cpu?.peak).toBeLessThanOrEqual(700 * 1024);
    expect(report.tiers.find((t) => t.tier === "disk")?.entries).toEqual([
      { what: "weights", bytes: expect.any(Number) },
    ]);
    const { streaming } = report;
    expect(streaming?.planned_per_pass.disk).toBeGreaterThan(0);
    expect(streaming?.per_token).toBeGreaterThan(0);
    expect(streaming?.disk_bandwidth).toBeGreaterThan(0);
    expect(streaming?.share_of_bandwidth).toBeCloseTo(
      (streaming?.disk_rate ?? 0) / (streaming?.disk_bandwidth ?? 1),
    );
  });

  test("the report's parts add up to what is used", async () => {
    const { tiers } = (await result(...SMALL)).report;
    for (const { used, entries } of tiers) expect(entries.reduce((sum, e) => sum + e.bytes, 0)).toBe(used);
  });

  test("one that cannot work exits with 3 and names one that can", async () => {
    const { code, stderr } = await call([...RUN, "--cpu", "100KiB"]);
    expect(code).toBe(3);
    const suggestion = /--cpu (\S+MiB)/.exec(stderr)?.[1] as string;
    expect((await call([...RUN, "--quiet", "--cpu", suggestion])).code).toBe(0);
  });

  test("one for a tier that is not used is said before anything is loaded, in the document too", async () => {
    const { stderr } = await call([...RUN, "--gpu", "6GiB", "--disk", "1GiB"]);
    expect(stderr).toMatch(
      /^warning: the gpu budget of 6\.0 GiB is not used: .*\nwarning: the disk budget of 1\.0 GiB/,
    );
    expect(stderr.indexOf("warning: the disk")).toBeLessThan(stderr.indexOf("loading"));
    const { warnings } = JSON.parse((await call([...RUN, "--json", "--gpu", "6GiB"])).stdout) as {
      warnings: string[];
    };
    expect(warnings).toEqual([expect.stringContaining("everything is computed on the CPU")]);
    expect((await call([...RUN, "--quiet", "--gpu", "0"])).stderr).toBe("");
  });

  test("a shorter context is advised where it is enough, and only there", async () => {
    const long = await call([...RUN, "--cpu", "800KiB", "--context-length", "256"]);
    expect(long.code).toBe(3);
    const advised = /, or --context-length (\d+)/.exec(long.stderr)?.[1] as string;
    expect((await call([...RUN, "--quiet", "--cpu", "800KiB", "--context-length", advised])).code).toBe(0);
    const hopeless = await call([...RUN, "--cpu", "100KiB", "--context-length", "256"]);
    expect(hopeless.stderr).not.toContain("context");
  });

  test("a device map in a file works as on the command line", async () => {
    const map = { "": "cpu", "model.layers.1": "disk" };
    const { report } = await result("--device-map", JSON.stringify(map));
    expect(report.streaming?.planned_per_pass.disk).toBeGreaterThan(0);
    const missing = await call([...RUN, "--device-map", "@nowhere.json"]);
    expect(missing.code).toBe(1);
    expect(missing.stderr).toContain("nowhere.json: the device map could not be read (ENOENT");
  });

  test("a device map that is a pipe, too large or too deep is an error, not a wait", async () => {
    const folder = temporaryFolder();
    const given = (name: string) => call([...RUN, "--device-map", `@${join(folder, name)}`]);
    writeFileSync(join(folder, "large"), `{"": "cpu"}${" ".repeat(17 * 2 ** 20)}`);
    expect((await given("large")).stderr).toMatch(
      /large: the device map could not be read .*more than the 16777216/,
    );
    writeFileSync(join(folder, "deep"), "[".repeat(100_000));
    expect((await given("deep")).stderr).toMatch(/deep: not JSON \(nests deeper than 128 levels/);
    if (process.platform === "win32") cannotProve("no named pipes in folders");
    execFileSync("mkfifo", [join(folder, "pipe")]);
    expect((await given("pipe")).stderr).toMatch(/pipe: the device map could not be read .*a named pipe/);
  });
});

describe("an end from outside", () => {
  test("an interrupt ends generation with 130, keeps what was printed, and frees everything", async () => {
    const { Interruption } = await import("./io.ts");
    const controller = new AbortController();
    const argv = ["run", TINY, PROMPT, ...PLAIN, "--max-new-tokens", "200", "--ignore-eos", "--quiet"];
    const { code, stdout, stderr } = await call(argv, {
      signal: controller.signal,
      onOutput: () => controller.abort(new Interruption("SIGINT")),
    });
    expect(code).toBe(130);
    expect(stderr).toBe("interrupted\n");
    expect(stdout).toMatch(/.\n$/);
  });

  test("a reader that leaves (| head) is no failure and ends the work quietly", async () => {
    const outputError = Object.assign(new Error("write EPIPE"), { code: "EPIPE" });
    expect(await call([...RUN, "--quiet"], { outputError })).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  test("a full disk is a failure", async () => {
    const outputError = Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" });
    const { code, stderr } = await call([...RUN, "--quiet"], { outputError });
    expect(code).toBe(1);
    expect(stderr).toContain("the output could not be written: ENOSPC");
  });
});
