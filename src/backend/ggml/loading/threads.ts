// Whether the system gives this process more threads, tried before native code needs them: the tensor library aborts the
// process where it is refused one. The try tells whether; control groups, limits and counts tell why.
import { readdirSync, readFileSync } from "node:fs";
import { cgroupTaskLimits, parseCgroupPaths, type ReadText } from "../../../base/cgroups.ts";
import { LibraryError } from "../../../base/errors.ts";
import { ffi } from "./ffi.ts";

/** Throws {@link LibraryError} with the limits that bind and a number of threads that works, where `count` more are refused. */
export function needThreads(count: number, what: string): void {
  const given = tryThreads(count);
  if (given >= count) return;
  throw new LibraryError(
    `${what}: the system gives this process ${given} more ${given === 1 ? "thread" : "threads"}, ${count} are needed` +
      ` (${whyFewer()}); try: --threads ${Math.max(1, given - 1)} (option "threads"), or raise the limit`,
  );
}

interface Pthreads {
  readonly init: (semaphore: bigint, shared: number, value: number) => number;
  readonly post: (semaphore: bigint) => number;
  readonly create: (thread: Uint8Array, attributes: null, start: bigint, argument: bigint) => number;
  readonly join: (thread: bigint, result: null) => number;
  readonly wait: bigint;
}

let pthreads: Pthreads | null | undefined;

/** Where they are called this way: 64-bit Linux. Elsewhere nothing is tried. */
function load(): Pthreads | null {
  if (process.platform !== "linux" || !["x64", "arm64"].includes(process.arch)) return null;
  try {
    const c = ffi().load(null);
    return {
      init: c.func("sem_init", "int", ["void *", "int", "uint32_t"]) as unknown as Pthreads["init"],
      post: c.func("sem_post", "int", ["void *"]) as unknown as Pthreads["post"],
      create: c.func("pthread_create", "int", [
        "void *",
        "void *",
        "void *",
        "void *",
      ]) as unknown as Pthreads["create"],
      join: c.func("pthread_join", "int", ["uint64_t", "void *"]) as unknown as Pthreads["join"],
      wait: c.symbol("sem_wait") as bigint,
    };
  } catch {
    return null;
  }
}

/** Starts up to `count` threads that wait, then ends them. Returns how many there were at once; `count` where untried. */
export function tryThreads(count: number): number {
  pthreads ??= load();
  if (!pthreads || count <= 0) return count;
  // A semaphore (32 bytes), then the threads' ids: a page that stays where it is.
  const memory = new ArrayBuffer(4096 + 8 * count);
  const semaphore = ffi().address(new Uint8Array(memory)) as bigint;
  if (pthreads.init(semaphore, 0, 0) !== 0) return count;
  let given = 0;
  while (given < count) {
    const id = new Uint8Array(memory, 4096 + 8 * given, 8);
    if (pthreads.create(id, null, pthreads.wait, semaphore) !== 0) break;
    given++;
  }
  for (let i = 0; i < given; i++) pthreads.post(semaphore);
  const ids = new BigUint64Array(memory, 4096, given);
  for (const id of ids) pthreads.join(id, null);
  return given;
}

/** The limits on threads that bind this process, with what is used of each, for messages. */
export function whyFewer(read: ReadText = readText, uid = process.getuid?.() ?? 0): string {
  const reasons: string[] = [];
  for (const { limit, used, source } of cgroupTaskLimits(
    parseCgroupPaths(read("/proc/self/cgroup") ?? ""),
    read,
  )) {
    reasons.push(`${source} allows ${limit}, ${used} are there`);
  }
  const limits = read("/proc/self/limits") ?? "";
  const soft = (name: string) => Number(new RegExp(`^${name} +(\\d+)`, "m").exec(limits)?.[1] ?? Number.NaN);
  const processes = soft("Max processes");
  // Root is not held to it.
  if (uid !== 0 && Number.isFinite(processes)) {
    reasons.push(`ulimit -u is ${processes}, this user has ${threadsOfUser(uid, read)}`);
  }
  const space = soft("Max address space");
  if (Number.isFinite(space)) reasons.push(`ulimit -v is ${Math.floor(space / 1024)} KiB of addresses`);
  return reasons.length > 0
    ? reasons.join("; ")
    : "no limit of this process says why: the machine's own is reached";
}

/** Threads of all processes of a user that can be seen. */
function threadsOfUser(uid: number, read: ReadText): number {
  let threads = 0;
  for (const name of processes()) {
    const status = read(`/proc/${name}/status`) ?? "";
    if (Number(/^Uid:\s+(\d+)/m.exec(status)?.[1]) === uid)
      threads += Number(/^Threads:\s+(\d+)/m.exec(status)?.[1] ?? 0);
  }
  return threads;
}

function processes(): string[] {
  try {
    return readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  } catch {
    return [];
  }
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined; // not there, or not ours to see
  }
}
