// The public API, nothing else.
export { type LoraConfig, parseLoraConfig } from "./adapters/index.ts";
export { type MergeOptions, type MergeResult, mergeAdapter } from "./adapters/merge.ts";
export * from "./errors.ts";
export {
  AutoModelForCausalLM,
  type CausalLM,
  type ForwardOutput,
  type GenerateOptions,
  type GenerationOptions,
  type ModelStatistics,
  type StreamPiece,
} from "./generate/causal-lm.ts";
export type { ChatMessage } from "./generate/chat-template.ts";
export type { FinishReason } from "./generate/decode-loop.ts";
export { TextStreamer, type TextStreamerOptions } from "./generate/text-streamer.ts";
export { AutoTokenizer } from "./generate/tokenizer.ts";
export type { Tier } from "./memory/tiers.ts";
export type { DeviceMap, MaxMemory } from "./plan/options.ts";
export type { Plan } from "./plan/plan.ts";
export { MemoryProbe } from "./report/memory-probe.ts";
export type { LoadProgress } from "./runtime/loader.ts";
export type { EngineOptions as PretrainedOptions } from "./runtime/prepare.ts";
export type { TrainingBatch } from "./train/batch.ts";
export { type FitResult, fit } from "./train/fit.ts";
export type { FitOptions } from "./train/fit-options.ts";
export type { LoraOptions, OffloadOptions, TrainerOptions } from "./train/options.ts";
export { Trainer } from "./train/trainer.ts";
export type { SaveOptions, StepResult, TrainingPlanSummary } from "./train/trainer-face.ts";
