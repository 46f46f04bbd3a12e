// spillway run: continues one text, printing it as it comes, and says at the end what that took.
import { addAbortSignal } from "node:stream";
import type { Command } from "commander";
import type { FinishReason } from "../generate/decode-loop.ts";
import type { StreamPiece } from "../generate/streaming.ts";
import type { ChatMessage } from "../generate/text/chat-template.ts";
import { RunRecorder, type RunReport, withBandwidth } from "../report/run-report.ts";
import { reportLines } from "../report/text-report.ts";
import { PromptLine } from "./chat/prompt-line.ts";
import { checkModel } from "./check-model.ts";
import { UsageError } from "./exit-codes.ts";
import {
  addGenerationOptions,
  contextNote,
  type GenerationFlags,
  generationOptions,
} from "./generation-options.ts";
import { forTerminal, type Io, note, warn, writeJson, writeOut } from "./io.ts";
import { addModelOptions, engineOptions, type ModelFlags } from "./model-options.ts";
import { ProgressLine } from "./progress-line.ts";

interface RunFlags extends ModelFlags, GenerationFlags {
  readonly prompt?: string;
  readonly chat?: boolean;
  readonly system?: string;
  readonly quiet?: boolean;
}

/** What `run --json` prints, with `warnings` and a `report` beside it. */
interface RunResult {
  readonly text: string;
  readonly finish_reason: FinishReason;
  /** Ids of the text, an end token included. */
  readonly tokens: readonly number[];
}

const EXAMPLES = `
Examples:
  spillway run ./Llama-3.2-1B "Once upon a time" --cpu 2GiB
  spillway run ./Qwen2.5-7B-Instruct --chat "Why is the sky blue?" --gpu 4GiB --cpu 6GiB
  cat letter.txt | spillway run ./Llama-3.1-8B --max-new-tokens 200 > continued.txt
`;

export function addRun(program: Command, io: Io): void {
  const command = program.command("run").description("continue a text").addHelpText("after", EXAMPLES);
  addModelOptions(command).argument("[prompt...]", "the text; read from stdin when that is not a terminal");
  addGenerationOptions(command)
    .option("--prompt <text>", "the text, where it is not an argument")
    .option("--chat", "put the prompt into the checkpoint's chat template")
    .option("--system <text>", "system message; implies --chat")
    .option("--quiet", "no progress and no report")
    .action(async (model: string, prompt: readonly string[], flags: RunFlags) => {
      await run(io, model, await promptText(io, prompt, flags.prompt), flags);
    });
}

async function run(io: Io, dir: string, prompt: string, flags: RunFlags): Promise<void> {
  const options = await engineOptions(flags);
  const generation = generationOptions(flags);
  const messages = conversation(prompt, flags);
  await checkModel(dir, { chat: messages !== undefined, adapter: options.adapter });
  const { AutoModelForCausalLM } = await import("../generate/causal-lm.ts");
  const progress = flags.quiet ? undefined : new ProgressLine(io);
  const recorder = new RunRecorder();
  try {
    const model = await AutoModelForCausalLM.from_pretrained(dir, {
      ...options,
      signal: io.signal,
      warning_callback: (warning) => warn(io, [warning]),
      ...(progress && { progress_callback: progress.update }),
    });
    let result: RunResult;
    let report: RunReport;
    const reading = new PromptLine(io);
    try {
      recorder.loaded();
      if (!flags.quiet) reading.begin();
      const prompt_callback = reading.update;
      const stream = model.stream(messages ?? prompt, { ...generation, signal: io.signal, prompt_callback });
      result = await print(io, stream, flags.json === true, () => {
        reading.end();
        recorder.token(model);
      });
      report = recorder.finish(model);
      if (result.finish_reason === "context")
        note(io, await contextNote(model, report.prefill.tokens + result.tokens.length));
    } finally {
      reading.end();
      await model.dispose();
    }
    // Only now, with the model gone: what measuring takes must not come on top of the budget.
    if (!flags.quiet) report = await measured(io, dir, report);
    if (flags.json) return await writeJson(io, { ...result, warnings: model.warnings, report });
    if (!flags.quiet) for (const line of ["", ...reportLines(report)]) note(io, line);
  } finally {
    progress?.end();
    recorder.abandon();
  }
}

/** The prompt as a conversation, where that was asked for. */
function conversation(prompt: string, flags: RunFlags): ChatMessage[] | undefined {
  const user = { role: "user", content: prompt };
  if (flags.system !== undefined) return [{ role: "system", content: flags.system }, user];
  return flags.chat ? [user] : undefined;
}

/** Writes the pieces as they come, unless they are to be in a document later. */
async function print(
  io: Io,
  pieces: AsyncIterable<StreamPiece>,
  silent: boolean,
  onToken: () => void,
): Promise<RunResult> {
  const tokens: number[] = [];
  let text = "";
  let finish_reason: FinishReason = "length";
  try {
    for await (const piece of pieces) {
      if (piece.token !== undefined) {
        onToken();
        tokens.push(piece.token);
      }
      text += piece.text;
      finish_reason = piece.finish_reason ?? finish_reason;
      if (!silent && piece.text !== "") await writeOut(io, forTerminal(piece.text, io.stdout));
    }
  } catch (error) {
    // What came so far stays a line of its own, under which the error stands.
    if (!silent && text !== "") io.stdout.write("\n");
    throw error;
  }
  if (!silent && !text.endsWith("\n")) await writeOut(io, "\n");
  return { text, finish_reason, tokens };
}

/** The report with the bandwidth of the disk, where weights came from one while tokens were made. */
async function measured(io: Io, dir: string, report: RunReport): Promise<RunReport> {
  if (!report.streaming?.disk_rate) return report;
  const { openCheckpoint } = await import("../formats/index.ts");
  const { diskSpeed } = await import("./disk-speed.ts");
  const { files } = await openCheckpoint(dir, { ignore: [/./] }); // the files alone; the tensors have been judged
  return withBandwidth(
    report,
    await diskSpeed(
      files.map((file) => file.path),
      io.signal,
    ),
  );
}

/** The prompt from the one place it was given. Throws UsageError for none and for two. */
async function promptText(io: Io, words: readonly string[], option: string | undefined): Promise<string> {
  if (words.length > 1) {
    throw new UsageError(
      `the prompt is ${words.length} arguments; put it in quotes: ${JSON.stringify(words.join(" "))}`,
    );
  }
  const argument = words[0];
  if (argument !== undefined && option !== undefined)
    throw new UsageError("the prompt was given twice: as an argument and with --prompt");
  const given = argument ?? option;
  if (given === undefined && io.stdin.isTTY)
    throw new UsageError('there is no prompt: write spillway run MODEL "text", or pipe a text in');
  const text = given ?? (await readAll(io));
  if (text === "") throw new UsageError("the prompt is empty");
  return text;
}

/** All of stdin, without the line end that echo and editors add. */
async function readAll(io: Io): Promise<string> {
  const chunks: Buffer[] = [];
  const input = addAbortSignal(io.signal, io.stdin); // Ctrl-C must end the wait for more
  for await (const chunk of input) chunks.push(Buffer.from(chunk as Buffer | string));
  return Buffer.concat(chunks)
    .toString("utf8")
    .replace(/\r?\n$/, "");
}
