// Runs a range of cases of one target in this process and tells the parent through file descriptor 3, synchronously.
import { mkdirSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { rng } from "./mutate.mjs";
import { TARGETS, Wrong } from "./targets.mjs";

const [project, name, seed, from, to, work] = process.argv.slice(2);
const S = await import(join(project, "dist/index.js"));
const dir = join(work, name);
rmSync(dir, { recursive: true, force: true });
mkdirSync(dir, { recursive: true });
const tell = (m) => {
  const line = `${JSON.stringify(m)}\n`;
  for (let done = 0; done < line.length; ) {
    try {
      done += writeSync(3, line.slice(done));
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
    }
  }
};
let stray;
process.on("unhandledRejection", (error) => {
  stray = error;
});
const unmutated = Object.getOwnPropertyNames(Object.prototype).join();
const target = await TARGETS[name]({ S, project, dir });
for (let i = Number(from); i < Number(to); i++) {
  const r = rng(Number(seed) * 1_000_003 + i * 7919 + name.length);
  const one = await target.make(r, i);
  try {
    writeFileSync("/proc/self/clear_refs", "5");
  } catch {}
  tell({ start: i, log: one.log });
  let outcome = "accepted";
  let detail;
  const began = performance.now();
  stray = undefined;
  try {
    detail = await one.run();
  } catch (error) {
    if (error instanceof Wrong) [outcome, detail] = ["silent", error.message];
    else if (error instanceof S.SpillwayError)
      [outcome, detail] = ["typed", `${error.code}: ${error.message.slice(0, 300)}`];
    else
      [outcome, detail] = [
        "untyped",
        `${error?.name}: ${String(error?.message).slice(0, 200)} ${place(error)}`,
      ];
  }
  if (stray) [outcome, detail] = ["untyped", `unhandled rejection: ${stray?.name}: ${stray?.message}`];
  if (Object.getOwnPropertyNames(Object.prototype).join() !== unmutated || {}.polluted !== undefined) {
    [outcome, detail] = ["silent", "Object.prototype was changed"];
    delete Object.prototype.polluted;
  }
  const hwm = Number(/VmHWM:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? 0) * 1024;
  tell({ end: i, outcome, detail, hwm, ms: performance.now() - began });
  if (i % 50 === 0) globalThis.gc?.();
}
await target.end?.();
process.exit(0);

/** The first line of the stack that is the project's. */
function place(error) {
  const line = String(error?.stack)
    .split("\n")
    .find((l) => l.includes("/dist/"));
  return line
    ? `at ${/at (?:async )?([^ ]+)/.exec(line)?.[1]} ${/dist\/([^:]+)/.exec(line)?.[1].replace(/-[\w-]{8}\.js/, "")}`
    : "";
}
