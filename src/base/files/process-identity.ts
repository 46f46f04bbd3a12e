// Which process made a file or holds a lock, and whether it is still at work. A process number alone says little: it is
// given out again, and means another process in another pid namespace (a container) or on another host.
import { createHash } from "node:crypto";
import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";

/** A process as others can recognise it. Texts are empty where the platform does not tell. */
export interface ProcessIdentity {
  readonly host: string;
  /** Of the machine's installation: tells machines of the same host name apart. */
  readonly machine: string;
  /** Since when the machine runs: no process outlives it. */
  readonly boot: string;
  /** The namespace in which `pid` is counted. */
  readonly namespace: string;
  readonly pid: number;
  /** When the process was started, in the clock ticks of its boot; "" where unknown. */
  readonly start: string;
}

/** "elsewhere": nothing can be said from here, because it ran on another host or in another pid namespace. */
export type Liveness = "alive" | "gone" | "elsewhere";

let own: ProcessIdentity | undefined;

export function thisProcess(): ProcessIdentity {
  own ??= {
    host: hostname(),
    machine: firstLine("/etc/machine-id"),
    boot: firstLine("/proc/sys/kernel/random/boot_id"),
    namespace: linkOr("/proc/self/ns/pid"),
    pid: process.pid,
    start: startOf(process.pid) ?? "",
  };
  return own;
}

/** Whether a process is still at work, as far as this one can tell. */
export function livenessOf(other: ProcessIdentity): Liveness {
  const self = thisProcess();
  const sameMachine = other.host === self.host && other.machine === self.machine;
  if (other.boot !== self.boot) {
    // The same machine has been started again since. Host names alone are given twice too easily.
    return sameMachine && self.machine !== "" && self.boot !== "" && other.boot !== "" ? "gone" : "elsewhere";
  }
  if (self.boot === "" && !sameMachine) return "elsewhere";
  if (other.namespace !== self.namespace) return "elsewhere";
  return isRunning(other.pid, other.start) ? "alive" : "gone";
}

/** Of this process's host, boot and pid namespace together: 12 hexadecimal digits. Process numbers count within it. */
export function placeTag(identity: ProcessIdentity = thisProcess()): string {
  const { host, machine, boot, namespace } = identity;
  return createHash("sha256").update([host, machine, boot, namespace].join("\0")).digest("hex").slice(0, 12);
}

/** Whether the process with this number, of this place, is the one that was started at `start`. */
export function isRunning(pid: number, start: string): boolean {
  if (pid === process.pid) return start === thisProcess().start;
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EPERM") return false;
  }
  const now = startOf(pid);
  // Where start times are not told, a process of this number counts as the one that is meant.
  return now === undefined || start === "" || now === start;
}

/** "process 4711 on wolf" */
export function shownIdentity({ host, pid, namespace }: ProcessIdentity): string {
  const other = namespace !== "" && namespace !== thisProcess().namespace ? " (another pid namespace)" : "";
  return `process ${pid} on ${host}${other}`;
}

/** The identity in parsed JSON, or undefined. */
export function identityIn(value: unknown): ProcessIdentity | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { host, machine, boot, namespace, pid, start } = value as Record<string, unknown>;
  const texts = [host, machine, boot, namespace, start];
  if (texts.some((text) => typeof text !== "string" || text.length > 256)) return undefined;
  if (!Number.isSafeInteger(pid) || (pid as number) < 1) return undefined;
  return value as ProcessIdentity;
}

/** Field 22 of /proc/PID/stat; the name before it, in parentheses, may hold anything. A zombie has ended. */
function startOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" || fields[0] === "X" ? "ended" : fields[19];
  } catch {
    return undefined;
  }
}

function firstLine(path: string): string {
  try {
    return readFileSync(path, "latin1").split("\n", 1)[0]!.trim();
  } catch {
    return "";
  }
}

function linkOr(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}
