// Calls of the C library that make loading and giving back memory cheaper, where the platform has them. Everything works
// without.

import { onThread } from "./library.ts";
import { ffi } from "./loading/ffi.ts";

const MADV_DONTNEED = 4;
const MADV_HUGEPAGE = 14;
/** Smaller pieces of memory gain nothing from huge pages. Bytes. */
const HUGE_FROM = 4 * 1024 * 1024;
const PAGE = 4096n;

type Madvise = (address: bigint, bytes: number, advice: number) => number;
interface Memmove {
  async: (to: bigint, from: bigint, bytes: number, done: (error: unknown, result: bigint) => void) => void;
}
type Flock = (fd: number, operation: number) => number;
interface System {
  readonly madvise: Madvise | undefined;
  readonly memmove: Memmove | undefined;
  readonly flock: Flock | undefined;
}

let system: System | undefined;

function load(): System {
  try {
    const process_ = ffi().load(process.platform === "win32" ? "msvcrt.dll" : null);
    const memmove = process_.func("memmove", "void *", ["void *", "void *", "size_t"]) as unknown as Memmove;
    const madvise =
      process.platform === "linux"
        ? (process_.func("madvise", "int", ["void *", "size_t", "int"]) as unknown as Madvise)
        : undefined;
    const flock =
      process.platform === "win32"
        ? undefined
        : (process_.func("flock", "int", ["int", "int"]) as unknown as Flock);
    return { madvise, memmove, flock };
  } catch {
    return { madvise: undefined, memmove: undefined, flock: undefined };
  }
}

const LOCK_EX = 2;
const LOCK_NB = 4;

/**
 * Locks an open file against every other that is opened, until it is closed or its process ends: flock(2). "held": somebody
 * else has it. undefined where the platform or the file system has no such locks.
 */
export function lockOpenFile(fd: number): "locked" | "held" | undefined {
  system ??= load();
  if (!system.flock) return undefined;
  for (;;) {
    if (system.flock(fd, LOCK_EX | LOCK_NB) === 0) return "locked";
    const { errno, os } = ffi();
    const code = errno();
    if (code === os.errno.EINTR) continue;
    return code === os.errno.EWOULDBLOCK || code === os.errno.EAGAIN ? "held" : undefined;
  }
}

/** Asks for huge pages behind a large allocation: filling 4 KiB pages one by one limits how fast weights can arrive. */
export function preferHugePages(address: bigint, bytes: number): void {
  system ??= load();
  if (bytes < HUGE_FROM || !system.madvise) return;
  const start = ((address + PAGE - 1n) / PAGE) * PAGE;
  const length = bytes - Number(start - address);
  system.madvise(start, length - (length % Number(PAGE)), MADV_HUGEPAGE); // advice: a refusal changes nothing
}

/** Whether {@link giveBack} does anything here. */
export function canGiveBack(): boolean {
  system ??= load();
  return system.madvise !== undefined;
}

/** Gives the system back what is behind whole pages of private memory: they are zeros afterwards, and cost nothing. */
export function giveBack(address: bigint, bytes: number): void {
  system ??= load();
  system.madvise?.(address, bytes, MADV_DONTNEED);
}

/** Moves bytes within native memory, ranges may overlap, off the event loop. False where the platform lacks it. */
export async function moveBytes(to: bigint, from: bigint, bytes: number): Promise<boolean> {
  system ??= load();
  if (!system.memmove) return false;
  await onThread(system.memmove, to, from, bytes);
  return true;
}
