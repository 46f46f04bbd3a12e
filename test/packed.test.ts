// offload_packed: weights on disk that are read packed and unpacked as they arrive are the same weights, to the last bit,
// and a quarter of the reading is saved.
import { closeSync, openSync, readdirSync, statSync, utimesSync, writeSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { BudgetError, CheckpointError, ConfigError, IoError } from "../src/base/errors.ts";
import { openCheckpoint } from "../src/formats/index.ts";
import type { SyntheticOptions } from "../src/formats/synthetic.ts";
import { temporaryFolder } from "../src/formats/testing.ts";
import { AutoModelForCausalLM } from "../src/generate/causal-lm.ts";
import type { EngineOptions } from "../src/runtime/open/prepare.ts";
import { FIXTURES } from "./golden/golden.ts";
import { budgetRange, budgetsBetween, checkpoint, weightsByTier } from "./support/checkpoints.ts";
import { leavesNothing } from "./support/leaks.ts";

const CPU: EngineOptions = { device: "cpu", context_length: 64, threads: 1 };
const IDS = [5, 99, 200, 3, 41, 42, 8];

/** Logits, greedy tokens, and bytes that streamed for each of the passes. */
async function ask(dir: string, options: EngineOptions) {
  return leavesNothing(async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, ...options });
    const { data } = (await model.forward({ input_ids: [IDS] })).logits;
    const ids = await model.generate({ input_ids: [IDS], max_new_tokens: 8, ignore_eos: true });
    const { plan } = model;
    const { budget, peak } = model.memory();
    expect(peak.cpu).toBeLessThanOrEqual(budget.cpu);
    return { bits: Buffer.from(data.buffer), ids, plan, weights: await weightsByTier(model) };
  });
}

const FAMILIES: [string, SyntheticOptions][] = [
  ["llama", { family: "llama", dtype: "bf16" }],
  ["llama, tied", { family: "llama", dtype: "bf16", tie_word_embeddings: true }],
  ["gpt2, whose matrices lie the other way round", { family: "gpt2", dtype: "bf16" }],
];

describe.each(FAMILIES)("%s", (_, made) => {
  test("on disk, mixed and resident: the same bits, three quarters of the bytes", async () => {
    const dir = await checkpoint(made);
    const offload_folder = temporaryFolder();
    const resident = await ask(dir, { device_map: "cpu" });
    const plain = await ask(dir, { device_map: "disk" });
    const packed = await ask(dir, { device_map: "disk", offload_folder, offload_packed: true });
    expect(packed.bits.equals(resident.bits)).toBe(true);
    expect(packed.ids).toEqual(resident.ids);
    const share = packed.plan.streamed.disk / plain.plan.streamed.disk;
    expect(share).toBeGreaterThan(0.74);
    expect(share).toBeLessThan(0.8);

    const { least, full } = await budgetRange(dir, { ...CPU, offload_folder, offload_packed: true });
    for (const cpu of [least, Math.floor((least + full) / 2)]) {
      const mixed = await ask(dir, { max_memory: { cpu }, offload_folder, offload_packed: true });
      expect(mixed.weights.disk).toBeGreaterThan(0);
      expect(mixed.bits.equals(resident.bits)).toBe(true);
    }
  });
});

describe("in RAM", () => {
  // large enough for packing to save more than the pages that reads are rounded to
  const shape = { hidden_size: 256, intermediate_size: 512, num_hidden_layers: 8 };
  const made: SyntheticOptions = { family: "llama", dtype: "bf16", shape };

  test("what stays is packed as well where not everything fits: more stays, to none on disk", async () => {
    const dir = await checkpoint(made);
    const options = { offload_folder: temporaryFolder(), offload_packed: true } as const;
    const resident = await ask(dir, { device_map: "cpu" });
    const { least, full } = await budgetRange(dir, { ...CPU, ...options });
    const reached = { someOnDisk: 0, noneOnDisk: 0 };
    for (const cpu of budgetsBetween({ least, full }, 8)) {
      const packed = await ask(dir, { max_memory: { cpu }, ...options });
      expect(packed.bits.equals(resident.bits)).toBe(true);
      expect(packed.ids).toEqual(resident.ids);
      expect(packed.plan.bytes.cpu).toBeLessThanOrEqual(cpu);
      if (packed.plan.packed.size === 0) continue;
      reached[packed.plan.streamed.disk > 0 ? "someOnDisk" : "noneOnDisk"]++;
      expect(packed.plan.streamed.cpu).toBeGreaterThan(0);
      const { plan } = await ask(dir, { max_memory: { cpu } });
      expect(packed.plan.streamed.disk).toBeLessThan(0.75 * plan.streamed.disk);
    }
    expect(reached.someOnDisk).toBeGreaterThan(0);
    expect(reached.noneOnDisk).toBeGreaterThan(0);
  });

  test("one copy serves every budget; where everything fits there is none", async () => {
    const dir = await checkpoint(made);
    const offload_folder = temporaryFolder();
    const packed = { offload_folder, offload_packed: true } as const;
    await ask(dir, { max_memory: { cpu: "1GiB" }, ...packed });
    expect(readdirSync(offload_folder)).toEqual([]);
    for (const cpu of budgetsBetween(await budgetRange(dir, CPU), 4)) {
      await ask(dir, { max_memory: { cpu }, ...packed });
    }
    expect(readdirSync(offload_folder)).toHaveLength(1);
  });

  test("weights converted to bfloat16 stay packed too", async () => {
    const dir = await checkpoint({ ...made, dtype: "f32" });
    const options = { dtype: "bfloat16", offload_folder: temporaryFolder(), offload_packed: true } as const;
    const resident = await ask(dir, { dtype: "bfloat16", device_map: "cpu" });
    const { least, full } = await budgetRange(dir, { ...CPU, dtype: "bfloat16" });
    const cpu = Math.floor((least + 2 * full) / 3);
    const packed = await ask(dir, { max_memory: { cpu }, ...options });
    expect(packed.plan.packed.size).toBeGreaterThan(0);
    expect(packed.bits.equals(resident.bits)).toBe(true);
  });
});

describe("the packed copy", () => {
  const bf16 = { family: "llama", dtype: "bf16" } as const;
  const options = () =>
    ({ device_map: "disk", offload_folder: temporaryFolder(), offload_packed: true }) as const;
  const copies = (folder: string) => readdirSync(folder).map((name) => join(folder, name));

  test("is made once, and anew when the checkpoint changed", async () => {
    const dir = await checkpoint({ ...bf16, seed: 3 });
    const packed = options();
    const first = await ask(dir, packed);
    const [copy, ...others] = copies(packed.offload_folder);
    expect(others).toEqual([]);
    const { mtimeMs } = statSync(copy as string);
    await ask(dir, packed);
    expect(copies(packed.offload_folder)).toEqual([copy]);
    expect(statSync(copy as string).mtimeMs).toBe(mtimeMs);
    utimesSync(join(dir, "model.safetensors"), new Date(0), new Date(0));
    const again = await ask(dir, packed);
    expect(copies(packed.offload_folder)).toHaveLength(2);
    expect(again.bits.equals(first.bits)).toBe(true);
  });

  test("weights converted to bfloat16 are packed too; others are left as they are", async () => {
    const dir = join(FIXTURES, "llama"); // f32
    const resident = await ask(dir, { device_map: "cpu", dtype: "bfloat16" });
    const both = options();
    const packed = await ask(dir, { ...both, dtype: "bfloat16" });
    expect(packed.bits.equals(resident.bits)).toBe(true);
    expect(copies(both.offload_folder)).toHaveLength(2);
    const none = options();
    await ask(dir, none);
    expect(copies(none.offload_folder)).toEqual([]);
  });

  test("needs a folder, and room within max_memory.disk", async () => {
    const dir = await checkpoint(bf16);
    const { offload_folder, ...homeless } = options();
    await leavesNothing(async () => {
      await expect(AutoModelForCausalLM.from_pretrained(dir, homeless)).rejects.toThrow(
        /offload_folder.*offload_packed/,
      );
      await expect(AutoModelForCausalLM.from_pretrained(dir, homeless)).rejects.toThrow(ConfigError);
      const tight = { ...homeless, offload_folder, max_memory: { disk: 1000 } };
      await expect(AutoModelForCausalLM.from_pretrained(dir, tight)).rejects.toThrow(BudgetError);
    });
    expect(copies(offload_folder)).toEqual([]);
  });

  test("damaged: an error that names the matrix, and the next use makes the copy anew", async () => {
    const dir = await checkpoint(bf16);
    const packed = options();
    await ask(dir, packed);
    const path = copies(packed.offload_folder)[0] as string;
    const [name, entry] = [...(await openCheckpoint(path)).tensors][0] ?? [];
    const before = statSync(path);
    const file = openSync(path, "r+");
    writeSync(file, Buffer.from("XX"), 0, 2, entry?.offset);
    closeSync(file);
    utimesSync(path, before.atime, before.mtime);
    await leavesNothing(async () => {
      await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, ...packed });
      const failure = await model.forward({ input_ids: [IDS] }).catch((error: unknown) => error);
      expect(failure).toBeInstanceOf(CheckpointError);
      expect((failure as CheckpointError).message).toContain(name);
      expect((failure as CheckpointError).message).toMatch(/damaged.*made anew/);
    });
    expect(copies(packed.offload_folder)).toEqual([]);
    await ask(dir, packed);
    expect(copies(packed.offload_folder)).toEqual([path]);
  });

  test("a read that fails in the middle of a pass is that pass's error; the next one works", async () => {
    const dir = await checkpoint(bf16);
    const packed = options();
    const right = await ask(dir, packed);
    await leavesNothing(async () => {
      let failing = false;
      await using model = await AutoModelForCausalLM.from_pretrained(dir, {
        ...CPU,
        ...packed,
        beforeRead: () => {
          if (failing) throw new IoError("injected", "packed");
          return undefined;
        },
      });
      failing = true;
      await expect(model.forward({ input_ids: [IDS] })).rejects.toThrow("injected");
      failing = false;
      const { data } = (await model.forward({ input_ids: [IDS] })).logits;
      expect(Buffer.from(data.buffer).equals(right.bits)).toBe(true);
    });
  });

  test("abort while it is made leaves no copy", async () => {
    const dir = await checkpoint(bf16);
    const packed = options();
    const abort = new AbortController();
    await leavesNothing(async () => {
      const loading = AutoModelForCausalLM.from_pretrained(dir, {
        ...CPU,
        ...packed,
        signal: abort.signal,
        progress_callback: () => abort.abort(),
      });
      await expect(loading).rejects.toMatchObject({ name: "AbortError" });
    });
    expect(copies(packed.offload_folder)).toEqual([]);
  });
});
