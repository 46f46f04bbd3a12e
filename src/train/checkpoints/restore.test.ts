import { readFile, rm, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { AbortError, BudgetError, CheckpointError, IoError, UnsupportedError } from "../../base/errors.ts";
import { readJsonObject } from "../../formats/files/json-files.ts";
import { openHandles, rejection, temporaryFolder } from "../../formats/testing.ts";
import { type BeforeRead, openFileCount } from "../../memory/io/direct-io.ts";
import { Ledger } from "../../memory/ledger.ts";
import { openStore, testableTiers } from "../../memory/stores/testing.ts";
import { systemError } from "../../memory/testing.ts";
import { openTrainingCheckpoint, restoreTensors } from "./restore.ts";
import { PIECE } from "./staging.ts";
import { expectState, Training } from "./testing.ts";
import { bytesOfRegion, fill, LARGE, SPECS, stateIn } from "./testing-state.ts";

let training: Training;
beforeEach(() => {
  training = new Training();
});
afterEach(async () => {
  await training.end();
  expect(openFileCount()).toBe(0);
});

const tiers = testableTiers();
const pairs = tiers.flatMap((from) => tiers.map((to) => [from, to] as const));

describe("a state comes back as it was", () => {
  test.each(pairs)("saved from %s, restored into %s", async (fromTier, toTier) => {
    const dir = temporaryFolder();
    const specs = [...SPECS, ...LARGE];
    const from = await openStore(fromTier);
    const to = await openStore(toTier);
    try {
      const saved = await stateIn(from.store, { specs, step: 5 });
      const path = await training.save(dir, 5, {
        tensors: saved,
        meta: { cursor: { epoch: 1 } },
        eval_loss: 2,
      });
      const opened = await openTrainingCheckpoint(path);
      expect(opened).toMatchObject({ path, step: 5, eval_loss: 2, meta: { cursor: { epoch: 1 } } });
      const restored = await stateIn(to.store, { specs });
      await restoreTensors(opened, restored, training.options);
      await expectState(restored, 5);
      expect(openHandles(dir) ?? 0).toBe(0);
    } finally {
      await from.close();
      await to.close();
    }
  });

  test("wherever in its region a tensor lies, and its neighbours stay", async () => {
    const disk = await openStore("disk");
    try {
      const saved = await stateIn(disk.store, { specs: LARGE, step: 2, offset: 4097 });
      const path = await training.save(temporaryFolder(), 2, { tensors: saved });
      const restored = await stateIn(disk.store, { specs: LARGE, step: 8, offset: 333 });
      const before = await bytesOfRegion(restored[0]!.region, 0, 333);
      await restoreTensors(await openTrainingCheckpoint(path), restored, training.options);
      await expectState(restored, 2);
      expect(await bytesOfRegion(restored[0]!.region, 0, 333)).toEqual(before);
    } finally {
      await disk.close();
    }
  });

  test("through two pieces of memory, whatever its size", async () => {
    const tensors = await stateIn(training.store, { specs: LARGE, step: 1 });
    const path = await training.save(temporaryFolder(), 1, { tensors });
    const ledger = new Ledger({ cpu: 2 * PIECE });
    const opened = await openTrainingCheckpoint(path);
    await restoreTensors(opened, tensors, { ...training.options, ledger });
    expect(ledger.peak("cpu")).toBe(2 * PIECE);
    ledger.assertEmpty();
    const small = new Ledger({ cpu: 2 * PIECE - 1 });
    const refused = restoreTensors(opened, tensors, { ...training.options, ledger: small });
    await expect(refused).rejects.toThrow(BudgetError);
    small.assertEmpty();
    expect(tensors.map(({ region }) => region.torn)).toEqual([undefined, undefined]);
  });

  test("into regions that had been torn", async () => {
    const tensors = await stateIn(training.store, { step: 1 });
    const path = await training.save(temporaryFolder(), 1, { tensors });
    // The one without bytes has none to mend.
    const some = tensors.filter(({ bytes }) => bytes > 0);
    for (const { region } of some) region.markTorn("a step was aborted");
    await restoreTensors(await openTrainingCheckpoint(path), tensors, training.options);
    await expectState(tensors, 1);
    expect(some.every(({ region }) => region.torn === undefined)).toBe(true);
  });
});

describe("tensors other than those saved are refused, and no region changes", () => {
  const file = /state-0000\d-of-00002\.safetensors: tensor/;
  test.each<[string, (tensors: Awaited<ReturnType<typeof stateIn>>) => unknown[], RegExp]>([
    [
      "one that was not saved",
      ([a, ...rest]) => [{ ...a, name: "h.9" }, ...rest],
      /tensor h.9: is not among the 5/,
    ],
    [
      "one left out",
      ([, ...rest]) => rest,
      /tensor h.0.weight: was saved, but .* no place for it \(4 .* 5 saved/,
    ],
    [
      "another shape of as many bytes",
      ([a, ...rest]) => [{ ...a, shape: [32, 64] }, ...rest],
      /tensor h.0.weight: was saved as f32 \[64,32\], is wanted as f32 \[32,64\]/,
    ],
    ["fewer dimensions", ([a, ...rest]) => [{ ...a, shape: [2048] }, ...rest], /wanted as f32 \[2048\]/],
    ["another type", ([a, ...rest]) => [{ ...a, dtype: "i32" }, ...rest], /wanted as i32 \[64,32\]/],
    ["one given twice", (all) => [...all, all[0]], /tensor h.0.weight: is given twice/],
    ["a range outside its region", ([a, ...rest]) => [{ ...a, offset: 8 }, ...rest], /outside its region/],
  ])("%s", async (_, change, message) => {
    const path = await training.save(temporaryFolder(), 1);
    const tensors = await stateIn(training.store, { step: 4 });
    const opened = await openTrainingCheckpoint(path);
    const wrong = change(tensors) as typeof tensors;
    const error = await rejection(restoreTensors(opened, wrong, training.options));
    expect(error).toBeInstanceOf(CheckpointError);
    expect(String(error)).toMatch(message);
    if (/was saved/.test(String(error))) expect(String(error)).toMatch(file);
    await expectState(tensors, 4);
  });
});

describe("a restore that is cut short", () => {
  test("leaves what it had begun torn, until it is done again", async () => {
    const tensors = await stateIn(training.store, { specs: [...LARGE, ...SPECS], step: 6 });
    const path = await training.save(temporaryFolder(), 6, { tensors });
    await fill(tensors, 7);
    const opened = await openTrainingCheckpoint(path);
    let reads = 0;
    const beforeRead: BeforeRead = () => {
      if (++reads === 3) throw systemError("EIO");
    };
    const restoring = restoreTensors(opened, tensors, { ...training.options, beforeRead });
    await expect(restoring).rejects.toThrow(IoError);
    const torn = tensors.filter(({ region }) => region.torn !== undefined).map(({ name }) => name);
    expect(torn.length).toBeGreaterThan(0);
    expect(torn.length).toBeLessThan(tensors.length);
    for (const { name, region, bytes } of tensors) {
      if (torn.includes(name))
        await expect(bytesOfRegion(region, 0, bytes)).rejects.toThrow(/did not complete/);
    }
    await expectState(
      tensors.filter(({ name }) => !torn.includes(name)),
      7,
    );
    await restoreTensors(opened, tensors, training.options);
    await expectState(tensors, 6);
  });

  test("by the signal, before it began and in the middle", async () => {
    const tensors = await stateIn(training.store, { specs: LARGE, step: 6 });
    const opened = await openTrainingCheckpoint(await training.save(temporaryFolder(), 6, { tensors }));
    const before = restoreTensors(opened, tensors, { ...training.options, signal: AbortSignal.abort() });
    await expect(before).rejects.toThrow(AbortError);
    await expectState(tensors, 6);
    const abort = new AbortController();
    let reads = 0;
    const beforeRead = () => {
      if (++reads === 2) abort.abort();
    };
    const options = { ...training.options, beforeRead, signal: abort.signal };
    await expect(restoreTensors(opened, tensors, options)).rejects.toThrow(AbortError);
    expect(tensors[0]!.region.torn).toBeDefined();
  });
});

describe("a damaged checkpoint is an error that names the file", () => {
  const first = "state-00001-of-00002.safetensors";
  const record = "training_state.json";
  const edit = async (path: string, change: object) => {
    const file = join(path, record);
    await writeFile(file, JSON.stringify({ ...(await readJsonObject(file)), ...change }));
  };
  test.each<[string, (path: string) => Promise<void>, RegExp]>([
    [
      "a file cut short",
      (path) => truncate(join(path, first), 9000),
      /00001.*: is 9000 bytes, training_state.*says 12288/,
    ],
    ["a file missing", (path) => rm(join(path, first)), /00001.*: is missing, training_state.json names it/],
    [
      "a header overwritten",
      (path) => writeFile(join(path, first), new Uint8Array(12_288)),
      /00001.*header length is 0/,
    ],
    ["no record", (path) => rm(join(path, record)), /training_state.json: does not exist/],
    [
      "a record cut short",
      (path) => truncate(join(path, record), 40),
      /training_state.json: is not valid JSON/,
    ],
    ["a record of another program", (path) => edit(path, { format: "x" }), /format is "x"/],
    ["a step of no number", (path) => edit(path, { step: "5" }), /step is "5"/],
    ["a loss of no number", (path) => edit(path, { eval_loss: "5" }), /eval_loss is not a number/],
    ["meta of no object", (path) => edit(path, { meta: [] }), /meta is not an object/],
    ["files of no list", (path) => edit(path, { files: {} }), /files is not a list/],
    ["a file of no size", (path) => edit(path, { files: [{ name: first }] }), /expected a name and a number/],
    [
      "a path outside",
      (path) => edit(path, { files: [{ name: "../x.safetensors", bytes: 1 }] }),
      /not a tensor file/,
    ],
    [
      "a file named twice",
      (path) => edit(path, { files: [1, 2].map(() => ({ name: first, bytes: 12_288 })) }),
      /names state-00001-of-00002.safetensors twice/,
    ],
  ])("%s", async (_, damage, message) => {
    const path = await training.save(temporaryFolder(), 5);
    await damage(path);
    const error = await rejection(openTrainingCheckpoint(path));
    expect(error).toBeInstanceOf(CheckpointError);
    expect(String(error)).toMatch(message);
  });

  test.each([
    ["a later version", { version: 2 }, /version is 2, this reads 1: update spillway/],
    [
      "the format before checksums",
      { format: "spillway-training-state" },
      /format is "spillway-training-state", .* saved by an earlier spillway, .* start anew/,
    ],
  ])("%s", async (_what, change, message) => {
    const path = await training.save(temporaryFolder(), 5);
    expect(await readJsonObject(join(path, record))).toMatchObject({ version: 1 });
    await edit(path, change);
    const error = await rejection(openTrainingCheckpoint(path));
    expect(error).toBeInstanceOf(UnsupportedError);
    expect(String(error)).toMatch(message);
  });

  test("a record whose bytes were changed", async () => {
    const path = await training.save(temporaryFolder(), 5);
    await edit(path, { step: 6 });
    await expect(openTrainingCheckpoint(path)).rejects.toThrow(/training_state.json: .* it is damaged/);
  });

  test("tensors whose bytes were changed: named when they are read, and the regions are torn", async () => {
    const path = await training.save(temporaryFolder(), 5);
    const opened = await openTrainingCheckpoint(path);
    for (const { name, file, offset, bytes } of opened.tensors.tensors.values()) {
      if (bytes === 0) continue;
      const state = opened.tensors.files[file]!.path;
      const before = await readFile(state);
      const changed = Buffer.from(before);
      changed[offset + bytes - 1]! ^= 1;
      await writeFile(state, changed);
      const tensors = await stateIn(training.store);
      const again = await openTrainingCheckpoint(path);
      const error = await rejection(restoreTensors(again, tensors, training.options));
      expect(error).toBeInstanceOf(CheckpointError);
      expect(String(error)).toMatch(`tensor ${name}: does not have the checksum`);
      await writeFile(state, before);
    }
  });

  test("the folder above, with a word on what is in it", async () => {
    const dir = temporaryFolder();
    await expect(openTrainingCheckpoint(join(dir, "none"))).rejects.toThrow(/none: does not exist/);
    await expect(openTrainingCheckpoint(dir)).rejects.toThrow(/training_state.json: does not exist/);
    await training.save(dir, 5);
    await expect(openTrainingCheckpoint(dir)).rejects.toThrow(/give one of them, such as .*checkpoint-5/);
  });

  test("a file that was changed since it was opened", async () => {
    const path = await training.save(temporaryFolder(), 5);
    const opened = await openTrainingCheckpoint(path);
    await utimes(join(path, first), 1, 1);
    const tensors = await stateIn(training.store, { step: 4 });
    await expect(restoreTensors(opened, tensors, training.options)).rejects.toThrow(/the file changed/);
    await expectState(tensors, 4);
  });
});
