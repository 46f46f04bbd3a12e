import { existsSync } from "node:fs";
import { mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { AbortError, BudgetError, CheckpointError, ConfigError, IoError } from "../../base/errors.ts";
import { needsLinux, testUnless } from "../../base/testing-unproven.ts";
import { rejection, temporaryFolder } from "../../formats/testing.ts";
import { Ledger } from "../../memory/ledger.ts";
import { systemError } from "../../memory/testing.ts";
import { latestCheckpoint, listCheckpoints } from "./list.ts";
import type { BeforeWrite, SystemWrite } from "./output-file.ts";
import { PIECE } from "./staging.ts";
import { expectWhole, leftovers, Training } from "./testing.ts";
import { LARGE, stateIn } from "./testing-state.ts";

let training: Training;
beforeEach(() => {
  training = new Training();
});
afterEach(() => training.end());

const stepsIn = async (dir: string) => (await listCheckpoints(dir)).map(({ step }) => step);

describe("a saved state", () => {
  test("is a folder of its step with a record and safetensors files that any reader opens", async () => {
    const dir = join(temporaryFolder(), "made", "on the way");
    const path = await training.save(dir, 7, { eval_loss: 2.5 });
    expect(path).toBe(join(dir, "checkpoint-7"));
    expect(await readdir(path)).toEqual([
      "state-00001-of-00002.safetensors",
      "state-00002-of-00002.safetensors",
      "training_state.json",
    ]);
    expect(await expectWhole(path)).toBe(7);
    expect(await leftovers(dir)).toEqual([]);
  });

  test("is split where it exceeds the limit of a file", async () => {
    const path = await training.save(temporaryFolder(), 1, { max_shard_bytes: 4096 });
    // 8192 bytes by themselves, nothing by itself, and the odd ones together.
    expect((await readdir(path)).filter((name) => name.endsWith(".safetensors")).length).toBe(3);
    expect(await expectWhole(path)).toBe(1);
  });

  test("may be of no tensors at all", async () => {
    const dir = temporaryFolder();
    await training.save(dir, 0, { tensors: [] });
    expect(await stepsIn(dir)).toEqual([0]);
  });

  test("takes two pieces of memory, whatever its size", async () => {
    const dir = temporaryFolder();
    const tensors = await stateIn(training.store, { specs: LARGE, step: 3 });
    const held = training.ledger.used("cpu");
    // A ledger of its own, so that only what saving takes is counted.
    const ledger = new Ledger({ cpu: 2 * PIECE });
    const path = await training.save(dir, 3, { tensors, ledger });
    expect(ledger.peak("cpu")).toBe(2 * PIECE);
    ledger.assertEmpty();
    expect(training.ledger.peak("cpu")).toBe(held);
    expect(await expectWhole(path, LARGE)).toBe(3);
  });

  test("is refused where the budget has no room for them", async () => {
    const dir = join(temporaryFolder(), "new");
    const ledger = new Ledger({ cpu: 2 * PIECE - 1 });
    await expect(training.save(dir, 1, { ledger })).rejects.toThrow(BudgetError);
    ledger.assertEmpty();
    expect(existsSync(dir)).toBe(false);
  });

  testUnless(needsLinux("direct I/O"))("comes out the same through the page cache", async () => {
    const refused: string[] = [];
    const path = await training.save(temporaryFolder(), 4, {
      tensors: await stateIn(training.store, { specs: LARGE, step: 4 }),
      beforeWrite: ({ call, path }) => {
        if (call !== "write" || refused.includes(path)) return;
        refused.push(path);
        throw systemError("EINVAL"); // what a file system without direct I/O says at the first write
      },
    });
    expect(refused.length).toBe(3);
    expect(await expectWhole(path, LARGE)).toBe(4);
  });

  test("is written on after interruptions, and given up where nothing moves", async () => {
    const dir = temporaryFolder();
    let calls = 0;
    const interrupted: BeforeWrite = ({ call }) => {
      if (call === "write" && calls++ % 3 !== 2) throw systemError("EINTR");
    };
    expect(await expectWhole(await training.save(dir, 1, { beforeWrite: interrupted }))).toBe(1);
    const stuck: BeforeWrite = ({ call }) => {
      if (call === "write") throw systemError("EINTR");
    };
    await expect(training.save(dir, 2, { beforeWrite: stuck })).rejects.toThrow(/moved nothing 8 times/);
    expect(await readdir(dir)).toEqual(["checkpoint-1"]);
  });
});

describe("what cannot be saved is refused, and nothing is left behind", () => {
  test.each<[string, number, Parameters<Training["save"]>[2], RegExp]>([
    ["a step that is not a count", -1, {}, /step is -1/],
    ["keeping none", 1, { keep: 0 }, /keep is 0/],
    ["files of no size", 1, { max_shard_bytes: 0 }, /max_shard_bytes is 0/],
    ["NaN in meta", 1, { meta: { cursor: { loss: Number.NaN } } }, /"loss" is NaN/],
    ["a bigint in meta", 1, { meta: { seed: 5n } }, /"seed" is 5/],
  ])("%s", async (_, step, options, message) => {
    const dir = join(temporaryFolder(), "new");
    const error = await rejection(training.save(dir, step, options));
    expect(error).toBeInstanceOf(ConfigError);
    expect(String(error)).toMatch(message);
    expect(existsSync(dir)).toBe(false);
  });

  test("a circle in meta; what is only there twice is no circle", async () => {
    const dir = temporaryFolder();
    const shared = { betas: [0.9, 0.95] };
    const meta: Record<string, unknown> = { a: shared, b: [shared, shared] };
    await training.save(dir, 1, { meta });
    meta.b = { meta };
    await expect(training.save(dir, 2, { meta })).rejects.toThrow(/"meta" holds itself/);
  });

  test.each<[string, object, RegExp]>([
    [
      "bytes that are not the shape's",
      { bytes: 8191 },
      /tensor h.0.weight: is given with 8191 bytes.* needs 8192/,
    ],
    [
      "a range outside the region",
      { offset: 1 },
      /8192 bytes at 1 are outside its region, h.0.weight on cpu of 8192/,
    ],
    ["a type safetensors does not have", { dtype: "q4_k" }, /dtype q4_k cannot be written/],
    ["a shape of no natural numbers", { shape: [64, -32] }, /shape \[64,-32\]/],
    ["a name given twice", { name: "h.0.norm" }, /h.0.norm: is given twice/],
  ])("%s", async (_, wrong, message) => {
    const dir = join(temporaryFolder(), "new");
    const [first, ...rest] = await stateIn(training.store, { step: 1 });
    const tensors = [{ ...first!, ...wrong }, ...rest];
    const error = await rejection(training.save(dir, 1, { tensors }));
    expect(error).toBeInstanceOf(CheckpointError);
    expect(String(error)).toMatch(message);
    expect(existsSync(dir)).toBe(false);
  });

  test("a torn tensor", async () => {
    const dir = temporaryFolder();
    await training.save(dir, 1);
    const tensors = await stateIn(training.store, { step: 2 });
    tensors[2]!.region.markTorn("a write was aborted");
    const error = await rejection(training.save(dir, 2, { tensors }));
    expect(error).toBeInstanceOf(IoError);
    expect(String(error)).toMatch(/tensor h.0.norm: .* cannot be used: a write was aborted/);
    expect(await readdir(dir)).toEqual(["checkpoint-1"]);
  });

  test("a name that belongs to something else", async () => {
    const dir = temporaryFolder();
    await mkdir(join(dir, "checkpoint-5"));
    await writeFile(join(dir, "checkpoint-5", "model.bin"), "of another program");
    await expect(training.save(dir, 5)).rejects.toThrow(/checkpoint-5 is in the way: it holds files but no/);
    await writeFile(join(dir, "checkpoint-6"), "a file");
    await expect(training.save(dir, 6)).rejects.toThrow(/checkpoint-6.*is in the way/);
    expect(await readdir(dir)).toEqual(["checkpoint-5", "checkpoint-6"]);
    expect(await readdir(join(dir, "checkpoint-5"))).toEqual(["model.bin"]);
  });

  test("a second one into the same folder meanwhile", async () => {
    const dir = temporaryFolder();
    let second: Promise<Error> | undefined;
    await training.save(dir, 1, {
      beforeWrite: async () => {
        second ??= rejection(training.save(dir, 2, { tensors: [] })) as Promise<Error>;
        await second;
      },
    });
    expect(String(await second)).toMatch(/a checkpoint is being saved there; await it first/);
    expect(await readdir(dir)).toEqual(["checkpoint-1"]);
  });
});

/** The folder in which a failure strikes, and what saving does there: a new step, or a step that is there already. */
const SITUATIONS: [string, number][] = [
  ["a new step", 3],
  ["a step that is replaced", 2],
];

/** Every call of the system that a save of `step` makes next to the checkpoints 1 and 2. */
async function callsOf(step: number): Promise<SystemWrite[]> {
  const calls: SystemWrite[] = [];
  const dir = temporaryFolder();
  await training.save(dir, 1);
  await training.save(dir, 2);
  await training.save(dir, step, { content: 9, beforeWrite: (call) => void calls.push({ ...call }) });
  return calls;
}

describe.each(SITUATIONS)("%s", (_, step) => {
  test("is whole to a reader at every moment, and so is what was there before", async () => {
    const dir = temporaryFolder();
    await training.save(dir, 1);
    await training.save(dir, 2);
    let seen = 0;
    await training.save(dir, step, {
      content: 9,
      beforeWrite: async () => {
        const found = await listCheckpoints(dir);
        const contents = await Promise.all(found.map(({ path }) => expectWhole(path)));
        const before = [1, 2];
        const after = step === 2 ? [1, 9] : [1, 2, 9];
        expect([before, after]).toContainEqual(contents);
        seen++;
      },
    });
    expect(seen).toBeGreaterThan(15);
    expect(await expectWhole((await latestCheckpoint(dir))!.path)).toBe(9);
    expect(await leftovers(dir)).toEqual([]);
  });

  test("on a disk that is full at any call of the system changes nothing, and says how much is needed", async () => {
    const calls = await callsOf(step);
    expect(new Set(calls.map(({ call }) => call))).toEqual(
      new Set(["mkdir", "open", "write", "truncate", "sync", "rename"]),
    );
    for (const failing of calls.keys()) {
      const dir = temporaryFolder();
      await training.save(dir, 1);
      await training.save(dir, 2);
      let turn = 0;
      const beforeWrite = () => {
        if (turn++ === failing) throw systemError("ENOSPC");
      };
      const error = await rejection(training.save(dir, step, { content: 9, beforeWrite }));
      const where = `call ${failing}: ${JSON.stringify(calls[failing])}`;
      expect(error, where).toBeInstanceOf(IoError);
      expect(String(error), where).toMatch(
        /needs \d+ bytes \(.*\), the disk has \d+ bytes free .*keep fewer/,
      );
      expect((error as IoError).path, where).toBe(dir);
      expect(await readdir(dir), where).toEqual(["checkpoint-1", "checkpoint-2"]);
      for (const old of [1, 2]) expect(await expectWhole(join(dir, `checkpoint-${old}`)), where).toBe(old);
      await rm(dir, { recursive: true });
    }
  });

  test("aborted at any call of the system is there whole or not at all", async () => {
    for (const failing of (await callsOf(step)).keys()) {
      const dir = temporaryFolder();
      await training.save(dir, 1);
      await training.save(dir, 2);
      const abort = new AbortController();
      let turn = 0;
      const beforeWrite = () => {
        if (turn++ === failing) abort.abort();
      };
      const result = await training
        .save(dir, step, { content: 9, beforeWrite, signal: abort.signal })
        .catch((error: unknown) => error);
      if (result instanceof AbortError) {
        expect(await readdir(dir)).toEqual(["checkpoint-1", "checkpoint-2"]);
        expect(await expectWhole(join(dir, "checkpoint-2"))).toBe(2);
      } else {
        // It was heard too late: the checkpoint was taking its name.
        expect(await expectWhole(String(result))).toBe(9);
      }
      expect(await leftovers(dir)).toEqual([]);
      await rm(dir, { recursive: true });
    }
  });
});

test("aborted before it began, nothing is made", async () => {
  const dir = join(temporaryFolder(), "new");
  await expect(training.save(dir, 1, { signal: AbortSignal.abort() })).rejects.toThrow(AbortError);
  expect(existsSync(dir)).toBe(false);
});

describe("keeping", () => {
  test("the last ones only", async () => {
    const dir = temporaryFolder();
    for (const step of [9, 10, 11, 100]) await training.save(dir, step, { keep: 2 });
    expect(await stepsIn(dir)).toEqual([11, 100]);
    expect(await leftovers(dir)).toEqual([]);
  });

  test("the best one too, where asked", async () => {
    const dir = temporaryFolder();
    const losses: [number, number | undefined][] = [
      [1, 3],
      [2, 1.5],
      [3, 1.5],
      [4, Number.NaN],
      [5, undefined],
      [6, 2],
    ];
    for (const [step, eval_loss] of losses)
      await training.save(dir, step, { keep: 2, keepBest: true, eval_loss });
    expect(await stepsIn(dir)).toEqual([2, 6]);
    await training.save(dir, 7, { keep: 1, keepBest: true, eval_loss: 1.6 });
    expect(await stepsIn(dir)).toEqual([2, 7]);
    await training.save(dir, 8, { keep: 1, eval_loss: 1.7 });
    expect(await stepsIn(dir)).toEqual([8]);
  });

  test("never removes the one just saved, though it is the oldest", async () => {
    const dir = temporaryFolder();
    for (const step of [5, 6, 7]) await training.save(dir, step);
    await training.save(dir, 1, { keep: 1 });
    expect(await stepsIn(dir)).toEqual([1]);
  });

  test("leaves alone what is not a whole checkpoint of ours", async () => {
    const dir = temporaryFolder();
    await mkdir(join(dir, "checkpoint-1"));
    await writeFile(join(dir, "checkpoint-1", "optimizer.pt"), "of another program");
    await writeFile(join(dir, "notes.txt"), "");
    for (const step of [2, 3]) await training.save(dir, step, { keep: 1 });
    expect(await readdir(dir)).toEqual(["checkpoint-1", "checkpoint-3", "notes.txt"]);
  });

  test("an old one that cannot be removed is an error that names what was saved", async () => {
    const dir = temporaryFolder();
    await training.save(dir, 1);
    const beforeWrite: BeforeWrite = ({ call, path }) => {
      if (call === "rename" && path.includes(".old.tmp-")) throw systemError("EACCES");
    };
    await expect(training.save(dir, 2, { keep: 1, beforeWrite })).rejects.toThrow(
      /checkpoint-1: could not be removed; .*checkpoint-2 was saved/,
    );
    expect(await stepsIn(dir)).toEqual([1, 2]);
  });
});
