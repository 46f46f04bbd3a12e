// Structure-aware fuzzing of everything Spillway reads: npm run fuzz -- [--cases 20000] [--seed 1] [--targets a,b] [--out FILE]
// Cases run in child processes, so that an abort, a hang or a memory explosion is seen and belongs to a seed.
// One case again: npm run fuzz -- --targets header --case 1234 [--seed 1]. The package has to be built.
import { spawn } from "node:child_process";
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    cases: { type: "string" },
    seed: { type: "string" },
    targets: { type: "string" },
    out: { type: "string" },
    case: { type: "string" },
    batch: { type: "string" },
  },
});
const project = resolve(positionals[0] ?? ".");
const here = dirname(fileURLToPath(import.meta.url));
/** Shares of 20,000. Those after the bar come on top of --cases: calls and shapes, not files. */
const SHARES = {
  header: 4000,
  index: 1500,
  config: 4000,
  generation: 1000,
  tokenizer: 3000,
  template: 1500,
  adapter: 1500,
  state: 1000,
  jsonl: 1500,
  parquet: 1000,
  api: 1500,
  shapes: 500,
};
const HANG_MS = 10_000;
const GIB = 2 ** 30;
const KILL_AT = 3 * GIB;
const total = Number(values.cases ?? 20000);
const seed = Number(values.seed ?? 1);
const chosen = values.targets?.split(",") ?? Object.keys(SHARES);
const batch = Number(values.batch ?? 250);
const work = mkdtempSync(join(tmpdir(), "spillway-fuzz-"));
const out = values.out;
if (out) writeFileSync(out, "");

const table = {};
const findings = new Map();
try {
  for (const target of chosen) {
    const n = Math.max(1, Math.round((SHARES[target] * total) / 20000));
    table[target] = { cases: 0, accepted: 0, typed: 0, untyped: 0, silent: 0, abort: 0, hang: 0, memory: 0 };
    let at = values.case === undefined ? 0 : Number(values.case);
    const end = values.case === undefined ? n : at + 1;
    while (at < end) at = await runBatch(target, at, Math.min(end, at + batch));
    console.error(target, JSON.stringify(table[target]));
  }
} finally {
  rmSync(work, { recursive: true, force: true });
}
console.log(
  JSON.stringify({ seed, total: Object.values(table).reduce((s, r) => s + r.cases, 0), table }, null, 1),
);
console.log("\nfindings (first seeds, count):");
for (const [what, { count, first }] of [...findings].sort((a, b) => b[1].count - a[1].count))
  console.log(`${count} x ${what} [${first.join(" ")}]`);
if (findings.size > 0) process.exitCode ||= 1;

function note(target, i, kind, detail, log) {
  const row = table[target];
  row[kind]++;
  if (process.env.FUZZ_ALL && out && (kind === "accepted" || kind === "typed"))
    appendFileSync(
      out,
      `${JSON.stringify({ target, case: i, kind, detail: String(detail).slice(0, 300), log })}\n`,
    );
  if (kind === "accepted" || kind === "typed") return;
  const key = `${target} ${kind}: ${String(detail)
    .replace(/0x[0-9a-f]+|\d{3,}/g, "N")
    .slice(0, 160)}`;
  const known = findings.get(key) ?? { count: 0, first: [] };
  known.count++;
  if (known.first.length < 3) known.first.push(i);
  findings.set(key, known);
  if (out)
    appendFileSync(
      out,
      `${JSON.stringify({ target, case: i, kind, detail: String(detail).slice(0, 600), log })}\n`,
    );
}

/** Runs cases [from, to) in one child; resolves to where the next child goes on. */
function runBatch(target, from, to) {
  return new Promise((done) => {
    const child = spawn(
      process.execPath,
      [
        "--expose-gc",
        join(here, "worker.mjs"),
        project,
        target,
        String(seed),
        String(from),
        String(to),
        work,
      ],
      {
        stdio: ["ignore", "ignore", "pipe", "pipe"],
        env: { ...process.env, SPILLWAY_DEBUG: "" },
      },
    );
    let current = from - 1;
    let since = Date.now();
    let log = "";
    let peak = 0;
    let reason;
    let stderr = "";
    let rest = "";
    child.stderr.on("data", (d) => {
      stderr = (stderr + d).slice(-3000);
    });
    child.stdio[3].on("data", (d) => {
      const lines = (rest + d).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const m = JSON.parse(line);
        since = Date.now();
        if (m.start !== undefined) {
          current = m.start;
          log = m.log;
          peak = 0;
          table[target].cases++;
        } else {
          note(target, m.end, m.outcome, m.detail, log);
          if (Math.max(m.hwm, peak) > GIB)
            note(
              target,
              m.end,
              "memory",
              `${(Math.max(m.hwm, peak) / GIB).toFixed(1)} GiB: ${m.outcome} ${m.detail ?? ""}`,
              log,
            );
          log = undefined;
        }
      }
    });
    const watch = setInterval(() => {
      let rss = 0;
      try {
        rss =
          Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))?.[1] ?? 0) * 1024;
      } catch {}
      peak = Math.max(peak, rss);
      if (rss > KILL_AT) {
        reason = "memory";
        child.kill("SIGKILL");
      } else if (log !== undefined && current >= from && Date.now() - since > HANG_MS) {
        reason = "hang";
        child.kill("SIGKILL");
      } else if (Date.now() - since > 60_000) {
        reason = "start";
        child.kill("SIGKILL");
      }
    }, 100);
    child.on("close", (code, signal) => {
      clearInterval(watch);
      if (code === 0) return done(to);
      if (reason === "start") {
        console.error(`${target}: the worker does not start: ${stderr}`);
        return done(to);
      }
      if (current < from) {
        console.error(`${target}: the worker failed before its first case: ${stderr}`);
        process.exitCode = 1;
        return done(to);
      }
      const last =
        stderr
          .trim()
          .split("\n")
          .filter((l) => /ASSERT|FATAL|Error|error|assert/.test(l))
          .at(-1) ??
        stderr.trim().split("\n").at(-1) ??
        "";
      if (reason === "hang") {
        note(target, current, "hang", "more than 10 s", log);
        if (peak > GIB) note(target, current, "memory", "more than 1 GiB in a hang", log);
      } else if (reason === "memory") note(target, current, "memory", "more than 3 GiB, killed", log);
      else note(target, current, "abort", `${signal ?? `exit ${code}`} ${last}`, log);
      done(current + 1);
    });
  });
}
