// Training checkpoints: saved atomically, found again after a crash, restored into whatever tiers the state is on now.
export {
  bestCheckpoint,
  type CheckpointInfo,
  latestCheckpoint,
  listCheckpoints,
  resumableCheckpoint,
} from "./list.ts";
export type { BeforeWrite, SystemWrite } from "./output-file.ts";
export {
  type OpenedCheckpoint,
  openTrainingCheckpoint,
  type RestoreOptions,
  restoreTensors,
} from "./restore.ts";
export { checkpointBytes, type SaveStateOptions, saveCheckpoint, type TrainingState } from "./save.ts";
export type { StateTensor } from "./tensors.ts";
