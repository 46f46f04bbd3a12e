// The promise about memory, kept by the kernel: a model of 4 GiB runs in a memory cgroup of its budget + 256 MiB. Skipped,
// with the reason, where cgroups cannot be made or the program is not built.

import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { describeUnless } from "../src/base/testing-unproven.ts";
import { makeCheckpoint } from "../src/formats/synthetic.ts";
import { BESIDE_MIB, DIST, MemoryGroup, MIB, whyNoMemoryGroup } from "./support/memory-group.ts";

const PROGRAM = join(DIST, "cli.js");
const reason = whyNoMemoryGroup();

describeUnless(reason)("a model of 4 GiB in a memory cgroup", () => {
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
        const { status, signal, stderr } = group.run(command);
        expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: expect.any(String) });
        expect(group.peak).toBeLessThanOrEqual((budget + BESIDE_MIB) * MIB);
        expect(group.peak).toBeGreaterThan((budget / 2) * MIB);
      } finally {
        group.remove();
      }
    },
  );
});
