// The options of commands that generate text: how long, how the next token is chosen, where to stop.
import type { Command } from "commander";
import type { GenerationOptions } from "../generate/causal-lm.ts";
import { validateSampling } from "../generate/sampling.ts";
import { anyNumber, appended, wholeNumber } from "./model-options.ts";

export interface GenerationFlags {
  readonly maxNewTokens?: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly seed?: number;
  readonly stop?: readonly string[];
  readonly ignoreEos?: boolean;
}

export function addGenerationOptions(command: Command): Command {
  return command
    .option(
      "--max-new-tokens <n>",
      "tokens to generate at most (default: generation_config.json, else 128)",
      wholeNumber,
    )
    .option(
      "--temperature <t>",
      "draw at random, from flatter (above 1) or steeper odds; 0: always the best token",
      anyNumber,
    )
    .option("--top-k <k>", "draw from the k best tokens only", anyNumber)
    .option("--top-p <p>", "draw from the best tokens that together have this probability", anyNumber)
    .option("--min-p <p>", "draw from tokens at least this times as probable as the best", anyNumber)
    .option("--repetition-penalty <x>", "above 1: what was said becomes less likely", anyNumber)
    .option("--seed <n>", "same seed, same text", anyNumber)
    .option("--stop <text>", "end before this text (may be repeated)", appended)
    .option("--ignore-eos", "go on after the end token");
}

/**
 * What the flags mean. Options of drawing ask for drawing; without them the checkpoint's defaults hold.
 * Throws ConfigError for values that cannot be used: to be called before a model is loaded in vain.
 */
export function generationOptions(flags: GenerationFlags): GenerationOptions {
  const { maxNewTokens, temperature, topK, topP, minP, repetitionPenalty, seed, stop, ignoreEos } = flags;
  const draws = [temperature, topK, topP, minP].some((value) => value !== undefined);
  const options: GenerationOptions = {
    ...(maxNewTokens !== undefined && { max_new_tokens: maxNewTokens }),
    ...(draws && { do_sample: true }),
    ...(temperature !== undefined && { temperature }),
    ...(topK !== undefined && { top_k: topK }),
    ...(topP !== undefined && { top_p: topP }),
    ...(minP !== undefined && { min_p: minP }),
    ...(repetitionPenalty !== undefined && { repetition_penalty: repetitionPenalty }),
    ...(seed !== undefined && { seed }),
    ...(stop && { stop_strings: stop }),
    ...(ignoreEos && { ignore_eos: true }),
  };
  validateSampling(options);
  return options;
}
