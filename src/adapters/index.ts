// The face of adapters/: PEFT LoRA adapters opened, written, joined to their base and merged into it.
export {
  LORA_KEYS,
  type LoraConfig,
  loraConfigJson,
  loraScale,
  parseLoraConfig,
  unknownKeys,
} from "./config.ts";
export {
  type Adapter,
  type AdapterTensor,
  adapterTensors,
  openAdapter,
  writeAdapter,
} from "./files.ts";
export { breakTies, type Joined, joinSaved } from "./join.ts";
export { type MergeOptions, type MergeResult, mergeAdapter } from "./merge.ts";
export { copyNameOf, savedName } from "./names.ts";
export { putTokenizer } from "./own-tokenizer.ts";
export { checkNames, type LoraTarget, loraTargets, savedWeights, withoutAllLinear } from "./targets.ts";
