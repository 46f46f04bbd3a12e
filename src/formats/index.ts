// The face of checkpoint/: open, judge, read and write tensors in somebody's file format.

export { readConfigJson, readJsonIfPresent, readJsonObject } from "./files/json-files.ts";
export { type OpenOptions, openCheckpoint } from "./open.ts";
export { readTensor } from "./safetensors/read-tensor.ts";
export {
  type ShardedOptions,
  type TensorSource,
  type WriteOptions,
  writeSafetensors,
  writeSharded,
} from "./safetensors/writer.ts";
export { checkSkeleton, type ExpectedTensor } from "./skeleton.ts";
export { ModelModules } from "./surplus.ts";
export type { Checkpoint, CheckpointFile, TensorEntry } from "./types.ts";
