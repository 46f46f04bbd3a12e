// What a Linux control group allows this process: memory, processor time and tasks, version 1 and version 2.
// Parses the kernel's files (cgroups(7), cgroup-v1/memory.rst, cgroup-v2.rst); its readers decide what follows from them.
import { posix } from "node:path";

/** The groups a process is in: paths below the mount point of each hierarchy. */
export interface CgroupPaths {
  /** Of the unified hierarchy. */
  readonly v2?: string;
  /** Of the version 1 controllers, where they are mounted. */
  readonly memory?: string;
  readonly cpu?: string;
  readonly pids?: string;
}

/** One memory limit with what already counts against it. Bytes. */
export interface MemoryLimit {
  readonly limit: number;
  /** What is used and cannot be reclaimed: page cache is left out, because the kernel drops it first. */
  readonly used: number;
  /** The file the limit was read from. */
  readonly source: string;
}

/** One limit on processes and threads, with those that count against it. */
export interface TaskLimit {
  readonly limit: number;
  readonly used: number;
  /** The file the limit was read from. */
  readonly source: string;
}

/** Text of a file, or undefined where it does not exist or may not be read. */
export type ReadText = (path: string) => string | undefined;

const ROOT = "/sys/fs/cgroup";

/** Past `memory.max` a process is killed; past `memory.high` it is slowed down until it hardly moves. */
const V2_LIMITS = ["memory.max", "memory.high"] as const;

/** Where the file names and their meaning differ between the versions. One row per version and mount point. */
const MEMORY_HIERARCHIES = [
  { group: "v2", mount: ROOT, limits: V2_LIMITS, usage: "memory.current", stat: "" },
  { group: "v2", mount: `${ROOT}/unified`, limits: V2_LIMITS, usage: "memory.current", stat: "" },
  {
    group: "memory",
    mount: `${ROOT}/memory`,
    limits: ["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    stat: "total_",
  },
] as const;

/** Reads `/proc/self/cgroup`: "0::/user.slice" is version 2, "4:memory:/docker/ab" and "1:cpu,cpuacct:/" version 1. */
export function parseCgroupPaths(text: string): CgroupPaths {
  const paths: { v2?: string; memory?: string; cpu?: string; pids?: string } = {};
  for (const line of text.split("\n")) {
    const [, id, controllers = "", path = ""] = /^(\d+):([^:]*):(\/.*)$/.exec(line) ?? [];
    if (id === undefined) continue;
    if (id === "0" && controllers === "") paths.v2 = path;
    const has = controllers.split(",");
    for (const controller of ["memory", "cpu", "pids"] as const) {
      if (has.includes(controller)) paths[controller] = path;
    }
  }
  return paths;
}

/** A limit or a usage, in bytes or tasks; undefined for "max", for version 1's "no limit" and for anything malformed. */
export function parseCgroupBytes(text: string): number | undefined {
  const digits = /^\d+$/.exec(text.trim())?.[0];
  const bytes = digits === undefined ? Number.NaN : Number(digits);
  // Version 1 writes "no limit" as the largest multiple of the page size below 2^63.
  return bytes < 2 ** 60 ? bytes : undefined;
}

/** Page cache in `memory.stat`, bytes. `prefix` is "total_" in version 1, whose plain rows leave out child groups. */
export function parseReclaimable(text: string, prefix: "" | "total_"): number {
  let bytes = 0;
  for (const row of ["inactive_file", "active_file"]) {
    const match = new RegExp(`^${prefix}${row} (\\d+)$`, "m").exec(text);
    bytes += match ? Number(match[1]) : 0;
  }
  return bytes;
}

/** Processors' worth of time from version 2's `cpu.max` ("150000 100000" is 1.5); undefined where not limited. */
export function parseCpuMax(text: string): number | undefined {
  const [quota, period] = text.trim().split(/\s+/).map(Number);
  return cpuShare(quota, period);
}

/** Processors' worth of time from version 1's `cpu.cfs_quota_us` and `cpu.cfs_period_us`; a quota of -1 is no limit. */
export function parseCfsQuota(quota: string, period: string): number | undefined {
  return cpuShare(Number(quota), Number(period));
}

function cpuShare(quota: number | undefined, period: number | undefined): number | undefined {
  const share = Number(quota) / Number(period);
  return Number.isFinite(share) && share > 0 ? share : undefined;
}

/**
 * Every memory limit from the process's own group up to the root of its hierarchy. An ancestor's limit binds too; and
 * inside a container the group's path is often one of the host, where only the root of the mount is ours.
 */
export function cgroupMemoryLimits(paths: CgroupPaths, read: ReadText): MemoryLimit[] {
  const limits: MemoryLimit[] = [];
  for (const hierarchy of MEMORY_HIERARCHIES) {
    for (const folder of foldersUp(hierarchy.mount, paths[hierarchy.group])) {
      for (const name of hierarchy.limits) {
        const source = `${folder}/${name}`;
        const limit = parseCgroupBytes(read(source) ?? "");
        if (limit === undefined) continue;
        const held = parseCgroupBytes(read(`${folder}/${hierarchy.usage}`) ?? "") ?? 0;
        const reclaimable = parseReclaimable(read(`${folder}/memory.stat`) ?? "", hierarchy.stat);
        limits.push({ limit, used: Math.max(0, held - reclaimable), source });
      }
    }
  }
  return limits;
}

/** The tightest processor quota from the process's own group up to the root, in processors; undefined without one. */
export function cgroupCpuQuota(paths: CgroupPaths, read: ReadText): number | undefined {
  const shares: (number | undefined)[] = [];
  for (const mount of [ROOT, `${ROOT}/unified`]) {
    for (const folder of foldersUp(mount, paths.v2))
      shares.push(parseCpuMax(read(`${folder}/cpu.max`) ?? ""));
  }
  for (const mount of [`${ROOT}/cpu`, `${ROOT}/cpu,cpuacct`]) {
    for (const folder of foldersUp(mount, paths.cpu)) {
      const [quota = "", period = ""] = [
        read(`${folder}/cpu.cfs_quota_us`),
        read(`${folder}/cpu.cfs_period_us`),
      ];
      shares.push(parseCfsQuota(quota, period));
    }
  }
  const known = shares.filter((share) => share !== undefined);
  return known.length === 0 ? undefined : Math.min(...known);
}

/** Every limit on tasks from the process's own group up to the root of its hierarchy: all of them bind. */
export function cgroupTaskLimits(paths: CgroupPaths, read: ReadText): TaskLimit[] {
  const folders = [
    ...foldersUp(ROOT, paths.v2),
    ...foldersUp(`${ROOT}/unified`, paths.v2),
    ...foldersUp(`${ROOT}/pids`, paths.pids),
  ];
  return folders.flatMap((folder) => {
    const source = `${folder}/pids.max`;
    const limit = parseCgroupBytes(read(source) ?? "");
    if (limit === undefined) return [];
    return [{ limit, used: parseCgroupBytes(read(`${folder}/pids.current`) ?? "") ?? 0, source }];
  });
}

/** `mount/a/b`, `mount/a`, `mount`; nothing where the process is not in that hierarchy. */
function foldersUp(mount: string, path: string | undefined): string[] {
  if (path === undefined) return [];
  const folders: string[] = [];
  // normalize: a process moved out of its namespace's root is shown as "/../other", which must not leave the mount.
  for (let at = posix.normalize(path); at !== "/"; at = posix.dirname(at)) folders.push(mount + at);
  return [...folders, mount];
}
