// dtype other than the checkpoint's: converted while loading where weights stay in memory, once into offload_folder
// where they live on disk. Both give the same model.
import { readdirSync, readFileSync, statSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { CheckpointError, ConfigError, IoError } from "../src/base/errors.ts";
import { openCheckpoint } from "../src/formats/index.ts";
import { rejection, temporaryFolder } from "../src/formats/testing.ts";
import { AutoModelForCausalLM } from "../src/generate/causal-lm.ts";
import type { EngineOptions } from "../src/runtime/open/prepare.ts";
import { FIXTURES, largestDifference, readGolden } from "./golden/golden.ts";
import { budgetRange, copyOfFixture, weightsByTier } from "./support/checkpoints.ts";
import { leavesNothing } from "./support/leaks.ts";

const CPU: EngineOptions = { device: "cpu", kv_dtype: "float32", context_length: 64, threads: 1 };
const IDS = [5, 99, 200, 3, 511, 42, 8];

/** Logits and greedy tokens of a model opened with `options`. */
async function ask(dir: string, options: EngineOptions) {
  return leavesNothing(async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, ...options });
    const { data } = (await model.forward({ input_ids: [IDS] })).logits;
    const ids = await model.generate({ input_ids: [IDS], max_new_tokens: 12, ignore_eos: true });
    return { bits: Buffer.from(data.buffer), logits: data, ids, weights: await weightsByTier(model) };
  });
}

/** The copies in a folder, with what tells one version from another. */
function copies(folder: string) {
  return readdirSync(folder).map((name) => {
    const { size, mtimeMs, ino } = statSync(join(folder, name));
    return { path: join(folder, name), size, mtimeMs, ino };
  });
}

describe.each(["gpt2", "llama", "llama-tied-sharded", "qwen2"])("%s", (name) => {
  const dir = join(FIXTURES, name);

  test.each(["float16", "bfloat16"] as const)(
    "%s: resident, streamed and mixed give the same bits",
    async (dtype) => {
      const resident = await ask(dir, { dtype, device_map: "cpu" });
      const offload_folder = temporaryFolder();
      const streamed = await ask(dir, { dtype, device_map: "disk", offload_folder });
      expect(streamed.weights.cpu).toBe(0);
      expect(streamed.ids).toEqual(resident.ids);
      expect(streamed.bits.equals(resident.bits)).toBe(true);

      const { least, full } = await budgetRange(dir, { ...CPU, dtype, offload_folder });
      const cpu = Math.floor((least + full) / 2);
      const mixed = await ask(dir, { dtype, max_memory: { cpu }, offload_folder });
      expect(mixed.weights.cpu).toBeGreaterThan(0);
      expect(mixed.weights.disk).toBeGreaterThan(0);
      expect(mixed.bits.equals(resident.bits)).toBe(true);
    },
  );

  test("float16 is near the reference, and not the same as float32", async () => {
    const { prompts } = await readGolden(name);
    await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, dtype: "float16" });
    const { data } = (await model.forward({ input_ids: [prompts[0]?.ids ?? []] })).logits;
    const difference = largestDifference(data, prompts[0]?.logits ?? new Float32Array());
    expect(difference).toBeGreaterThan(0);
    // 11 bits of mantissa in every weight, and logits of a few units.
    expect(difference).toBeLessThan(0.05);
  });
});

describe("the copy in offload_folder", () => {
  const dtype = "float16";

  test("takes half the bytes, and is used again as it is", async () => {
    const dir = copyOfFixture("llama");
    const options = { dtype, device_map: "disk", offload_folder: temporaryFolder() } as const;
    const first = await ask(dir, options);
    const [copy, ...others] = copies(options.offload_folder);
    expect(others).toEqual([]);
    expect(copy?.size).toBeLessThan(0.6 * statSync(join(dir, "model.safetensors")).size);
    const second = await ask(dir, options);
    expect(copies(options.offload_folder)).toEqual([copy]);
    expect(second.bits.equals(first.bits)).toBe(true);
  });

  test("a folder that is not there is made", async () => {
    const offload_folder = join(temporaryFolder(), "not", "there", "yet");
    await ask(join(FIXTURES, "llama"), { dtype, device_map: "disk", offload_folder });
    expect(copies(offload_folder)).toHaveLength(1);
  });

  test("is not used once the source has changed", async () => {
    const dir = copyOfFixture("llama");
    const options = { dtype, device_map: "disk", offload_folder: temporaryFolder() } as const;
    const before = await ask(dir, options);
    const path = join(dir, "model.safetensors");
    const bytes = readFileSync(path);
    // Another sign in each of the last weights of the file; one second later, as clocks of file systems may be coarse.
    for (let i = bytes.length - 4096; i < bytes.length; i++)
      if (i % 4 === 3) bytes[i] = (bytes[i] ?? 0) ^ 0x80;
    writeFileSync(path, bytes);
    const { mtimeMs } = statSync(path);
    utimesSync(path, mtimeMs / 1000 + 1, mtimeMs / 1000 + 1);
    const after = await ask(dir, options);
    expect(after.bits.equals(before.bits)).toBe(false);
    const resident = await ask(dir, { dtype, device_map: "cpu" });
    expect(after.bits.equals(resident.bits)).toBe(true);
  });

  test.each([
    ["cut short", (path: string) => truncateSync(path, statSync(path).size - 4096)],
    ["emptied", (path: string) => truncateSync(path, 0)],
    ["replaced by something else", (path: string) => writeFileSync(path, "hello")],
  ])("is made again when it was %s", async (_what, damage) => {
    const dir = copyOfFixture("llama");
    const options = { dtype, device_map: "disk", offload_folder: temporaryFolder() } as const;
    const first = await ask(dir, options);
    const [copy] = copies(options.offload_folder);
    damage(copy?.path ?? "");
    const second = await ask(dir, options);
    expect(second.bits.equals(first.bits)).toBe(true);
    expect(copies(options.offload_folder).map(({ size }) => size)).toEqual([copy?.size]);
  });

  test("another dtype is another copy", async () => {
    const options = { device_map: "disk", offload_folder: temporaryFolder() } as const;
    const dir = join(FIXTURES, "llama");
    await ask(dir, { ...options, dtype: "float16" });
    await ask(dir, { ...options, dtype: "bfloat16" });
    expect(copies(options.offload_folder)).toHaveLength(2);
  });

  test("is not needed where the checkpoint has the type already", async () => {
    const offload_folder = join(temporaryFolder(), "unused");
    await ask(join(FIXTURES, "llama"), { dtype: "float32", device_map: "disk", offload_folder });
    await ask(join(FIXTURES, "llama"), { dtype: "auto", device_map: "disk" });
    expect(() => copies(offload_folder)).toThrow("ENOENT");
  });

  test("no folder named: an error that says which option, and how much would be written", async () => {
    const opening = ask(join(FIXTURES, "llama"), { dtype, device_map: "disk" });
    await expect(opening).rejects.toThrow(ConfigError);
    await expect(opening).rejects.toThrow(/offload_folder/);
    await expect(opening).rejects.toThrow(/KiB|MiB/);
  });

  test("a file where the folder should be: an IoError that names it", async () => {
    const offload_folder = join(temporaryFolder(), "file");
    writeFileSync(offload_folder, "");
    const opening = ask(join(FIXTURES, "llama"), { dtype, device_map: "disk", offload_folder });
    await expect(opening).rejects.toThrow(IoError);
    await expect(opening).rejects.toThrow(offload_folder);
  });
});

describe("a converted copy that is damaged", () => {
  const dir = join(FIXTURES, "llama");
  const streamed = () =>
    ({ dtype: "float16", device_map: "disk", offload_folder: temporaryFolder() }) as const;

  /** Turns bits of 16 bytes of a tensor in the only copy of a folder; its times stay. */
  async function damage(folder: string, tensor: string): Promise<string> {
    const { path } = copies(folder)[0]!;
    const entry = (await openCheckpoint(path)).tensors.get(tensor)!;
    const bytes = readFileSync(path);
    const at = entry.offset + Math.floor(entry.bytes / 2);
    for (let i = at; i < Math.min(at + 16, entry.offset + entry.bytes); i++) bytes[i] = bytes[i]! ^ 0x40;
    const { atime, mtime } = statSync(path);
    writeFileSync(path, bytes);
    utimesSync(path, atime, mtime);
    return path;
  }

  test.each(["model.layers.2.mlp.up_proj.weight", "lm_head.weight"])(
    "in weights that stream, %s: named, and made anew when the model is opened next",
    async (tensor) => {
      const options = streamed();
      const good = await ask(dir, options);
      const path = await damage(options.offload_folder, tensor);
      const error = await rejection(ask(dir, options));
      expect(error).toBeInstanceOf(CheckpointError);
      expect((error as CheckpointError).message).toMatch(`${path}: tensor ${tensor}: `);
      const after = await ask(dir, options);
      expect(after.bits.equals(good.bits)).toBe(true);
    },
  );

  test("in rows that are read one by one: the row that is used is named", async () => {
    const options = streamed();
    await ask(dir, options);
    const tensor = "model.embed_tokens.weight";
    await damage(options.offload_folder, tensor);
    await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, ...options });
    await model.forward({ input_ids: [[5]] });
    const all = Array.from({ length: 60 }, (_, i) => 226 + i); // the middle of 512 rows
    await expect(model.forward({ input_ids: [all] })).rejects.toThrow(tensor);
  });

  test.each([
    ["its checksums", "~spillway.checksums"],
    ["cut short", undefined],
  ])("%s: made anew at once, with a note", async (_, tensor) => {
    const options = streamed();
    const good = await ask(dir, options);
    const { path, size } = copies(options.offload_folder)[0]!;
    if (tensor) await damage(options.offload_folder, tensor);
    else truncateSync(path, size - 100);
    await using model = await AutoModelForCausalLM.from_pretrained(dir, { ...CPU, ...options });
    expect(model.warnings).toEqual([`${path} was damaged: it was made anew`]);
    const { data } = (await model.forward({ input_ids: [IDS] })).logits;
    expect(Buffer.from(data.buffer).equals(good.bits)).toBe(true);
  });

  test("several that open it at once make one copy and get the same from it", async () => {
    const options = { ...CPU, ...streamed() };
    const good = await ask(dir, { ...options, offload_folder: temporaryFolder() });
    const models = await Promise.all(
      Array.from({ length: 3 }, () => AutoModelForCausalLM.from_pretrained(dir, options)),
    );
    for (const model of models) {
      const { data } = (await model.forward({ input_ids: [IDS] })).logits;
      expect(Buffer.from(data.buffer).equals(good.bits)).toBe(true);
      await model.dispose();
    }
    expect(readdirSync(options.offload_folder).filter((name) => !name.endsWith(".safetensors"))).toEqual([]);
  });

  test("weights that change while they are copied leave no copy", async () => {
    const own = copyOfFixture("llama");
    const file = join(own, "model.safetensors");
    const options = streamed();
    let reads = 0;
    const beforeRead = () => {
      if (++reads === 5) writeFileSync(file, readFileSync(file));
    };
    await expect(ask(own, { ...options, beforeRead })).rejects.toThrow(/was changed while it was in use/);
    expect(readdirSync(options.offload_folder)).toEqual([]);
  });
});
