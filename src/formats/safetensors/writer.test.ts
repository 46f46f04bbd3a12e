import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { open } from "node:fs/promises";
import { basename, join } from "node:path";
import fc from "fast-check";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { DTYPE_NAMES, DTYPES, type DType, type DTypeInfo } from "../../backend/ggml/dtypes.ts";
import { AbortError, CheckpointError, IoError } from "../../base/errors.ts";
import { openCheckpoint, readTensor, type TensorSource, writeSafetensors, writeSharded } from "../index.ts";
import { fixture, leftover, openHandles, rejection, temporaryFolder } from "../testing.ts";

vi.setConfig({ testTimeout: 120_000 });

const WRITABLE = DTYPE_NAMES.filter((name) => (DTYPES[name] as DTypeInfo).safetensors !== undefined);

/** A tensor of `elements` values whose bytes count up from `start`. */
function counting(name: string, elements: number, start = 0, dtype: DType = "i8"): TensorSource {
  const data = Uint8Array.from({ length: elements * DTYPES[dtype].bytes }, (_, i) => start + i);
  return { name, dtype, shape: [elements], data };
}

async function* chunked(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  const chunk = new Uint8Array(size); // the same memory every time, as a streaming source would
  for (let at = 0; at < bytes.length; at += size) {
    const part = bytes.subarray(at, at + size);
    chunk.set(part);
    yield chunk.subarray(0, part.length);
  }
}

/** Every tensor of a fixture, with its data. */
async function tensorsOf(path: string): Promise<TensorSource[]> {
  const checkpoint = await openCheckpoint(path);
  const read = [...checkpoint.tensors.values()].map(async ({ name, dtype, shape }) => {
    return { name, dtype, shape, data: await readTensor(checkpoint, name) };
  });
  return Promise.all(read);
}

const tensors = fc.uniqueArray(
  fc.record({
    name: fc.string({ unit: "grapheme" }).filter((name) => name !== "__metadata__"),
    dtype: fc.constantFrom(...WRITABLE),
    shape: fc.array(fc.nat(5), { maxLength: 4 }),
    seed: fc.nat(255),
    chunk: fc.option(fc.integer({ min: 1, max: 64 })),
  }),
  { selector: ({ name }) => name, maxLength: 6 },
);

function withData({
  name,
  dtype,
  shape,
  seed,
  chunk,
}: {
  name: string;
  dtype: DType;
  shape: number[];
  seed: number;
  chunk: number | null;
}) {
  const bytes = shape.reduce((a, b) => a * b, DTYPES[dtype].bytes as number);
  const whole = Uint8Array.from({ length: bytes }, (_, i) => seed + 7 * i);
  return { source: { name, dtype, shape, data: chunk === null ? whole : chunked(whole, chunk) }, whole };
}

describe("writeSafetensors", () => {
  test("writes what the reference implementation wrote, byte for byte", async () => {
    for (const name of ["gpt2", "llama", "qwen2"]) {
      const dir = temporaryFolder();
      const path = join(dir, "model.safetensors");
      await writeSafetensors(path, (await tensorsOf(fixture(name))).reverse(), {
        metadata: { format: "pt" },
      });
      expect(readFileSync(path).equals(readFileSync(join(fixture(name), "model.safetensors")))).toBe(true);
      expect(readdirSync(dir)).toEqual(["model.safetensors"]);
    }
  });

  test("what is written is read back, whatever the names, types, shapes and chunks", async () => {
    const path = join(temporaryFolder(), "a.safetensors");
    const metadata = fc.option(fc.dictionary(fc.string({ unit: "grapheme" }), fc.string()), {
      nil: undefined,
    });
    await fc.assert(
      fc.asyncProperty(tensors, metadata, async (specs, metadata) => {
        const made = specs.map(withData);
        await writeSafetensors(
          path,
          made.map(({ source }) => source),
          { metadata },
        );
        const checkpoint = await openCheckpoint(path);
        expect(checkpoint.tensors.size).toBe(specs.length);
        expect(checkpoint.metadata).toEqual(metadata ?? {});
        for (const { source, whole } of made) {
          const entry = checkpoint.tensors.get(source.name);
          expect(entry).toMatchObject({ dtype: source.dtype, shape: source.shape });
          expect(entry!.offset % DTYPES[source.dtype].bytes).toBe(0);
          expect(Buffer.from(await readTensor(checkpoint, source.name)).equals(whole)).toBe(true);
        }
      }),
      { numRuns: 100 },
    );
  });

  test("zeros take no room on the device", async () => {
    const path = join(temporaryFolder(), "a.safetensors");
    const hole: TensorSource = { name: "hole", dtype: "f32", shape: [2 ** 20], data: "zeros" };
    await writeSafetensors(path, [hole, counting("i", 3, 5), { ...hole, name: "last", dtype: "i8" }]);
    const checkpoint = await openCheckpoint(path);
    expect((await readTensor(checkpoint, "hole")).every((byte) => byte === 0)).toBe(true);
    expect([...(await readTensor(checkpoint, "i"))]).toEqual([5, 6, 7]);
    expect(checkpoint.tensors.get("last")?.bytes).toBe(2 ** 20);
  });

  test("progress counts bytes of data up to all of them", async () => {
    const seen: [number, number][] = [];
    const source = { name: "w", dtype: "i8", shape: [10], data: chunked(new Uint8Array(10), 4) } as const;
    await writeSafetensors(join(temporaryFolder(), "a"), [source, counting("x", 2)], {
      progress: (done, total) => seen.push([done, total]),
    });
    expect(seen).toEqual([4, 8, 10, 12].map((done) => [done, 12]));
  });

  const bad: [string, TensorSource[], string][] = [
    ["a name given twice", [counting("w", 1), counting("w", 1)], "tensor w: is given twice"],
    ["the name of the metadata", [counting("__metadata__", 1)], "the name that the format keeps"],
    ["half a surrogate pair", [counting("\udc00", 1)], "half a surrogate pair"],
    [
      "a quantized type",
      [{ name: "w", dtype: "q4_k", shape: [256], data: "zeros" }],
      "dtype q4_k cannot be written",
    ],
    [
      "a negative shape",
      [{ name: "w", dtype: "i8", shape: [-1], data: "zeros" }],
      "shape [-1] of i8 is not one",
    ],
    [
      "a fractional shape",
      [{ name: "w", dtype: "i8", shape: [0.5], data: "zeros" }],
      "shape [0.5] of i8 is not one",
    ],
    [
      "an overflowing shape",
      [{ name: "w", dtype: "i8", shape: [2 ** 40, 2 ** 40], data: "zeros" }],
      "is not one",
    ],
    [
      "too little data",
      [{ ...counting("w", 3), shape: [4] }],
      "its data is 3 bytes, shape [4] of i8 needs 4",
    ],
    ["too much data", [{ ...counting("w", 5), shape: [4] }], "its data is 5 bytes, shape [4] of i8 needs 4"],
    [
      "a stream that ends early",
      [{ name: "w", dtype: "i8", shape: [4], data: chunked(new Uint8Array(3), 2) }],
      "its data ended after 3 bytes, shape [4] of i8 needs 4",
    ],
    [
      "a stream that does not end",
      [{ name: "w", dtype: "i8", shape: [4], data: chunked(new Uint8Array(6), 3) }],
      "its data is 6 bytes or more, shape [4] of i8 needs 4",
    ],
  ];
  test.each(bad)("refuses %s, and leaves what was there as it was", async (_, sources, message) => {
    const dir = temporaryFolder();
    const path = join(dir, "a.safetensors");
    writeFileSync(path, "precious");
    const error = await rejection(writeSafetensors(path, sources));
    expect(error).toBeInstanceOf(CheckpointError);
    expect((error as CheckpointError).message).toContain(message);
    expect((error as CheckpointError).file).toBe(path);
    expect(readdirSync(dir)).toEqual(["a.safetensors"]);
    expect(readFileSync(path, "utf8")).toBe("precious");
    expect(openHandles(dir) ?? 0).toBe(0);
  });

  test("an error of the source, and an abort, leave nothing behind and end the source", async () => {
    const dir = temporaryFolder();
    const path = join(dir, "a.safetensors");
    const controller = new AbortController();
    let ended = 0;
    async function* source(then: () => void): AsyncGenerator<Uint8Array> {
      try {
        yield new Uint8Array(4);
        then();
        yield new Uint8Array(4);
      } finally {
        ended++;
      }
    }
    const fails = source(() => {
      throw new RangeError("the source broke");
    });
    const spec = { name: "w", dtype: "i8", shape: [8] } as const;
    await expect(writeSafetensors(path, [{ ...spec, data: fails }])).rejects.toThrow(RangeError);
    const aborts = source(() => controller.abort());
    const { signal } = controller;
    await expect(writeSafetensors(path, [{ ...spec, data: aborts }], { signal })).rejects.toThrow(AbortError);
    expect(ended).toBe(2);
    expect(readdirSync(dir)).toEqual([]);
    expect(openHandles(dir) ?? 0).toBe(0);
  });

  test("what cannot fit on the device is refused before anything is written", async () => {
    const dir = temporaryFolder();
    const bytes = 2 ** 52;
    const data = chunked(new Uint8Array(1), 1);
    const error = await rejection(
      writeSafetensors(join(dir, "a"), [{ name: "w", dtype: "i8", shape: [bytes], data }]),
    );
    expect(error).toBeInstanceOf(IoError);
    expect((error as IoError).message).toMatch(/needs 45035996\d+ bytes, the device has \d+ bytes free/);
    expect(readdirSync(dir)).toEqual([]);
  });

  test("a device that fills up while writing says how many bytes were needed", async () => {
    const dir = temporaryFolder();
    const path = join(dir, "a.safetensors");
    const handle = await open(join(dir, "any"), "w");
    const full = Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
    const write = vi.spyOn(Object.getPrototypeOf(handle), "write").mockRejectedValue(full);
    onTestFinished(() => write.mockRestore());
    await handle.close();
    rmSync(join(dir, "any"));
    const error = await rejection(writeSafetensors(path, [counting("w", 100)]));
    expect(error).toBeInstanceOf(IoError);
    expect((error as IoError).message).toMatch(/no space left on the device: 1\d\d bytes are needed/);
    expect(readdirSync(dir)).toEqual([]);
  });

  test("a folder that is missing or in the way is an IoError", async () => {
    const dir = temporaryFolder();
    await expect(writeSafetensors(join(dir, "no", "a"), [])).rejects.toThrow(IoError);
    mkdirSync(join(dir, "b"));
    await expect(writeSafetensors(join(dir, "b"), [])).rejects.toThrow("could not be renamed");
    expect(readdirSync(dir)).toEqual(["b"]);
  });

  test("what lies under names that other programs guess is neither followed nor overwritten", async () => {
    const dir = temporaryFolder();
    const path = join(dir, "a.safetensors");
    writeFileSync(join(dir, "precious"), "kept");
    symlinkSync("precious", `${path}.tmp-${process.pid}`);
    await writeSafetensors(path, [counting("w", 4)]);
    expect(readFileSync(join(dir, "precious"), "utf8")).toBe("kept");
    expect((await openCheckpoint(path)).tensors.get("w")?.shape).toEqual([4]);
  });

  test("what a process that is gone left is removed, what another is writing stays", async () => {
    const dir = temporaryFolder();
    const path = join(dir, "a.safetensors");
    const [gone, elsewhere] = [leftover(path, "gone"), leftover(path, "elsewhere")];
    for (const name of [gone, elsewhere]) writeFileSync(name, "half");
    await writeSafetensors(path, [counting("w", 4)]);
    expect(readdirSync(dir).sort()).toEqual(["a.safetensors", basename(elsewhere)]);
  });

  test("two writers of one file do not share a temporary file", async () => {
    const path = join(temporaryFolder(), "a.safetensors");
    const first = writeSafetensors(path, [counting("w", 4)]);
    await expect(writeSafetensors(path, [counting("w", 4)])).rejects.toThrow("is already being written");
    await first;
    await writeSafetensors(path, [counting("w", 5)]);
    expect((await openCheckpoint(path)).tensors.get("w")?.shape).toEqual([5]);
  });
});

describe("writeSharded", () => {
  const five = [1, 2, 3, 4, 5].map((i) => counting(`t${i}`, 10, i));

  test("fills shards in the order given, and the index agrees with them", async () => {
    const dir = join(temporaryFolder(), "made", "on", "the", "way");
    const files = await writeSharded(dir, [...five, counting("big", 100)], { max_shard_bytes: 25 });
    expect(files).toEqual([1, 2, 3, 4].map((i) => `model-0000${i}-of-00004.safetensors`));
    expect(JSON.parse(readFileSync(join(dir, "model.safetensors.index.json"), "utf8"))).toEqual({
      metadata: { total_parameters: 150, total_size: 150 },
      weight_map: { big: files[3], t1: files[0], t2: files[0], t3: files[1], t4: files[1], t5: files[2] },
    });
    const checkpoint = await openCheckpoint(dir);
    expect(checkpoint.metadata).toEqual({ format: "pt" });
    expect([...(await readTensor(checkpoint, "t4"))]).toEqual([4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
  });

  test("what is written is read back, whatever the shard size", async () => {
    await fc.assert(
      fc.asyncProperty(tensors, fc.integer({ min: 1, max: 4000 }), async (specs, max_shard_bytes) => {
        const dir = temporaryFolder();
        const made = specs.map(withData);
        const files = await writeSharded(
          dir,
          made.map(({ source }) => source),
          { max_shard_bytes },
        );
        const checkpoint = await openCheckpoint(dir);
        expect(checkpoint.files.map(({ path }) => path)).toEqual(files.map((name) => join(dir, name)));
        expect(checkpoint.tensors.size).toBe(specs.length);
        for (const { source, whole } of made) {
          expect(Buffer.from(await readTensor(checkpoint, source.name)).equals(whole)).toBe(true);
        }
      }),
      { numRuns: 40 },
    );
  });

  test("replaces an earlier checkpoint of any layout, and nothing else", async () => {
    const dir = temporaryFolder();
    cpSync(fixture("llama-tied-sharded"), dir, { recursive: true });
    const others = readdirSync(dir).filter((name) => !name.startsWith("model"));
    await writeSharded(dir, five, { max_shard_bytes: 30 });
    expect((await openCheckpoint(dir)).tensors.size).toBe(5);
    await writeSharded(dir, five);
    expect(readdirSync(dir).sort()).toEqual([...others, "model.safetensors"].sort());
    await writeSharded(dir, five.slice(1), { max_shard_bytes: 20 });
    expect((await openCheckpoint(dir)).tensors.size).toBe(4);
    expect(existsSync(join(dir, "model.safetensors"))).toBe(false);
  });

  test("a failure in the last shard leaves the earlier checkpoint whole", async () => {
    const dir = temporaryFolder();
    await writeSharded(dir, five, { max_shard_bytes: 10 });
    const before = readdirSync(dir);
    const broken: TensorSource = { ...counting("t5", 10), data: chunked(new Uint8Array(3), 3) };
    await expect(writeSharded(dir, [...five.slice(0, 4), broken], { max_shard_bytes: 10 })).rejects.toThrow(
      "ended after 3",
    );
    expect(readdirSync(dir)).toEqual(before);
    expect([...(await readTensor(await openCheckpoint(dir), "t5"))][0]).toBe(5);
  });

  test("repeated names are found across shards, and a shard size must be positive", async () => {
    const dir = temporaryFolder();
    await expect(writeSharded(dir, [...five, five[0]!], { max_shard_bytes: 10 })).rejects.toThrow(
      "t1: is given twice",
    );
    for (const max_shard_bytes of [0, -1, Number.NaN]) {
      await expect(writeSharded(dir, five, { max_shard_bytes })).rejects.toThrow("it must be above 0");
    }
    expect(readdirSync(dir)).toEqual([]);
  });
});

describe("readTensor", () => {
  test("names the tensor that is not there", async () => {
    const checkpoint = await openCheckpoint(fixture("llama"));
    await expect(readTensor(checkpoint, "w")).rejects.toThrow("tensor w: is not among the 30 tensors");
  });

  test("refuses a file that changed, or a range that it does not have", async () => {
    const path = join(temporaryFolder(), "a.safetensors");
    await writeSafetensors(path, [counting("w", 8)]);
    const checkpoint = await openCheckpoint(path);
    const entry = { ...checkpoint.tensors.get("w")!, offset: statSync(path).size - 3 };
    const beyond = { ...checkpoint, tensors: new Map([["w", entry]]) };
    await expect(readTensor(beyond, "w")).rejects.toThrow("5 bytes early");
    utimesSync(path, 1, 1);
    await expect(readTensor(checkpoint, "w")).rejects.toThrow("changed since the checkpoint was opened");
  });
});
