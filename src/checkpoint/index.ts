// The face of checkpoint/: open, judge, read and write tensors in somebody's file format.

export { readConfigJson, readJsonIfPresent, readJsonObject } from "./json-files.ts";
export { type OpenOptions, openCheckpoint } from "./open.ts";
export { readTensor } from "./read-tensor.ts";
export { checkSkeleton, type ExpectedTensor } from "./skeleton.ts";
export { ModelModules } from "./surplus.ts";
export type { Checkpoint, CheckpointFile, TensorEntry } from "./types.ts";
export {
  type ShardedOptions,
  type TensorSource,
  type WriteOptions,
  writeSafetensors,
  writeSharded,
} from "./writer.ts";
