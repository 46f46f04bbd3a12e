// Runs a runner as a child process and takes the JSON it prints. Children never outlive this process.
import { spawn } from "node:child_process";

/** Process groups that are running. */
const running = new Set();

/** Ends every child and all it has started, at once. */
export function killChildren() {
  for (const pid of running) {
    try {
      process.kill(-pid, "SIGKILL");
    } catch {
      // it has ended meanwhile
    }
  }
}

// Without listeners a signal would skip the exit handlers, and with them what has to be undone (known-disk.mjs).
process.once("SIGINT", () => process.exit(130));
process.once("SIGTERM", () => process.exit(143));
process.once("SIGHUP", () => process.exit(129));
process.on("exit", killChildren);

/** What known-disk.sh prints after a run inside a memory limit. */
const CGROUP_PEAK = /^peak of the memory cgroup: (\d+) MiB, times the limit was hit: (\d+)$/m;

/** @typedef {{ memory_cgroup_peak_bytes?: number, memory_cgroup_limit_hits?: number }} Limited inside a limit of memory */
/** @typedef {import("./runner.mjs").Measurement & Limited} Run */

/**
 * @param {string[]} command program and arguments; prints a measurement as the last line on stdout
 * @returns {Promise<Run>} rejects with the end of stderr when the program fails
 */
export async function runForJson(command) {
  const [program = "", ...args] = command;
  // a group of its own, so that a shell between us and the engine cannot keep it from ending
  const child = spawn(program, args, { detached: true, stdio: ["ignore", "pipe", "pipe"] });
  const [stdout, stderr] = [collect(child.stdout), collect(child.stderr)];
  const { pid } = child;
  if (pid) running.add(pid);
  /** @type {string} */
  const end = await new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => resolve(signal ?? `exit code ${code}`));
  }).finally(() => running.delete(pid));
  const errors = stderr.join("");
  const json = stdout.join("").trim().split("\n").at(-1) ?? "";
  if (end !== "exit code 0" || !json.startsWith("{")) {
    const killed = /SIGKILL|137/.test(end) ? " (killed: more memory than the limit allows?)" : "";
    throw new Error(
      `${args.join(" ")}\nended with ${end}${killed}\n${errors.split("\n").slice(-20).join("\n")}`,
    );
  }
  const [, peak, hits] = CGROUP_PEAK.exec(errors) ?? [];
  const limited = {
    memory_cgroup_peak_bytes: Number(peak) * 2 ** 20,
    memory_cgroup_limit_hits: Number(hits),
  };
  return { ...JSON.parse(json), ...(peak && limited) };
}

/** @param {import("node:stream").Readable} stream */
function collect(stream) {
  /** @type {string[]} */
  const parts = [];
  stream.setEncoding("utf8").on("data", (part) => parts.push(part));
  return parts;
}
