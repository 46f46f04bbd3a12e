// The options of commands that generate text: how long, how the next token is chosen, where to stop. They mean what the
// library's options of the same names mean.
import type { Command } from "commander";
import type { CausalLM } from "../generate/causal-lm.ts";
import type { GenerationOptions } from "../generate/options.ts";
import { checkOptions } from "../generate/requests.ts";
import { generationValues } from "../generate/settings/values.ts";
import { anyNumber, appended, wholeNumber } from "./model-options.ts";

export interface GenerationFlags {
  readonly maxNewTokens?: number;
  readonly doSample?: boolean;
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
    .option("--do-sample", "draw tokens at random (default: generation_config.json, else no)")
    .option("--no-do-sample", "always the best token, whatever generation_config.json says")
    .option("--temperature <t>", "draw from flatter (above 1) or steeper odds", anyNumber)
    .option("--top-k <k>", "draw from the k best tokens only", anyNumber)
    .option("--top-p <p>", "draw from the best tokens that together have this probability", anyNumber)
    .option("--min-p <p>", "draw from tokens at least this times as probable as the best", anyNumber)
    .option("--repetition-penalty <x>", "above 1: what was said becomes less likely", anyNumber)
    .option("--seed <n>", "same seed, same text", anyNumber)
    .option("--stop <text>", "end before this text (may be repeated)", appended)
    .option("--ignore-eos", "go on after the end token");
}

/** For people: why a text of `tokens` tokens, prompt included, ends with "context", and what to do. */
export async function contextNote(model: CausalLM, tokens: number): Promise<string> {
  const { engineOf } = await import("../generate/causal-lm.ts");
  const { spec, device } = engineOf(model).prepared;
  const { max_positions } = spec;
  if (tokens > max_positions)
    return `the context is full: the model has positions for ${max_positions} tokens`;
  return (
    `the context is full: ${tokens} tokens are what the budget holds; give --${device.kind} more, or --context-length ` +
    `${Math.min(max_positions, 2 * tokens)}, which keeps fewer weights in memory`
  );
}

/**
 * What the flags mean. Those of drawing have an effect where tokens are drawn: with --do-sample, or where the checkpoint's
 * generation_config.json says so. Throws ConfigError for values that can never be used: to be called before a model is
 * loaded in vain.
 */
export function generationOptions(flags: GenerationFlags): GenerationOptions {
  const { maxNewTokens, doSample, temperature, topK, topP, minP, repetitionPenalty, seed, stop } = flags;
  const options: GenerationOptions = {
    ...(maxNewTokens !== undefined && { max_new_tokens: maxNewTokens }),
    ...(doSample !== undefined && { do_sample: doSample }),
    ...(temperature !== undefined && { temperature }),
    ...(topK !== undefined && { top_k: topK }),
    ...(topP !== undefined && { top_p: topP }),
    ...(minP !== undefined && { min_p: minP }),
    ...(repetitionPenalty !== undefined && { repetition_penalty: repetitionPenalty }),
    ...(seed !== undefined && { seed }),
    ...(stop && { stop_strings: stop }),
    ...(flags.ignoreEos && { ignore_eos: true }),
  };
  checkOptions(options, "stream");
  // Whether tokens are drawn stands in a file that has not been read yet; what is typed has to be right either way. A
  // temperature of 0 is how other programs say that they are not.
  const { temperature: typed, ...rest } = options;
  const drawn = typed === 0 && doSample !== true ? rest : options;
  generationValues({ ...drawn, do_sample: true }, {});
  return options;
}
