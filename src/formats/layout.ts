// Lays tensors out in a safetensors file: order, offsets and the bytes of the header. Writes nothing.
// Byte for byte what the reference implementation makes of the same tensors.

import { DTYPES, type DType, type DTypeInfo } from "../backend/ggml/dtypes.ts";
import { CheckpointError } from "../base/errors.ts";
import { LENGTH_FIELD, MAX_HEADER, METADATA_KEY, tensorBytes } from "./safetensors/safetensors.ts";

/** A tensor to be written: everything but its data. */
export interface TensorSpec {
  readonly name: string;
  readonly dtype: DType;
  /** Dimensions, slowest-varying first. */
  readonly shape: readonly number[];
}

export interface Laid<T extends TensorSpec> {
  readonly tensor: T;
  readonly bytes: number;
}

export interface Layout<T extends TensorSpec> {
  /** The length field, the JSON, and the spaces that bring the data to a multiple of 8. */
  readonly header: Uint8Array;
  /** In file order. */
  readonly tensors: readonly Laid<T>[];
  /** Bytes of the whole file. */
  readonly bytes: number;
}

/** The reference's order of types in a file: widest first so that every tensor is aligned to its element. */
const ORDER: readonly DType[] = ["i64", "f64", "f32", "i32", "bf16", "f16", "i16", "i8"];

/**
 * Lays out `tensors` in one file. Throws CheckpointError naming file and tensor for repeated or impossible names,
 * types that safetensors has no name for, impossible shapes, and a header over the format's limit.
 */
export function layOut<T extends TensorSpec>(
  path: string,
  tensors: Iterable<T>,
  metadata: Readonly<Record<string, string>> | undefined,
): Layout<T> {
  const laid = checkTensors(path, tensors);
  laid.sort(
    ({ tensor: a }, { tensor: b }) =>
      ORDER.indexOf(a.dtype) - ORDER.indexOf(b.dtype) || (a.name < b.name ? -1 : 1),
  );
  const members: string[] = [];
  if (metadata !== undefined) members.push(`${JSON.stringify(METADATA_KEY)}:${JSON.stringify(metadata)}`);
  let end = 0;
  for (const { tensor, bytes } of laid) {
    const begin = end;
    end += bytes;
    const row: DTypeInfo = DTYPES[tensor.dtype];
    const value = { dtype: row.safetensors, shape: tensor.shape, data_offsets: [begin, end] };
    members.push(`${JSON.stringify(tensor.name)}:${JSON.stringify(value)}`);
  }
  if (!Number.isSafeInteger(end)) throw new CheckpointError("would be more than 2^53 bytes", { file: path });

  const json = new TextEncoder().encode(`{${members.join(",")}}`);
  const length = Math.ceil(json.length / 8) * 8;
  if (length > MAX_HEADER) {
    throw new CheckpointError(
      `the header of ${laid.length} tensors is ${length} bytes, the format allows ${MAX_HEADER}: write shards`,
      { file: path },
    );
  }
  const header = new Uint8Array(LENGTH_FIELD + length).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(json, LENGTH_FIELD);
  return { header, tensors: laid, bytes: header.length + end };
}

/** Sizes of `tensors`, in their order. Throws CheckpointError for one that safetensors cannot hold. */
export function checkTensors<T extends TensorSpec>(path: string, tensors: Iterable<T>): Laid<T>[] {
  const seen = new Set<string>();
  const laid: Laid<T>[] = [];
  for (const tensor of tensors) {
    const { name, dtype, shape } = tensor;
    const bad = (problem: string) => new CheckpointError(problem, { file: path, tensor: name });
    if (seen.has(name)) throw bad("is given twice");
    if (name === METADATA_KEY) throw bad("has the name that the format keeps for its metadata");
    if (/\p{Surrogate}/u.test(name)) throw bad("the name holds half a surrogate pair");
    if (!ORDER.includes(dtype)) throw bad(`dtype ${dtype} cannot be written as safetensors`);
    const natural = shape.every((n) => Number.isSafeInteger(n) && n >= 0);
    const bytes = natural ? tensorBytes(dtype, shape) : undefined;
    if (bytes === undefined) throw bad(`shape [${shape}] of ${dtype} is not one a file can hold`);
    seen.add(name);
    laid.push({ tensor, bytes });
  }
  return laid;
}
