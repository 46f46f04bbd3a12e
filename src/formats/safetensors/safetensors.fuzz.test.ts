// Whatever the bytes, reading them gives a consistent file or a CheckpointError, and every handle is closed.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test, vi } from "vitest";
import { CheckpointError } from "../../base/errors.ts";
import { openHandles, safetensorsBytes, temporaryFolder } from "../testing.ts";
import { readSafetensors } from "./safetensors.ts";

// Thousands of small files: how long that takes is no statement about the reader.
vi.setConfig({ testTimeout: 120_000 });

const VALID = safetensorsBytes(
  {
    __metadata__: { format: "pt" },
    "a.weight": { dtype: "F32", shape: [2, 2], data_offsets: [0, 16] },
    "b.weight": { dtype: "BF16", shape: [3], data_offsets: [16, 22] },
    "c\n\u00e9\ud83d\ude00": { dtype: "I8", shape: [], data_offsets: [22, 23] },
  },
  23,
);

/** Reads `bytes` as a file; true if they were accepted. Throws if anything but acceptance or a CheckpointError happens. */
async function accepts(dir: string, bytes: Uint8Array): Promise<boolean> {
  const path = join(dir, "fuzz.safetensors");
  writeFileSync(path, bytes);
  try {
    const { tensors, ignored } = await readSafetensors(path);
    expect(ignored).toEqual([]);
    // Accepted means: the ranges tile the file from the end of the header to the end of the file.
    let at = 8 + Number(Buffer.from(bytes).readBigUInt64LE());
    for (const { offset, bytes: length } of tensors) {
      expect(offset).toBe(at);
      at += length;
    }
    expect(at).toBe(bytes.length);
    return true;
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    expect(error.file).toBe(path);
    return false;
  } finally {
    expect(openHandles(dir) ?? 0).toBe(0);
  }
}

test("the file that is mutated below is valid", async () => {
  expect(await accepts(temporaryFolder(), VALID)).toBe(true);
});

test("random bytes", async () => {
  const dir = temporaryFolder();
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), async (bytes) => void (await accepts(dir, bytes))),
    { numRuns: 300 },
  );
});

test("random text under a correct length", async () => {
  const dir = temporaryFolder();
  const text = fc.oneof(
    fc.json(),
    fc.string({ unit: "binary" }),
    fc
      .array(fc.constantFrom("{", "}", "[", "]", ":", ",", '"', "\\", "1", "a", " ", '"a":'))
      .map((s) => `{${s.join("")}`),
  );
  await fc.assert(
    fc.asyncProperty(text, async (header) => void (await accepts(dir, safetensorsBytes(header)))),
    { numRuns: 500 },
  );
});

test("bytes of a valid file changed, removed and inserted", async () => {
  const dir = temporaryFolder();
  const edit = fc.record({
    at: fc.nat(VALID.length - 1),
    remove: fc.integer({ min: 0, max: 3 }),
    insert: fc.oneof(
      fc.uint8Array({ maxLength: 2 }),
      fc.constantFrom(...'{}[]:,"\\0123456789eE.- '.split("")).map((c) => Buffer.from(c)),
    ),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(edit, { minLength: 1, maxLength: 3 }), async (edits) => {
      let bytes: Buffer = VALID;
      for (const { at, remove, insert } of edits) {
        bytes = Buffer.concat([bytes.subarray(0, at), insert, bytes.subarray(at + remove)]);
      }
      await accepts(dir, bytes);
    }),
    { numRuns: 1000 },
  );
});

test("descriptions with plausible but random fields", async () => {
  const dir = temporaryFolder();
  const number = fc.oneof(fc.nat(12), fc.integer(), fc.double(), fc.constantFrom(2 ** 53, -0, "4", null));
  const description = fc.record(
    {
      dtype: fc.oneof(fc.constantFrom("F32", "BF16", "I8", "F64", "U8", "BOOL"), fc.jsonValue()),
      shape: fc.oneof(fc.array(number, { maxLength: 3 }), fc.jsonValue()),
      data_offsets: fc.oneof(fc.array(number, { minLength: 2, maxLength: 2 }), fc.jsonValue()),
    },
    { requiredKeys: [] },
  );
  await fc.assert(
    fc.asyncProperty(
      fc.dictionary(fc.string(), description, { maxKeys: 3 }),
      fc.nat(12),
      async (header, data) => {
        await accepts(dir, safetensorsBytes(header, data));
      },
    ),
    { numRuns: 500 },
  );
});

test("every place where a valid file can be cut off", async () => {
  const dir = temporaryFolder();
  for (let length = 0; length < VALID.length; length++) {
    expect(await accepts(dir, VALID.subarray(0, length))).toBe(false);
  }
});
