// What a checkpoint is to the rest of the program: tensors known by name, type, shape and file range. No data.
import type { DType } from "../backend/ggml/dtypes.ts";

/** One tensor of a checkpoint: where its bytes are, not the bytes. */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: DType;
  /** Dimensions, slowest-varying first, as safetensors and torch write them: [rows, columns]. */
  readonly shape: readonly number[];
  /** Index into {@link Checkpoint.files}. */
  readonly file: number;
  /** Byte offset of the first element from the start of the file. */
  readonly offset: number;
  /** Length in bytes. */
  readonly bytes: number;
}

/** A tensor of a type that nothing here computes with, such as a mask of booleans or a float of eight bits. */
export interface ForeignTensor {
  readonly name: string;
  /** The type, as safetensors calls it. */
  readonly type: string;
  readonly shape: readonly number[];
  /** Index into {@link Checkpoint.files}. */
  readonly file: number;
}

/** A file of a checkpoint with what is needed to notice that it changed. */
export interface CheckpointFile {
  /** Absolute path. */
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  /** Modification time, milliseconds. */
  readonly mtimeMs: number;
}

/** The skeleton of a checkpoint: every tensor's name, type, shape and file range, read from headers alone. */
export interface Checkpoint {
  /** Absolute path of the directory (or of the single file). */
  readonly path: string;
  readonly format: "safetensors" | "gguf";
  readonly files: readonly CheckpointFile[];
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** `__metadata__` of the safetensors header(s), merged. */
  readonly metadata: Readonly<Record<string, string>>;
  /** By name. Only where the checkpoint was opened as tolerant: elsewhere they are an error. */
  readonly foreign?: ReadonlyMap<string, ForeignTensor>;
  /** Tensors about which index and shards disagree, and how; again only where it was opened as tolerant. */
  readonly disputed?: ReadonlyMap<string, string>;
  /** What opening it found and did not use: see base/notes.ts. */
  readonly notes?: readonly string[];
}
