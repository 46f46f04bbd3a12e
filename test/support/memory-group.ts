// A memory cgroup for the processes a test starts, of either version of cgroups.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const MIB = 2 ** 20;
/** What the process needs beside its budget. */
export const BESIDE_MIB = 256;
/** The program and the library as they are built. */
export const DIST = fileURLToPath(new URL("../../dist/", import.meta.url));

/** Files of the two versions of Linux's memory cgroups. */
const VERSIONS = [
  { root: "/sys/fs/cgroup/memory", limit: "memory.limit_in_bytes", peak: "memory.max_usage_in_bytes" },
  { root: "/sys/fs/cgroup", limit: "memory.max", peak: "memory.peak" },
];

export class MemoryGroup {
  readonly path: string;
  readonly #peak: string;

  private constructor(path: string, peak: string) {
    this.path = path;
    this.#peak = peak;
  }

  /** Throws where the system does not let this process make one. */
  static make(bytes: number): MemoryGroup {
    const version = VERSIONS.find(({ root }) => existsSync(join(root, "cgroup.procs")));
    if (!version) throw new Error("there are no memory cgroups");
    const path = join(version.root, `spillway-test-${process.pid}-${bytes}`);
    mkdirSync(path);
    const group = new MemoryGroup(path, version.peak);
    try {
      writeFileSync(join(path, version.limit), String(bytes));
      return group;
    } catch (error) {
      group.remove();
      throw error;
    }
  }

  /** The most bytes its processes had at once, page cache included. */
  get peak(): number {
    return Number(readFileSync(join(this.path, this.#peak), "utf8"));
  }

  /** Runs a command in it to its end. */
  run(command: readonly string[]) {
    const enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"';
    return spawnSync("sh", ["-c", enter, this.path, ...command], { encoding: "utf8" });
  }

  remove(): void {
    rmdirSync(this.path);
  }
}

/** Why a test that needs one has to be skipped. */
export function whyNoMemoryGroup(): string | undefined {
  if (!existsSync(join(DIST, "cli.js"))) return "dist/cli.js is not there: npm run build makes it";
  try {
    MemoryGroup.make(512 * MIB).remove();
    return undefined;
  } catch (error) {
    return `a memory cgroup cannot be made: ${error instanceof Error ? error.message : error}`;
  }
}
