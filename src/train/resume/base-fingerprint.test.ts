import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { openCheckpoint, writeSafetensors } from "../../formats/index.ts";
import { temporaryFolder } from "../../formats/testing.ts";
import { modelFingerprint } from "./base-fingerprint.ts";

async function model(elements = 1000): Promise<string> {
  const file = join(temporaryFolder(), "model.safetensors");
  const data = new Uint8Array(elements * 4).map((_, i) => i % 251);
  await writeSafetensors(file, [{ name: "w", dtype: "f32", shape: [elements], data }]);
  return file;
}
const config = { model_type: "llama", rope_theta: 10000, _name_or_path: "a" };
const of = async (file: string, other: object = config) =>
  modelFingerprint(await openCheckpoint(file), other as Record<string, unknown>);

test("a copy is the same, wherever it lies and whatever order its config has", async () => {
  const file = await model();
  const copy = join(temporaryFolder(), "model.safetensors");
  writeFileSync(copy, readFileSync(file));
  expect(await of(copy, { _name_or_path: "b", rope_theta: 10000, model_type: "llama" })).toEqual(
    await of(file),
  );
});

test("another config, shape or value is another model, and which of them is told", async () => {
  const file = await model();
  const before = await of(file);
  expect((await of(file, { ...config, rope_theta: 5 })).config).not.toBe(before.config);
  expect((await of(await model(1001))).tensors).not.toBe(before.tensors);
  const bytes = readFileSync(file);
  bytes[bytes.length - 1600]! ^= 1; // a small model is read whole
  writeFileSync(file, bytes);
  const after = await of(file);
  expect(after.values).not.toBe(before.values);
  expect([after.config, after.tensors]).toEqual([before.config, before.tensors]);
});

test("of a large tensor samples from its first to its last byte are read", async () => {
  const file = await model(20 * 2 ** 20);
  const before = await of(file);
  const bytes = readFileSync(file);
  for (const at of [bytes.length - 1, bytes.length - 80 * 2 ** 20]) {
    const changed = Buffer.from(bytes);
    changed[at]! ^= 1;
    writeFileSync(file, changed);
    expect((await of(file)).values, String(at)).not.toBe(before.values);
  }
});
