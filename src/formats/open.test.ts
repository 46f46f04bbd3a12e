import { cpSync, mkdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { AbortError, CheckpointError } from "../base/errors.ts";
import { openCheckpoint } from "./index.ts";
import { fixture, openHandles, rejection, temporaryFolder, writeRaw } from "./testing.ts";

const INDEX = "model.safetensors.index.json";
const tensor = { dtype: "F32", shape: [1], data_offsets: [0, 4] };

describe("checkpoints made by the reference implementation", () => {
  test.each([
    ["gpt2", 1, 40],
    ["llama", 1, 30],
    ["llama-tied-sharded", 11, 47],
    ["llama3-rope", 1, 30],
    ["llama-yarn", 1, 30],
    ["qwen2", 1, 38],
  ])("%s: %i file(s), %i tensors", async (name, files, tensors) => {
    const checkpoint = await openCheckpoint(fixture(name));
    expect(checkpoint.format).toBe("safetensors");
    expect(checkpoint.path).toBe(fixture(name));
    expect(checkpoint.files.length).toBe(files);
    expect(checkpoint.tensors.size).toBe(tensors);
    expect(checkpoint.metadata).toEqual({ format: "pt" });
    for (const entry of checkpoint.tensors.values()) {
      const file = checkpoint.files[entry.file]!;
      expect(entry.offset + entry.bytes).toBeLessThanOrEqual(file.size);
    }
  });

  test("one file, or the index, may be named itself", async () => {
    const single = await openCheckpoint(join(fixture("llama"), "model.safetensors"));
    expect(single.tensors.size).toBe(30);
    const sharded = await openCheckpoint(join(fixture("llama-tied-sharded"), INDEX));
    expect(sharded.tensors).toEqual((await openCheckpoint(fixture("llama-tied-sharded"))).tensors);
  });

  test("where a single file and an index both exist, the single file counts", async () => {
    const dir = copyOfSharded();
    writeRaw(dir, "model.safetensors", { only: tensor }, 4);
    expect([...(await openCheckpoint(dir)).tensors.keys()]).toEqual(["only"]);
  });
});

describe("a folder without a checkpoint says what was found", () => {
  test.each([
    [[], "it is empty"],
    [
      ["pytorch_model.bin", "config.json"],
      "found only pytorch_model.bin; what is read is model.safetensors, or",
    ],
    [["README.md"], "found only README.md;"],
    [Array.from({ length: 11 }, (_, i) => `part-${10 + i}.gguf`), "part-17.gguf and 3 more"],
  ])("%j", async (names, message) => {
    const dir = temporaryFolder();
    for (const name of names) writeFileSync(join(dir, name), "x");
    await expect(openCheckpoint(dir)).rejects.toThrow(message);
  });

  test("a path to nothing, and a file of another kind", async () => {
    const dir = temporaryFolder();
    await expect(openCheckpoint(join(dir, "none"))).rejects.toThrow("none: does not exist");
    writeFileSync(join(dir, "pytorch_model.bin"), "x");
    await expect(openCheckpoint(join(dir, "pytorch_model.bin"))).rejects.toThrow(
      "is not a format this opens",
    );
  });
});

describe("a sharded checkpoint that does not hold together is refused", () => {
  test("missing shards are counted and named", async () => {
    const dir = copyOfSharded();
    rmSync(join(dir, "model-00002-of-00011.safetensors"));
    rmSync(join(dir, "model-00009-of-00011.safetensors"));
    const error = await rejection(openCheckpoint(dir));
    expect(error).toBeInstanceOf(CheckpointError);
    expect((error as Error).message).toContain(
      "2 of the 11 shards it names are missing (model-00002-of-00011.safetensors, model-00009-of-00011.safetensors)",
    );
  });

  test("a shard that was cut off is named, and no handle stays open", async () => {
    const dir = copyOfSharded();
    const shard = join(dir, "model-00005-of-00011.safetensors");
    truncateSync(shard, 5000);
    const error = await rejection(openCheckpoint(dir));
    expect((error as CheckpointError).file).toBe(shard);
    expect((error as CheckpointError).message).toContain("is 5000 bytes, its header describes");
    expect(openHandles(dir) ?? 0).toBe(0);
  });

  test.each([
    ["../secret.safetensors", "a path outside the folder"],
    ["a/../../secret.safetensors", "a path outside the folder"],
    ["..\\\\secret.safetensors", "a path outside the folder"],
    ["/etc/passwd", "a path outside the folder"],
    ["C:\\\\secret.safetensors", "a path outside the folder"],
    ["a\\u0000b", "a path outside the folder"],
    [".", "a path outside the folder"],
    ["", "does not give the name of a shard"],
  ])("the shard path %j", async (path, message) => {
    const dir = temporaryFolder();
    writeFileSync(join(dir, INDEX), `{"weight_map":{"w":"${path}"}}`);
    const error = await rejection(openCheckpoint(dir));
    expect(error).toMatchObject({ name: "CheckpointError", file: join(dir, INDEX), tensor: "w" });
    expect((error as Error).message).toContain(message);
  });

  test("a shard may lie in a folder of the folder", async () => {
    const dir = temporaryFolder();
    mkdirSync(join(dir, "part"));
    writeRaw(join(dir, "part"), "1.safetensors", { w: tensor }, 4);
    writeFileSync(join(dir, INDEX), '{"metadata":{},"weight_map":{"w":"part/1.safetensors"}}');
    expect((await openCheckpoint(dir)).tensors.get("w")?.bytes).toBe(4);
  });

  test.each([
    ["", "the index ends at character 0"],
    ["[]", 'the index has "[" at character 0'],
    ["{", "the index ends at character 1"],
    ["{}", "the index has no weight_map"],
    ['{"weight_map":{}}', "weight_map is empty"],
    ['{"weight_map":[]}', 'weight_map has "["'],
    ['{"weight_map":{"w":7}}', "tensor w: weight_map does not give the name of a shard"],
    ['{"weight_map":{"w":"a","w":"b"}}', 'tensor w: weight_map has "w" twice'],
    ['{"weight_map":{},"weight_map":{}}', 'the index has "weight_map" twice'],
    ['{"metadata":nonsense,"weight_map":{"w":"a"}}', '"metadata" is not valid JSON'],
  ])("the index %s", async (text, message) => {
    const dir = temporaryFolder();
    writeFileSync(join(dir, INDEX), text);
    const error = await rejection(openCheckpoint(dir));
    expect(error).toBeInstanceOf(CheckpointError);
    expect((error as Error).message).toContain(message);
  });

  // [what is wrong, weight_map, tensors of a, tensors of b, message]
  const disagreements: [string, Record<string, string>, string[], string[], string][] = [
    [
      "a tensor its shard does not have",
      { v: "a", w: "b", x: "b" },
      ["v"],
      ["w"],
      "x: the index places it in b, which",
    ],
    [
      "a tensor the index does not name",
      { v: "a", w: "b" },
      ["v"],
      ["w", "x"],
      "x: is in b, but the index does not",
    ],
    [
      "a tensor in another shard",
      { v: "a", w: "a", x: "b" },
      ["v"],
      ["w", "x"],
      "w: is in b, but the index places it",
    ],
    ["a tensor in two shards", { v: "a", w: "b" }, ["v", "w"], ["w"], "w: is in two shards, a and b"],
    [
      "a tensor in two shards, again",
      { v: "a", w: "a", x: "b" },
      ["v", "w"],
      ["w", "x"],
      "w: is in two shards",
    ],
  ];
  test.each(disagreements)("%s", async (_, weight_map, inA, inB, message) => {
    const dir = temporaryFolder();
    for (const [shard, names] of [
      ["a", inA],
      ["b", inB],
    ] as const) {
      const entries = names.map((name, i) => [name, { ...tensor, data_offsets: [4 * i, 4 * i + 4] }]);
      writeRaw(dir, shard, Object.fromEntries(entries), 4 * names.length);
    }
    writeFileSync(join(dir, INDEX), JSON.stringify({ weight_map }));
    const error = await rejection(openCheckpoint(dir));
    expect(error).toMatchObject({ name: "CheckpointError", file: join(dir, INDEX) });
    expect((error as Error).message).toContain(`tensor ${message}`);
  });
});

test("ignored tensors are not part of the checkpoint, but of what the index promises", async () => {
  const dir = temporaryFolder();
  const mask = { dtype: "U8", shape: [4], data_offsets: [4, 8] };
  writeRaw(dir, "a.safetensors", { w: tensor, "h.0.attn.bias": mask }, 8);
  writeFileSync(join(dir, INDEX), '{"weight_map":{"w":"a.safetensors","h.0.attn.bias":"a.safetensors"}}');
  await expect(openCheckpoint(dir)).rejects.toThrow("tensor h.0.attn.bias: dtype U8 is not supported");
  const checkpoint = await openCheckpoint(dir, { ignore: [/\.attn\.bias$/] });
  expect([...checkpoint.tensors.keys()]).toEqual(["w"]);
});

test("what a model may do without is no error where the checkpoint is opened as tolerant", async () => {
  const dir = temporaryFolder();
  const u8 = { dtype: "U8", shape: [4], data_offsets: [4, 8] };
  writeRaw(dir, "a", { w: tensor, mask: u8 }, 8);
  writeRaw(dir, "b", { v: tensor, twice: { ...tensor, data_offsets: [4, 8] } }, 8);
  writeRaw(dir, "c", { twice: tensor }, 4);
  const weight_map = { w: "a", mask: "a", v: "a", absent: "b", twice: "c" };
  writeFileSync(join(dir, INDEX), JSON.stringify({ metadata: null, weight_map: { ...weight_map, x: "b" } }));
  const { tensors, foreign, disputed } = await openCheckpoint(dir, { tolerant: true });
  expect([...tensors.keys()].sort()).toEqual(["twice", "v", "w"]);
  expect([...(foreign?.values() ?? [])]).toEqual([{ name: "mask", type: "U8", shape: [4], file: 0 }]);
  expect(Object.fromEntries(disputed ?? [])).toEqual({
    v: "is in b, but the index places it in a",
    absent: "the index places it in b, which does not hold it",
    twice: "is in two shards, b and c",
    x: "the index places it in b, which does not hold it",
  });
});

describe("files of weights beside a checkpoint", () => {
  const notes = async (names: string[], index: boolean) => {
    const dir = temporaryFolder();
    for (const name of names) writeRaw(dir, name, { w: tensor }, 4);
    if (index) writeFileSync(join(dir, INDEX), '{"weight_map":{"w":"a.safetensors"}}');
    return (await openCheckpoint(dir, { tolerant: true })).notes?.map((note) => note.replace(`${dir}: `, ""));
  };
  test.each<[string[], boolean, string[] | undefined]>([
    [["model.safetensors"], false, undefined],
    [["a.safetensors"], true, undefined],
    [["model.safetensors"], true, [`${INDEX} is not read: model.safetensors counts`]],
    [
      ["model.safetensors", "model.fp16.safetensors", "adapter_model.safetensors", "spillway-1.safetensors"],
      false,
      ["model.fp16.safetensors is not read: model.safetensors counts"],
    ],
    [
      ["a.safetensors", "model-2.safetensors", "model-3.safetensors"],
      true,
      [`model-2.safetensors and model-3.safetensors are not read: ${INDEX} does not name them`],
    ],
  ])("%j, with an index: %s", async (names, index, expected) => {
    expect(await notes(names, index)).toEqual(expected);
  });

  test.each([
    ["model-00001-of-00002.safetensors", /one of several shards: get model.safetensors.index.json/],
    ["model.fp16.safetensors", /to use model.fp16.safetensors, rename it to model.safetensors/],
  ])("%s alone is refused with what would do", async (name, message) => {
    const dir = temporaryFolder();
    writeRaw(dir, name, { w: tensor }, 4);
    await expect(openCheckpoint(dir)).rejects.toThrow(message);
  });
});

test("a signal that fires while shards are read stops the opening", async () => {
  const controller = new AbortController();
  const opening = openCheckpoint(fixture("llama-tied-sharded"), { signal: controller.signal });
  controller.abort();
  await expect(opening).rejects.toThrow(AbortError);
  expect(openHandles(fixture("llama-tied-sharded")) ?? 0).toBe(0);
});

function copyOfSharded(): string {
  const dir = temporaryFolder();
  cpSync(fixture("llama-tied-sharded"), dir, { recursive: true });
  return dir;
}
