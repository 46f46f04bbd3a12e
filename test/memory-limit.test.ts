// The promise about memory, kept by the kernel: a model of 4 GiB runs in a memory cgroup of its budget + 256 MiB. Skipped,
// with the reason, where cgroups cannot be made or the program is not built.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { makeCheckpoint } from "../src/checkpoint/synthetic.ts";

const PROGRAM = fileURLToPath(new URL("../dist/cli.js", import.meta.url));
const MIB = 2 ** 20;
const BESIDE_MIB = 256;

/** Files of the two versions of Linux's memory cgroups. */
const VERSIONS = [
  { root: "/sys/fs/cgroup/memory", limit: "memory.limit_in_bytes", peak: "memory.max_usage_in_bytes" },
  { root: "/sys/fs/cgroup", limit: "memory.max", peak: "memory.peak" },
];

class MemoryGroup {
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

  remove(): void {
    rmdirSync(this.path);
  }
}

function whyNot(): string | undefined {
  if (!existsSync(PROGRAM)) return "dist/cli.js is not there: npm run build makes it";
  try {
    MemoryGroup.make(512 * MIB).remove();
    return undefined;
  } catch (error) {
    return `a memory cgroup cannot be made: ${error instanceof Error ? error.message : error}`;
  }
}

const reason = whyNot();
if (reason) console.warn(`memory limits are not tested: ${reason}`);

describe.skipIf(reason !== undefined)("a model of 4 GiB in a memory cgroup", () => {
  let folder: string;
  let model: string;
  let bytes: number;

  beforeAll(async () => {
    // Beside the sources: a temporary folder may be in RAM, where a file with holes cannot be read past the page cache.
    folder = await mkdtemp(fileURLToPath(new URL("./.memory-limit-", import.meta.url)));
    const made = await makeCheckpoint(join(folder, "model"), { shape: "llama-4gib", sparse: true });
    model = made.path;
    bytes = made.bytes;
    expect(bytes).toBeGreaterThanOrEqual(4 * 2 ** 30);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  test.each([{ percent: 25 }, { percent: 50 }, { percent: 75 }])(
    "runs in $percent percent of its size",
    ({ percent }) => {
      const budget = Math.floor((bytes * percent) / 100 / MIB);
      const group = MemoryGroup.make((budget + BESIDE_MIB) * MIB);
      try {
        const options = ["--device", "cpu", "--cpu", `${budget}MiB`, "--max-new-tokens", "3", "--ignore-eos"];
        const command = [process.execPath, PROGRAM, "run", model, "1 2 3", "--json", ...options];
        const { status, signal, stderr } = spawnSync(
          "sh",
          ["-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', group.path, ...command],
          { encoding: "utf8" },
        );
        expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: expect.any(String) });
        expect(group.peak).toBeLessThanOrEqual((budget + BESIDE_MIB) * MIB);
        expect(group.peak).toBeGreaterThan((budget / 2) * MIB);
      } finally {
        group.remove();
      }
    },
  );
});
