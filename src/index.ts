// The public API, nothing else.
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
