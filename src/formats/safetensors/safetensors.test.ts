import { execFileSync } from "node:child_process";
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { CheckpointError, IoError } from "../../base/errors.ts";
import { cannotProve } from "../../base/testing-unproven.ts";
import { fixture, openHandles, rejection, temporaryFolder, writeRaw } from "../testing.ts";
import { readSafetensors } from "./safetensors.ts";

const F32 = (shape: number[], begin: number, end: number) => ({
  dtype: "F32",
  shape,
  data_offsets: [begin, end],
});

describe("a well-formed file", () => {
  test("gives names, types, shapes and file ranges in the order of the bytes", async () => {
    const header = {
      __metadata__: { format: "pt", made_by: "hand" },
      second: { dtype: "BF16", shape: [2, 3], data_offsets: [4, 16] },
      scalar: F32([], 0, 4),
      empty: { dtype: "I64", shape: [0, 7], data_offsets: [16, 16] },
    };
    const path = writeRaw(temporaryFolder(), "a.safetensors", header, 16);
    const read = await readSafetensors(path);
    const start = 8 + JSON.stringify(header).length;
    expect(read.tensors).toEqual([
      { name: "scalar", dtype: "f32", shape: [], offset: start, bytes: 4 },
      { name: "second", dtype: "bf16", shape: [2, 3], offset: start + 4, bytes: 12 },
      { name: "empty", dtype: "i64", shape: [0, 7], offset: start + 16, bytes: 0 },
    ]);
    expect(read.metadata).toEqual({ format: "pt", made_by: "hand" });
    expect(read.file).toMatchObject({ path, size: start + 16 });
  });

  test("made by the reference implementation", async () => {
    const read = await readSafetensors(join(fixture("gpt2"), "model.safetensors"));
    expect(read.tensors.length).toBe(40);
    expect(read.metadata).toEqual({ format: "pt" });
    expect(read.tensors.find(({ name }) => name === "transformer.h.0.attn.c_attn.weight")).toEqual({
      name: "transformer.h.0.attn.c_attn.weight",
      dtype: "f32",
      shape: [64, 192],
      offset: 8 + 3752 + 768,
      bytes: 64 * 192 * 4,
    });
  });

  test("may name a tensor __proto__ and pad its header with spaces", async () => {
    const path = writeRaw(
      temporaryFolder(),
      "a.safetensors",
      `{"__proto__":${JSON.stringify(F32([1], 0, 4))}}   `,
      4,
    );
    expect((await readSafetensors(path)).tensors.map(({ name }) => name)).toEqual(["__proto__"]);
  });

  test("of 131 GiB is read from its header alone", async () => {
    const bytes = 131 * 2 ** 30;
    const path = writeRaw(temporaryFolder(), "a.safetensors", { w: F32([bytes / 4], 0, bytes) });
    const size = 8 + JSON.stringify({ w: F32([bytes / 4], 0, bytes) }).length + bytes;
    try {
      truncateSync(path, size);
    } catch {
      cannotProve("the file system does not hold sparse files of 131 GiB");
    }
    const read = await readSafetensors(path);
    expect(read.file.size).toBe(size);
    expect(read.tensors[0]?.bytes).toBe(bytes);
  });
});

describe("a malformed file is refused with the place and the numbers", () => {
  // [what is wrong, header, bytes of data, tensor, message]
  const cases: [string, unknown, number, string | undefined, string][] = [
    ["not an object", "[1, 2]", 0, undefined, 'the header does not begin with "{" but with "[1, 2]"'],
    ["not JSON", "{]", 0, undefined, 'the header has "]" at character 1'],
    ["two objects", "{}{}", 0, undefined, 'the header has "{" at character 2'],
    ["cut-off JSON", '{"a":', 0, undefined, "the header ends at character 5"],
    [
      "a name that is there twice",
      `{"a":${JSON.stringify(F32([1], 0, 4))},"\\u0061":1}`,
      4,
      "a",
      'has "a" twice',
    ],
    [
      "a field that is there twice",
      '{"a":{"dtype":"F32","dtype":"F16"}}',
      4,
      "a",
      'its description has "dtype" twice',
    ],
    ["metadata that is no map", '{"__metadata__":[]}', 0, undefined, '__metadata__ has "[" at character 0'],
    ["metadata that is no string", { __metadata__: { n: 1 } }, 0, undefined, 'not a string at "n"'],
    ["metadata that is there twice", '{"__metadata__":{},"__metadata__":{}}', 0, "__metadata__", "twice"],
    ["half a surrogate pair", '{"\\ud800":1}', 0, "\ud800", "half a surrogate pair"],
    ["a tensor that is no object", { a: 5 }, 0, "a", 'its description has "5" at character 0'],
    ["nonsense inside", '{"a":{"dtype":"F32","x":nonsense}}', 0, "a", '"x" is not valid JSON'],
    ["a description without end", { a: { x: "y".repeat(70_000) } }, 0, "a", "more than 65536"],
    ["no shape", { a: { dtype: "F32", data_offsets: [0, 4] } }, 4, "a", "shape (missing) is not a list"],
    ["a negative shape", { a: F32([-1], 0, 4) }, 4, "a", "shape [-1] is not a list of natural numbers"],
    ["a fractional shape", { a: F32([1.5], 0, 6) }, 6, "a", "shape [1.5] is not a list of natural numbers"],
    ["a shape of text", { a: { ...F32([], 0, 4), shape: ["1"] } }, 4, "a", 'shape ["1"] is not a list'],
    ["an overflowing shape", { a: F32([2 ** 30, 2 ** 30], 0, 4) }, 4, "a", "overflows: more than 2^53 bytes"],
    ["an overflow hidden by a zero", { a: F32([2 ** 50, 2 ** 50, 0], 0, 0) }, 0, "a", "overflows"],
    ["no offsets", { a: { dtype: "F32", shape: [1] } }, 4, "a", "data_offsets (missing) is not a pair"],
    [
      "three offsets",
      { a: { ...F32([1], 0, 4), data_offsets: [0, 4, 8] } },
      4,
      "a",
      "[0, 4, 8] is not a pair",
    ],
    [
      "negative offsets",
      { a: F32([1], -4, 0) },
      4,
      "a",
      "data_offsets [-4, 0] is not a pair of natural numbers",
    ],
    [
      "infinite offsets",
      '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1e999]}}',
      4,
      "a",
      "is not a pair",
    ],
    ["reversed offsets", { a: F32([1], 4, 0) }, 4, "a", "data_offsets [4, 0] are reversed"],
    [
      "offsets beyond the data",
      { a: F32([1], 0, 4), b: F32([1], 96, 100) },
      8,
      "b",
      "outside the 8 bytes of data",
    ],
    [
      "a length against shape and dtype",
      { a: F32([3], 0, 8) },
      8,
      "a",
      "hold 8 bytes, shape [3] of F32 needs 12",
    ],
    ["overlapping ranges", { a: F32([2], 0, 8), b: F32([2], 4, 12) }, 12, "b", "overlap 4 bytes of tensor a"],
    ["the same range twice", { a: F32([1], 0, 4), b: F32([1], 0, 4) }, 4, "b", "overlap 4 bytes of tensor a"],
    ["a hole", { a: F32([1], 0, 4), b: F32([1], 8, 12) }, 12, "b", "bytes 4 to 8 belong to no tensor"],
    ["bytes before the first tensor", { a: F32([1], 4, 8) }, 8, "a", "bytes 0 to 4 belong to no tensor"],
    [
      "bytes after the last tensor",
      { a: F32([1], 0, 4) },
      9,
      undefined,
      "5 bytes at the end belong to no tensor",
    ],
    ["data without tensors", {}, 3, undefined, "3 bytes at the end belong to no tensor"],
    ...["BOOL", "U8", "F8_E4M3", "F8_E5M2", "U32", "C64", "NEW", "f32", "float32", "Q4_K"].map(
      (dtype): [string, unknown, number, string | undefined, string] => [
        `dtype ${dtype}`,
        { a: { dtype, shape: [4], data_offsets: [0, 4] } },
        4,
        "a",
        `dtype ${dtype} is not supported`,
      ],
    ),
    ["a dtype that is no text", { a: { ...F32([1], 0, 4), dtype: 7 } }, 4, "a", "dtype 7 is not a string"],
  ];

  test.each(cases)("%s", async (_, header, data, tensor, message) => {
    const dir = temporaryFolder();
    const path = writeRaw(dir, "bad.safetensors", header, data);
    const error = await rejection(readSafetensors(path));
    expect(error).toBeInstanceOf(CheckpointError);
    const { message: text, file, tensor: named } = error as CheckpointError;
    expect(text).toContain(message);
    expect(text).toContain(path);
    expect(file).toBe(path);
    expect(named).toBe(tensor);
    expect(openHandles(dir) ?? 0).toBe(0);
  });

  test.each([31, 16, 1, 0])(
    "data cut off after %i of 32 bytes says what there is and should be",
    async (left) => {
      const header = { a: F32([4], 0, 16), b: F32([2], 16, 24), c: F32([2], 24, 32) };
      const start = 8 + JSON.stringify(header).length;
      const path = writeRaw(temporaryFolder(), "cut.safetensors", header, left);
      await expect(readSafetensors(path)).rejects.toThrow(
        `is ${start + left} bytes, its header describes ${start + 32}: the download is incomplete`,
      );
    },
  );

  test.each([
    [0, "is 0 bytes, too short for a safetensors file: the download is incomplete"],
    [7, "is 7 bytes, too short"],
  ])("a file of %i bytes", async (bytes, message) => {
    const path = join(temporaryFolder(), "short.safetensors");
    writeFileSync(path, Buffer.alloc(bytes));
    await expect(readSafetensors(path)).rejects.toThrow(message);
  });

  test.each([
    [0n, "the header length is 0"],
    [100_000_001n, "the header length is 100000001 bytes, the format allows 100000000"],
    [2n ** 64n - 1n, "the header length is 18446744073709551615 bytes"],
    [3n, "is 10 bytes, its header alone needs 11: the download is incomplete"],
  ])("a header length of %i", async (length, message) => {
    const bytes = Buffer.from("........{}");
    bytes.writeBigUInt64LE(length);
    const path = join(temporaryFolder(), "length.safetensors");
    writeFileSync(path, bytes);
    await expect(readSafetensors(path)).rejects.toThrow(message);
  });

  test("a header that is not UTF-8", async () => {
    const bytes = Buffer.from("........{\xff}", "latin1");
    bytes.writeBigUInt64LE(3n);
    const path = join(temporaryFolder(), "latin.safetensors");
    writeFileSync(path, bytes);
    await expect(readSafetensors(path)).rejects.toThrow("the header is not UTF-8 text");
  });
});

describe("what is not a file", () => {
  test("a missing file, a folder and a named pipe are errors, not waits", async () => {
    const dir = temporaryFolder();
    await expect(readSafetensors(join(dir, "none"))).rejects.toThrow("does not exist");
    await expect(readSafetensors(dir)).rejects.toThrow("is not a regular file");
    await expect(readSafetensors("a\0b")).rejects.toThrow(IoError);
    if (process.platform === "win32") cannotProve("no named pipes in folders");
    execFileSync("mkfifo", [join(dir, "pipe")]);
    await expect(readSafetensors(join(dir, "pipe"))).rejects.toThrow("is not a regular file");
  });

  test("an aborted signal stops before the file is opened", async () => {
    const signal = AbortSignal.abort("enough");
    await expect(readSafetensors("does-not-matter", { signal })).rejects.toMatchObject({
      name: "AbortError",
      cause: "enough",
    });
  });
});

describe("ignored tensors", () => {
  const header = {
    "h.0.attn.mask": { dtype: "BOOL", shape: [4], data_offsets: [0, 4] },
    "h.0.w": F32([1], 4, 8),
  };

  test("are left out whatever their type, and their bytes still count", async () => {
    const path = writeRaw(temporaryFolder(), "a.safetensors", header, 8);
    const read = await readSafetensors(path, { ignore: [/\.attn\.mask$/g] });
    expect(read.tensors.map(({ name }) => name)).toEqual(["h.0.w"]);
    expect(read.ignored).toEqual(["h.0.attn.mask"]);
  });

  test("must still have a range of their own", async () => {
    const path = writeRaw(temporaryFolder(), "a.safetensors", { ...header, "h.0.w": F32([1], 0, 4) }, 8);
    await expect(readSafetensors(path, { ignore: [/mask/] })).rejects.toThrow("overlap 4 bytes");
  });
});
