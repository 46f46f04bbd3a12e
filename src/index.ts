// The public API, nothing else.
export { type LoraConfig, parseLoraConfig } from "./adapters/index.ts";
export { type MergeOptions, type MergeResult, mergeAdapter } from "./adapters/merge.ts";
export type { FloatDType } from "./backend/ggml/dtypes.ts";
export * from "./base/errors.ts";
export type { RoomRequest } from "./base/files/room.ts";
export {
  AutoModelForCausalLM,
  type CausalLM,
  type ForwardOutput,
  type ModelStatistics,
  type PretrainedOptions,
} from "./generate/causal-lm.ts";
export type { FinishReason } from "./generate/decode-loop.ts";
export type { GenerateOptions, GenerationOptions, PromptProgress, Streamer } from "./generate/options.ts";
export type { StreamPiece } from "./generate/streaming.ts";
export type { ChatMessage, ChatTemplateOptions } from "./generate/text/chat-template.ts";
export type { StreamerTokenizer } from "./generate/text/text-streamer.ts";
export { TextStreamer, type TextStreamerOptions } from "./generate/text/text-streamer.ts";
export type { BatchEncoding, DecodeOptions, EncodeOptions } from "./generate/text/tokenizer.ts";
export { AutoTokenizer } from "./generate/text/tokenizer.ts";
export type { BeforeRead, DirectFile, ReadOptions, SystemRead } from "./memory/io/direct-io.ts";
export type { FileLock } from "./memory/locks/file-lock.ts";
export type { BeforeTransfer, SystemTransfer } from "./memory/stores/state-file.ts";
export type { Tier } from "./memory/tiers.ts";
export type {
  CacheDType,
  ComputeMap,
  DeviceMap,
  MaxMemory,
  TierName,
  WeightDType,
} from "./plan/options.ts";
export type { FixedBytes, HostShare, Plan, Site } from "./plan/plan.ts";
export type { MemoryReader, ProbedMemory, ResidentMemory } from "./report/memory-probe.ts";
export { MemoryProbe } from "./report/memory-probe.ts";
export type { TrainingRecord } from "./report/training-log.ts";
export type { EngineMemory, ThreadUses } from "./runtime/engine.ts";
export type { LoadProgress } from "./runtime/weights/loader.ts";
export type { BeforeWrite, SystemWrite } from "./train/checkpoints/output-file.ts";
export type { RowTokenizer } from "./train/data/encode.ts";
export type { Example } from "./train/data/example.ts";
export type { DataLoaderOptions } from "./train/data/loader.ts";
export { fit } from "./train/fit/fit.ts";
export type { DataPaths, FitOptions } from "./train/fit/fit-options.ts";
export type { FitResult, ResumeInfo } from "./train/fit/fit-result.ts";
export type { ScheduleName, ScheduleOptions } from "./train/fit/schedule.ts";
export type {
  KeepActivations,
  LoraOptions,
  OffloadOptions,
  OptimizerName,
  Precision,
  TrainerOptions,
} from "./train/open/options.ts";
export type { TrainingBatch } from "./train/step/batch.ts";
export { Trainer } from "./train/trainer.ts";
export type {
  ExportOptions,
  ResumeOptions,
  SaveOptions,
  StepResult,
  TrainerFace,
  TrainingPlanSummary,
} from "./train/trainer-face.ts";
