// Disks that fail, dawdle, return less than asked or lose a file's end, while loading and in the middle of a pass.
// After each the error has a type and names the file, nothing leaks, and an open model goes on to say what it should.
import {
  appendFileSync,
  chmodSync,
  closeSync,
  linkSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { IoError } from "../src/base/errors.ts";
import { cannotProve } from "../src/base/testing-unproven.ts";
import { rejection } from "../src/formats/testing.ts";
import { AutoModelForCausalLM, type CausalLM } from "../src/generate/causal-lm.ts";
import type { SystemRead } from "../src/memory/io/direct-io.ts";
import type { EngineOptions } from "../src/runtime/open/prepare.ts";
import { expectGolden, expectStillRight, readGolden } from "./golden/golden.ts";
import { copyOfFixture } from "./support/checkpoints.ts";
import { leavesNothing } from "./support/leaks.ts";

const CPU: EngineOptions = { device: "cpu", kv_dtype: "float32", context_length: 256, threads: 1 };
const ON_DISK: EngineOptions = { ...CPU, device_map: "disk" };

/** What the system answers when a sector cannot be read. */
function sectorLost(): Error {
  return Object.assign(new Error("EIO: i/o error, read"), { code: "EIO", errno: -5, syscall: "read" });
}

/** Lets `after` reads pass, then fails one, then lets the others pass. Counts from the last `arm`. */
class FailingDisk {
  #left = Number.POSITIVE_INFINITY;
  failures = 0;
  arm(after: number): void {
    this.#left = after;
  }
  readonly beforeRead = (): void => {
    if (this.#left-- !== 0) return;
    this.failures++;
    throw sectorLost();
  };
}

/** Other weights in the same file. */
function overwrite(file: string): void {
  const handle = openSync(file, "r+");
  writeSync(handle, Buffer.alloc(300_000, 0x3f), 0, 300_000, 400_000);
  closeSync(handle);
}

async function generate(model: CausalLM, ids: readonly number[]): Promise<number[][]> {
  return model.generate({ input_ids: [ids], max_new_tokens: 8, ignore_eos: true });
}

describe("a read that fails in the middle of a pass", () => {
  // gpt2 turns weights round, the shards spread one model over eleven files.
  test.each(["llama", "gpt2", "llama-tied-sharded"])("%s: whichever read it is", async (name) => {
    const { dir, prompts } = await readGolden(name);
    const disk = new FailingDisk();
    await leavesNothing(async () => {
      const options = { ...ON_DISK, beforeRead: disk.beforeRead };
      await using model = await AutoModelForCausalLM.from_pretrained(dir, options);
      for (const after of [0, 1, 2, 3, 5, 8, 13, 21, 34, 55]) {
        disk.arm(after);
        const error = await rejection(generate(model, prompts[1]?.ids ?? []));
        expect(error).toBeInstanceOf(IoError);
        expect(error).toMatchObject({ code: "io", path: expect.stringContaining("safetensors") });
        expect((error as IoError).message).toContain("i/o error");
        await expectStillRight(model, prompts);
      }
      expect(disk.failures).toBe(10);
    });
  });

  test("callers that wait behind the failing one are served", async () => {
    const { dir, prompts } = await readGolden("llama");
    const disk = new FailingDisk();
    const options = { ...ON_DISK, beforeRead: disk.beforeRead };
    await using model = await AutoModelForCausalLM.from_pretrained(dir, options);
    disk.arm(7);
    const failing = rejection(generate(model, prompts[0]?.ids ?? []));
    const waiting = expectStillRight(model, prompts);
    expect(await failing).toBeInstanceOf(IoError);
    await waiting;
  });
});

test.each([
  ["resident", { ...CPU, device_map: "cpu" }],
  ["on disk", ON_DISK],
  ["read whole first", { ...CPU, device_map: "cpu", low_cpu_mem_usage: false }],
] as const)(
  "a read that fails while loading, %s: an IoError, and nothing is left",
  async (_where, options) => {
    const { dir } = await readGolden("llama");
    for (const after of [0, 1, 4, 6]) {
      const disk = new FailingDisk();
      disk.arm(after);
      await leavesNothing(async () => {
        const opening = AutoModelForCausalLM.from_pretrained(dir, {
          ...options,
          beforeRead: disk.beforeRead,
        });
        const error = await rejection(opening);
        expect(error).toBeInstanceOf(IoError);
      });
      expect(disk.failures).toBe(1);
    }
  },
);

describe("a disk that is odd but right", () => {
  const oddities: [string, () => (read: SystemRead) => void | Promise<void>][] = [
    [
      "answers late, and out of order",
      () => {
        let reads = 0;
        return () => sleep((reads++ * 7) % 5);
      },
    ],
    [
      "returns less than asked",
      () => {
        let reads = 0;
        return (read) => {
          if (reads++ % 3 !== 2) read.length = Math.max(4096, Math.floor(read.length / 2));
        };
      },
    ],
    [
      "returns pieces that end within a block",
      () => {
        let reads = 0;
        return (read) => {
          if (reads++ % 2 === 0 && read.length > 8192) read.length = 4096 + 777;
        };
      },
    ],
    [
      "is interrupted now and then",
      () => {
        let reads = 0;
        return () => {
          const code = ["EINTR", "EAGAIN", undefined, undefined][reads++ % 4];
          if (code) throw Object.assign(new Error(`${code}: interrupted`), { code });
        };
      },
    ],
  ];
  test.each(oddities)("%s", async (_what, make) => {
    const { dir, prompts } = await readGolden("llama");
    await leavesNothing(async () => {
      const options = { ...ON_DISK, beforeRead: make() };
      await using model = await AutoModelForCausalLM.from_pretrained(dir, options);
      await expectGolden(model, prompts.slice(0, 1), 2e-4);
    });
  });
});

describe("a file that changes under an open model", () => {
  test.each(["gpt2", "llama"])("%s: cut short, it is an IoError; opened again, all is well", async (name) => {
    const { prompts } = await readGolden(name);
    const dir = copyOfFixture(name);
    const file = join(dir, "model.safetensors");
    const bytes = readFileSync(file);
    await leavesNothing(async () => {
      for (const length of [bytes.length - 5000, Math.floor(bytes.length / 2), 4096, 0]) {
        await using model = await AutoModelForCausalLM.from_pretrained(dir, ON_DISK);
        await expectStillRight(model, prompts);
        truncateSync(file, length);
        const error = await rejection(generate(model, prompts[0]?.ids ?? []));
        expect(error).toBeInstanceOf(IoError);
        expect((error as IoError).message).toMatch(
          new RegExp(`truncated from ${bytes.length} to ${length} bytes`),
        );
        writeFileSync(file, bytes); // the same inode, as long as it was: what it holds is not known any more
        await expect(generate(model, [1])).rejects.toThrow(/was changed while it was in use/);
      }
    });
  });

  /** Generates, with `change` made after the third token. */
  async function interrupted(dir: string, change: (file: string) => void): Promise<unknown> {
    await using model = await AutoModelForCausalLM.from_pretrained(dir, ON_DISK);
    let tokens = 0;
    const put = () => {
      if (++tokens === 3) change(join(dir, "model.safetensors"));
    };
    const ids = [[5, 6, 7]];
    const streamer = { put, end: () => {} };
    try {
      await model.generate({ input_ids: ids, max_new_tokens: 10, ignore_eos: true, streamer });
      return undefined;
    } catch (error) {
      return error;
    }
  }

  test.each<[string, (file: string) => void, RegExp]>([
    ["overwritten in place", (file) => overwrite(file), /last written/],
    [
      "overwritten in place, its times set back",
      (file) => {
        const { atimeNs, mtimeNs } = statSync(file, { bigint: true });
        overwrite(file);
        utimesSync(file, Number(atimeNs) / 1e9, Number(mtimeNs) / 1e9);
      },
      /last written|time of writing set back/,
    ],
    [
      "cut and filled again",
      (file) => {
        const { size } = statSync(file);
        truncateSync(file, 400_000);
        truncateSync(file, size);
      },
      /last written|truncated/,
    ],
    ["appended to", (file) => appendFileSync(file, "more"), /it had \d+ bytes and has \d+/],
  ])("%s, it is an IoError within a pass", async (_, change, message) => {
    const error = await interrupted(copyOfFixture("llama"), change);
    expect(error).toBeInstanceOf(IoError);
    expect((error as IoError).message).toMatch(message);
  });

  test.each<[string, (file: string) => void]>([
    [
      "replaced by another of its name",
      (file) => {
        writeFileSync(`${file}.new`, "other");
        renameSync(`${file}.new`, file);
      },
    ],
    ["removed", (file) => rmSync(file)],
    ["linked", (file) => linkSync(file, `${file}.link`)],
    ["made read-only", (file) => chmodSync(file, 0o444)],
  ])("%s, it is read on as it was", async (_, change) => {
    if (process.platform === "win32") cannotProve("open files cannot be changed on Windows");
    expect(await interrupted(copyOfFixture("llama"), change)).toBeUndefined();
  });

  test("with all weights resident nobody notices", async () => {
    const { prompts } = await readGolden("llama");
    const dir = copyOfFixture("llama");
    await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, device_map: "cpu" });
    truncateSync(join(dir, "model.safetensors"), 0);
    await expectStillRight(model, prompts);
  });
});
