// GGUF version 3 as bytes: header, metadata, tensor table, aligned data. Knows nothing of models.
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
import { open, rename, rm } from "node:fs/promises";

const ALIGNMENT = 32;

/** enum ggml_type of the element types the benches write. */
export const GGML_TYPE = { F32: 0, F16: 1, BF16: 30 };

/** Numbers of the metadata value types (enum gguf_type). */
const VALUE_TYPE = { u32: 4, i32: 5, f32: 6, string: 8, array: 9 };

/**
 * @typedef {object} OutTensor
 * @property {string} name
 * @property {keyof typeof GGML_TYPE} dtype
 * @property {number[]} shape slowest-varying first, as in safetensors; GGUF stores it reversed
 * @property {number} bytes
 * @property {() => AsyncIterable<Uint8Array>} chunks the data, in order; each chunk is written before the next is asked for
 */

/** @typedef {{ type: keyof typeof VALUE_TYPE, bytes: Buffer }} Value a metadata value, encoded */

/** @param {number | bigint} value */
function u64(value) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

/** @param {number} value */
function rawU32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

/** @param {string} text */
function rawString(text) {
  const bytes = Buffer.from(text, "utf8");
  return Buffer.concat([u64(bytes.length), bytes]);
}

/** @param {number} value @returns {Value} */
export const u32 = (value) => ({ type: "u32", bytes: rawU32(value) });

/** @param {number} value @returns {Value} */
export function f32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return { type: "f32", bytes };
}

/** @param {string} value @returns {Value} */
export const string = (value) => ({ type: "string", bytes: rawString(value) });

/** @param {string[]} values @returns {Value} */
export function strings(values) {
  const head = [rawU32(VALUE_TYPE.string), u64(values.length)];
  return { type: "array", bytes: Buffer.concat([...head, ...values.map(rawString)]) };
}

/** @param {number[]} values @returns {Value} */
export function i32s(values) {
  const data = Buffer.from(Int32Array.from(values).buffer);
  return { type: "array", bytes: Buffer.concat([rawU32(VALUE_TYPE.i32), u64(values.length), data]) };
}

/** @param {number} offset */
const padding = (offset) => (ALIGNMENT - (offset % ALIGNMENT)) % ALIGNMENT;

/**
 * Everything before the data.
 * @param {Record<string, Value>} metadata
 * @param {OutTensor[]} tensors
 */
function header(metadata, tensors) {
  const entries = Object.entries(metadata);
  /** @type {Buffer[]} */
  const parts = [Buffer.from("GGUF"), rawU32(3), u64(tensors.length), u64(entries.length)];
  for (const [key, { type, bytes }] of entries) parts.push(rawString(key), rawU32(VALUE_TYPE[type]), bytes);
  let offset = 0;
  for (const { name, dtype, shape, bytes } of tensors) {
    parts.push(rawString(name), rawU32(shape.length), ...[...shape].reverse().map(u64));
    parts.push(rawU32(GGML_TYPE[dtype]), u64(offset));
    offset += bytes + padding(bytes);
  }
  const bytes = Buffer.concat(parts);
  return Buffer.concat([bytes, Buffer.alloc(padding(bytes.length))]);
}

/**
 * Writes `file` through a temporary name beside it, so that a file under its own name is always whole.
 * Memory: the metadata and one chunk.
 * @param {string} file
 * @param {Record<string, Value>} metadata
 * @param {OutTensor[]} tensors
 */
export async function writeGguf(file, metadata, tensors) {
  const partial = `${file}.${process.pid}.tmp`;
  const handle = await open(partial, "wx");
  try {
    await handle.writeFile(header(metadata, tensors));
    for (const { name, bytes, chunks } of tensors) {
      let written = 0;
      for await (const chunk of chunks()) {
        await handle.writeFile(chunk);
        written += chunk.length;
      }
      if (written !== bytes) throw new Error(`${file}: tensor ${name} gave ${written} bytes of ${bytes}`);
      await handle.writeFile(Buffer.alloc(padding(bytes)));
    }
    await handle.sync();
    await handle.close();
    await rename(partial, file);
  } catch (error) {
    await handle.close().catch(() => {});
    await rm(partial, { force: true });
    throw error;
  }
}
