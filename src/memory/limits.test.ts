import { describe, expect, test } from "vitest";
import {
  parseCfsQuota,
  parseCgroupBytes,
  parseCgroupPaths,
  parseCpuMax,
  parseReclaimable,
} from "../base/cgroups.ts";
import { defaultCpuBudget, type Machine, memoryLimits, parseMemAvailable, threadCount } from "./limits.ts";

const MiB = 2 ** 20;
const GiB = 2 ** 30;

/** A machine of 16 GiB with 12 GiB available and 8 processors, whose kernel shows `files`. */
function machine(files: Record<string, string>, change: Partial<Machine> = {}): Machine {
  const shown: Record<string, string> = {
    "/proc/meminfo": `MemAvailable:   ${12 * 1024 * 1024} kB\n`,
    ...files,
  };
  return {
    read: (path) => shown[path],
    total: 16 * GiB,
    free: 3 * GiB,
    rss: 100 * MiB,
    constrained: 0,
    parallelism: 8,
    ...change,
  };
}

describe("the kernel's files", () => {
  test("/proc/self/cgroup in version 1, version 2 and both", () => {
    expect(parseCgroupPaths("0::/user.slice/run-r1.scope\n")).toEqual({ v2: "/user.slice/run-r1.scope" });
    expect(parseCgroupPaths("9:name=systemd:/\n4:memory:/docker/ab\n1:cpu,cpuacct:/c\n0::/\n")).toEqual({
      v2: "/",
      memory: "/docker/ab",
      cpu: "/c",
    });
    expect(parseCgroupPaths("rubbish\n\n::\n")).toEqual({});
  });

  test("a limit is bytes or none", () => {
    expect(parseCgroupBytes("4294967296\n")).toBe(4 * GiB);
    expect(parseCgroupBytes("max\n")).toBeUndefined();
    expect(parseCgroupBytes("9223372036854771712\n")).toBeUndefined();
    expect(parseCgroupBytes("")).toBeUndefined();
    expect(parseCgroupBytes("-1")).toBeUndefined();
  });

  test("page cache is what the kernel can take back", () => {
    const stat = "inactive_file 10\nactive_file 20\ntotal_inactive_file 300\ntotal_active_file 400\n";
    expect(parseReclaimable(stat, "")).toBe(30);
    expect(parseReclaimable(stat, "total_")).toBe(700);
    expect(parseReclaimable("", "")).toBe(0);
  });

  test("processor quotas are in processors", () => {
    expect(parseCpuMax("150000 100000\n")).toBe(1.5);
    expect(parseCpuMax("max 100000\n")).toBeUndefined();
    expect(parseCpuMax("")).toBeUndefined();
    expect(parseCfsQuota("400000", "100000")).toBe(4);
    expect(parseCfsQuota("-1\n", "100000\n")).toBeUndefined();
    expect(parseCfsQuota("", "")).toBeUndefined();
    expect(parseCfsQuota("100000", "0")).toBeUndefined();
  });

  test("MemAvailable is in kB", () => {
    expect(parseMemAvailable("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")).toBe(2 * MiB);
    expect(parseMemAvailable("MemTotal: 9 kB\n")).toBeUndefined();
  });
});

describe("memoryLimits", () => {
  test("without a control group, what is available is what counts", () => {
    expect(memoryLimits(machine({}))).toEqual({
      total: 16 * GiB,
      available: 12 * GiB,
      rss: 100 * MiB,
      limit: undefined,
    });
    expect(defaultCpuBudget(memoryLimits(machine({})))).toBe(Math.floor(12 * GiB * 0.9));
  });

  test("where there is no /proc, free memory is what is available", () => {
    const bare = { ...machine({}), read: () => undefined };
    expect(memoryLimits(bare).available).toBe(3 * GiB);
  });

  test("version 2: the limit of the process's own group, page cache not counted as used", () => {
    const limits = memoryLimits(
      machine({
        "/proc/self/cgroup": "0::/run.scope\n",
        "/sys/fs/cgroup/run.scope/memory.max": `${4 * GiB}\n`,
        "/sys/fs/cgroup/run.scope/memory.high": "max\n",
        "/sys/fs/cgroup/run.scope/memory.current": `${3 * GiB}\n`,
        "/sys/fs/cgroup/run.scope/memory.stat": `anon 1\ninactive_file ${2 * GiB}\nactive_file 0\n`,
      }),
    );
    const source = "/sys/fs/cgroup/run.scope/memory.max";
    expect(limits.limit).toEqual({ limit: 4 * GiB, used: GiB, source });
    expect(defaultCpuBudget(limits)).toBe(Math.floor(3 * GiB * 0.9));
  });

  test("the ancestor with the least room binds, and so does memory.high", () => {
    const { limit } = memoryLimits(
      machine({
        "/proc/self/cgroup": "0::/a/b/c\n",
        "/sys/fs/cgroup/a/b/c/memory.max": "max\n",
        "/sys/fs/cgroup/a/b/memory.max": `${8 * GiB}\n`,
        "/sys/fs/cgroup/a/b/memory.current": `${GiB}\n`,
        "/sys/fs/cgroup/a/memory.max": `${9 * GiB}\n`,
        "/sys/fs/cgroup/a/memory.high": `${8.5 * GiB}\n`,
        "/sys/fs/cgroup/a/memory.current": `${7 * GiB}\n`,
      }),
    );
    expect(limit?.source).toBe("/sys/fs/cgroup/a/memory.high");
  });

  test("version 1 in a container: the group's path is the host's, the limit is at the root of the mount", () => {
    const { limit } = memoryLimits(
      machine({
        "/proc/self/cgroup": "4:memory:/docker/0123\n0::/\n",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": `${2 * GiB}\n`,
        "/sys/fs/cgroup/memory/memory.usage_in_bytes": `${GiB}\n`,
        "/sys/fs/cgroup/memory/memory.stat": `inactive_file 5\ntotal_inactive_file ${GiB / 2}\n`,
      }),
    );
    expect(limit).toMatchObject({ limit: 2 * GiB, used: GiB / 2 });
  });

  test("a limit past the machine's memory is none, however it is written", () => {
    const unlimited = { constrained: 2 ** 64 };
    const files = {
      "/proc/self/cgroup": "4:memory:/\n",
      "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    };
    expect(memoryLimits(machine(files, unlimited)).limit).toBeUndefined();
    expect(memoryLimits(machine({}, { constrained: 17 * GiB })).limit).toBeUndefined();
  });

  test("a group that only Node can see still limits", () => {
    const { limit } = memoryLimits(machine({}, { constrained: 2 * GiB }));
    expect(limit).toEqual({ limit: 2 * GiB, used: 100 * MiB, source: "process.constrainedMemory()" });
  });

  test("the default budget keeps a margin and is never negative", () => {
    const available = (bytes: number) => ({ total: 16 * GiB, available: bytes, rss: 0, limit: undefined });
    expect(defaultCpuBudget(available(GiB))).toBe(GiB - 256 * MiB);
    expect(defaultCpuBudget(available(10 * GiB))).toBe(9 * GiB);
    expect(defaultCpuBudget(available(100 * MiB))).toBe(0);
    const over = { limit: GiB, used: 2 * GiB, source: "memory.max" };
    expect(defaultCpuBudget({ ...available(10 * GiB), limit: over })).toBe(0);
  });
});

describe("threadCount", () => {
  test("is the processors this process may use", () => {
    expect(threadCount(machine({}))).toBe(8);
  });

  test("is cut to the tightest quota, whole threads, at least one", () => {
    const v2 = (leaf: string, root: string) =>
      machine({
        "/proc/self/cgroup": "0::/a/b\n",
        "/sys/fs/cgroup/a/b/cpu.max": leaf,
        "/sys/fs/cgroup/a/cpu.max": root,
      });
    expect(threadCount(v2("max 100000", "350000 100000"))).toBe(3);
    expect(threadCount(v2("20000 100000", "max 100000"))).toBe(1);
    expect(threadCount(v2("9900000 100000", "max 100000"))).toBe(8);
    const v1 = machine({
      "/proc/self/cgroup": "1:cpu,cpuacct:/x\n",
      "/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "200000\n",
      "/sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
    });
    expect(threadCount(v1)).toBe(2);
  });
});

test("this machine has memory and processors", () => {
  const limits = memoryLimits();
  expect(limits.total).toBeGreaterThan(0);
  expect(limits.available).toBeGreaterThan(0);
  expect(limits.available).toBeLessThanOrEqual(limits.total);
  expect(limits.rss).toBeGreaterThan(0);
  expect(defaultCpuBudget()).toBeLessThan(limits.total);
  expect(threadCount()).toBeGreaterThanOrEqual(1);
});
