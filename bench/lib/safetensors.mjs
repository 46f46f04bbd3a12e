// The headers of a Hugging Face safetensors directory, single-file or sharded: which tensor lies where. No data.
// The benches read them with their own code so that what they compare with does not depend on what they measure.
import { open, readFile } from "node:fs/promises";
import path from "node:path";

/**
 * @typedef {object} Tensor
 * @property {string} name
 * @property {"F32" | "F16" | "BF16"} dtype
 * @property {number[]} shape slowest-varying first
 * @property {string} file absolute path
 * @property {number} offset of the first byte in the file
 * @property {number} bytes
 */

/** Bytes per element of the types the benches convert. */
export const ELEMENT_BYTES = { F32: 4, F16: 2, BF16: 2 };

const MAX_HEADER = 100e6; // the limit of the format's own reader

/**
 * The JSON of a safetensors file, where its data starts, and the size of the file.
 * @param {string} file
 */
async function readHeader(file) {
  const handle = await open(file, "r");
  try {
    const { size } = await handle.stat();
    const length =
      size < 8 ? 0 : Number((await handle.read(Buffer.alloc(8), 0, 8, 0)).buffer.readBigUInt64LE());
    if (length === 0 || length > MAX_HEADER || length + 8 > size)
      throw new Error(
        `${file}: header of ${length} bytes in a file of ${size}; not a safetensors file, or cut short`,
      );
    const { buffer } = await handle.read(Buffer.alloc(length), 0, length, 8);
    return { header: JSON.parse(buffer.toString("utf8")), start: 8 + length, size };
  } finally {
    await handle.close();
  }
}

/**
 * @param {string} file
 * @returns {Promise<Tensor[]>}
 */
async function readTensors(file) {
  const { header, start, size } = await readHeader(file);
  const tensors = [];
  for (const [name, { dtype, shape, data_offsets: range }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    if (!Object.hasOwn(ELEMENT_BYTES, dtype))
      throw new Error(`${file}: tensor ${name} is ${dtype}; the converter takes F32, F16 and BF16`);
    const type = /** @type {Tensor["dtype"]} */ (dtype);
    const bytes = shape.reduce(
      (/** @type {number} */ product, /** @type {number} */ n) => product * n,
      ELEMENT_BYTES[type],
    );
    if (range[1] - range[0] !== bytes || start + range[1] > size)
      throw new Error(
        `${file}: tensor ${name} needs ${bytes} bytes, its range is ${range} of ${size - start}`,
      );
    tensors.push({ name, dtype: type, shape, file, offset: start + range[0], bytes });
  }
  return tensors;
}

/**
 * Every tensor of the checkpoint in `dir` by name.
 * @param {string} dir holds `model.safetensors`, or `model.safetensors.index.json` and its shards
 * @returns {Promise<Map<string, Tensor>>}
 */
export async function openSafetensors(dir) {
  const index = await readFile(path.join(dir, "model.safetensors.index.json"), "utf8").catch((error) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  const files = index ? new Set(Object.values(JSON.parse(index).weight_map)) : ["model.safetensors"];
  const tensors = new Map();
  for (const file of files) {
    for (const tensor of await readTensors(path.join(dir, String(file)))) tensors.set(tensor.name, tensor);
  }
  return tensors;
}
