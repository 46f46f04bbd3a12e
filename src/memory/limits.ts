// How much memory and how many processors this process may use. Looks and reports; allocates and reserves nothing.
// Linux control groups and /proc where there are any; elsewhere what the operating system tells Node.
import { readFileSync } from "node:fs";
import os from "node:os";
import {
  type CgroupPaths,
  cgroupCpuQuota,
  cgroupMemoryLimits,
  type MemoryLimit,
  parseCgroupPaths,
  type ReadText,
} from "../base/cgroups.ts";

/** Host memory as it is now. Bytes. */
export interface MemoryLimits {
  /** Of the machine. */
  readonly total: number;
  /** Free, or held by caches that the kernel gives up. */
  readonly available: number;
  /** Resident memory of this process. */
  readonly rss: number;
  /** The control group, or the process limit, with the least room left; undefined where nothing limits the process. */
  readonly limit: MemoryLimit | undefined;
}

/** What is looked at; tests give their own. */
export interface Machine {
  readonly read: ReadText;
  /** Bytes. */
  readonly total: number;
  readonly free: number;
  readonly rss: number;
  /** `process.constrainedMemory()`: 0, or a number past any machine's memory, where there is no limit. Bytes. */
  readonly constrained: number;
  /** Processors this process may be scheduled on. */
  readonly parallelism: number;
}

const MiB = 2 ** 20;

/** Left to the rest of the system: the larger of this many bytes and this part of what is free. */
const MARGIN = { bytes: 256 * MiB, part: 0.1 } as const;

/** `MemAvailable` of `/proc/meminfo`, bytes: what can be had without swapping, page cache included. */
export function parseMemAvailable(meminfo: string): number | undefined {
  const match = /^MemAvailable:\s+(\d+) kB$/m.exec(meminfo);
  return match ? Number(match[1]) * 1024 : undefined;
}

/** Host memory as it is now, and the limit that binds this process. */
export function memoryLimits(machine: Machine = thisMachine()): MemoryLimits {
  const { total, free, rss, read, constrained } = machine;
  const available = parseMemAvailable(read("/proc/meminfo") ?? "") ?? free;
  const limits = cgroupMemoryLimits(cgroupPaths(read), read).filter(({ limit }) => limit < total);
  // Node also knows limits of groups that are hidden from us, but not what else counts against them.
  if (limits.length === 0 && constrained > 0 && constrained < total) {
    limits.push({ limit: constrained, used: rss, source: "process.constrainedMemory()" });
  }
  const tightest = limits.sort((a, b) => room(a) - room(b))[0];
  return { total, available, rss, limit: tightest };
}

/**
 * Bytes of host memory that Spillway may take when `max_memory.cpu` is not given: the room left in the control group or
 * on the machine, whichever is less, minus a margin for the rest of the system. Never negative.
 */
export function defaultCpuBudget(limits: MemoryLimits = memoryLimits()): number {
  const group = limits.limit ? room(limits.limit) : Number.POSITIVE_INFINITY;
  const bytes = Math.min(group, limits.available);
  return Math.max(0, Math.floor(bytes - Math.max(MARGIN.bytes, bytes * MARGIN.part)));
}

function room({ limit, used }: MemoryLimit): number {
  return limit - used;
}

/**
 * Compute threads worth starting: the processors this process may use, or fewer where a control group limits its time
 * (threads past a quota only stop one another at barriers). At least 1.
 */
export function threadCount(machine: Machine = thisMachine()): number {
  const quota = cgroupCpuQuota(cgroupPaths(machine.read), machine.read) ?? Number.POSITIVE_INFINITY;
  return Math.max(1, Math.floor(Math.min(machine.parallelism, quota)));
}

function cgroupPaths(read: ReadText): CgroupPaths {
  return parseCgroupPaths(read("/proc/self/cgroup") ?? "");
}

function thisMachine(): Machine {
  return {
    read: readText,
    total: os.totalmem(),
    free: os.freemem(),
    rss: process.memoryUsage.rss(),
    constrained: process.constrainedMemory(),
    parallelism: os.availableParallelism(),
  };
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    // Not Linux, not mounted, or not ours to see: each is an ordinary "nothing known".
    return undefined;
  }
}
