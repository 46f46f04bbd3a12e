// The face of adapters/: PEFT LoRA adapters opened, written, joined to their base and merged into it.
export { type LoraConfig, loraConfigJson, loraScale, parseLoraConfig } from "./config.ts";
export {
  type Adapter,
  type AdapterTensor,
  adapterTensors,
  openAdapter,
  savedName,
  writeAdapter,
} from "./files.ts";
export { type Joined, joinSaved } from "./join.ts";
export { type MergeOptions, type MergeResult, mergeAdapter } from "./merge.ts";
export { type LoraTarget, loraTargets, savedWeights } from "./targets.ts";
