import { cp, mkdir, readdir, rename, rm, truncate, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { temporaryName } from "../../base/files/temporary.ts";
import { leftover, temporaryFolder } from "../../formats/testing.ts";
import { bestCheckpoint, latestCheckpoint, listCheckpoints } from "./list.ts";
import { expectWhole, leftovers, Training } from "./testing.ts";

let training: Training;
let dir: string;
beforeEach(() => {
  training = new Training();
  dir = temporaryFolder();
});
afterEach(() => training.end());

const stepsIn = async () => (await listCheckpoints(dir)).map(({ step }) => step);

describe("checkpoints of a folder", () => {
  test("are listed by step, not by name", async () => {
    for (const step of [100, 9, 20]) await training.save(dir, step, { eval_loss: 1 / step });
    expect(await listCheckpoints(dir)).toEqual(
      [9, 20, 100].map((step) => ({
        path: join(dir, `checkpoint-${step}`),
        step,
        eval_loss: 1 / step,
        bytes: 12_288 + 4096 + 2113 + 132 + 2,
      })),
    );
    expect((await latestCheckpoint(dir))?.step).toBe(100);
  });

  test("none are in a folder that is empty or not there", async () => {
    for (const folder of [dir, join(dir, "none")]) {
      expect(await listCheckpoints(folder)).toEqual([]);
      expect(await latestCheckpoint(folder)).toBeUndefined();
      expect(await bestCheckpoint(folder)).toBeUndefined();
    }
  });

  test("the best has the lowest loss, the first of equals; no loss is never the best", async () => {
    await training.save(dir, 1);
    await training.save(dir, 2, { eval_loss: Number.NaN });
    expect(await bestCheckpoint(dir)).toBeUndefined();
    for (const [step, eval_loss] of [
      [3, 2],
      [4, 1],
      [5, 1],
    ] as const)
      await training.save(dir, step, { eval_loss });
    expect((await bestCheckpoint(dir))?.step).toBe(4);
  });

  test("damaged ones are passed over, and a save replaces them", async () => {
    for (const step of [1, 2, 3, 4]) await training.save(dir, step);
    await truncate(join(dir, "checkpoint-2", "state-00001-of-00002.safetensors"), 5000);
    await truncate(join(dir, "checkpoint-3", "training_state.json"), 0);
    await rename(join(dir, "checkpoint-4"), join(dir, "checkpoint-5"));
    expect(await stepsIn()).toEqual([1]);
    await training.save(dir, 3);
    expect(await stepsIn()).toEqual([1, 3]);
    expect(await readdir(dir)).toContain("checkpoint-2");
  });
});

describe("what a crash left behind", () => {
  test("is not listed, and removed by the next save", async () => {
    await training.save(dir, 1);
    for (let i = 0; i < 2; i++) {
      const torn = leftover(join(dir, "checkpoint-2"), "gone", { hidden: true });
      await cp(join(dir, "checkpoint-1"), torn, { recursive: true });
      await rm(join(torn, "training_state.json"));
      // Complete, but on its way out.
      await cp(join(dir, "checkpoint-1"), leftover(join(dir, "checkpoint-1.old"), "gone", { hidden: true }), {
        recursive: true,
      });
    }
    expect(await stepsIn()).toEqual([1]);
    expect((await leftovers(dir)).length).toBe(4);
    await training.save(dir, 2);
    expect(await readdir(dir)).toEqual(["checkpoint-1", "checkpoint-2"]);
  });

  test("is left alone while its process lives, and so are names that are not ours", async () => {
    const others = [
      basename(temporaryName(join(dir, "checkpoint-2"), { hidden: true })),
      basename(leftover(join(dir, "checkpoint-2"), "elsewhere", { hidden: true })),
      ".checkpoint-2.tmp",
      "checkpoint-x",
      "checkpoint-2.tmp",
    ];
    for (const name of others) await mkdir(join(dir, name));
    await training.save(dir, 1);
    expect((await leftovers(dir)).sort()).toEqual(others.sort());
  });

  test.each([
    ["before the old one went", true],
    ["after the old one went", false],
  ])(
    "a replacement cut short %s counts at once, and gets its name with the next save",
    async (_, oldIsThere) => {
      const other = temporaryFolder();
      await training.save(dir, 5);
      await training.save(other, 5, { content: 9 });
      await rename(join(other, "checkpoint-5"), join(dir, "checkpoint-5.new"));
      if (!oldIsThere)
        await rename(
          join(dir, "checkpoint-5"),
          leftover(join(dir, "checkpoint-5.old"), "gone", { hidden: true }),
        );
      const [found, ...more] = await listCheckpoints(dir);
      expect(more).toEqual([]);
      expect(await expectWhole(found!.path)).toBe(9);
      await training.save(dir, 6);
      expect(await readdir(dir)).toEqual(["checkpoint-5", "checkpoint-6"]);
      expect(await expectWhole(join(dir, "checkpoint-5"))).toBe(9);
    },
  );

  test("a damaged replacement does not stand in the way", async () => {
    await training.save(dir, 5);
    await mkdir(join(dir, "checkpoint-5.new"));
    await writeFile(join(dir, "checkpoint-5.new", "training_state.json"), "{");
    expect(await expectWhole((await latestCheckpoint(dir))!.path)).toBe(5);
    await training.save(dir, 5, { content: 9 });
    expect(await readdir(dir)).toEqual(["checkpoint-5"]);
    expect(await expectWhole(join(dir, "checkpoint-5"))).toBe(9);
  });
});
