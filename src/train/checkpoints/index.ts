// Training checkpoints: saved atomically, found again after a crash, restored into whatever tiers the state is on now.
export {
  bestCheckpoint,
  type CheckpointInfo,
  latestCheckpoint,
  listCheckpoints,
} from "./list.ts";
export type { BeforeWrite, SystemWrite } from "./output-file.ts";
export {
  type OpenedCheckpoint,
  openTrainingCheckpoint,
  type RestoreOptions,
  restoreTensors,
} from "./restore.ts";
export { type SaveOptions, saveCheckpoint, type TrainingState } from "./save.ts";
export type { StateTensor } from "./tensors.ts";
