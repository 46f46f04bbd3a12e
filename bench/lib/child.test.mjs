// Runners are other people's processes: what they print is taken, and how they fail is said.
import { expect, test } from "vitest";
import { runForJson } from "./child.mjs";

/** @param {string} program */
const node = (program) => [process.execPath, "-e", program];

test("the last line on stdout is the result, whatever was printed before it", async () => {
  await expect(runForJson(node(`console.log("loading"); console.log('{"load_s":1}')`))).resolves.toEqual({
    load_s: 1,
  });
});

test("the peak of the memory cgroup is taken from what known-disk.sh says", async () => {
  const says = "peak of the memory cgroup: 3000 MiB, times the limit was hit: 7";
  const run = await runForJson(node(`console.error("${says}"); console.log("{}")`));
  expect(run).toEqual({ memory_cgroup_peak_bytes: 3000 * 2 ** 20, memory_cgroup_limit_hits: 7 });
});

test("a failure carries the exit code and the end of stderr", async () => {
  const failing = runForJson(node(`console.error("no such model"); process.exit(3)`));
  await expect(failing).rejects.toThrow(/exit code 3[\s\S]*no such model/);
  await expect(runForJson(node(`process.kill(process.pid, "SIGKILL")`))).rejects.toThrow(
    /SIGKILL.*more memory/,
  );
  await expect(runForJson(node(`console.log("not json")`))).rejects.toThrow(/exit code 0/);
  await expect(runForJson(["./no-such-program"])).rejects.toThrow(/ENOENT/);
});
