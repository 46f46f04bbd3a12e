// spillway chat: a conversation, a line a turn, at a terminal or from a pipe.
import { writeFile } from "node:fs/promises";
import type { Command } from "commander";
import { linkSignals } from "../../base/async/signals.ts";
import { AbortError, BudgetError, ConfigError, IoError, throwIfAborted } from "../../base/errors.ts";
import type { CausalLM } from "../../generate/causal-lm.ts";
import type { FinishReason } from "../../generate/decode-loop.ts";
import type { GenerationOptions } from "../../generate/options.ts";
import type { ChatMessage } from "../../generate/text/chat-template.ts";
import { RunRecorder } from "../../report/run-report.ts";
import { reportLines, summaryLine } from "../../report/text-report.ts";
import { checkModel } from "../check-model.ts";
import {
  addGenerationOptions,
  contextNote,
  type GenerationFlags,
  generationOptions,
} from "../generation-options.ts";
import { forTerminal, Interruption, type Io, note, styled, warn, writeJson, writeOut } from "../io.ts";
import { addModelOptions, engineOptions, type ModelFlags } from "../model-options.ts";
import { ProgressLine } from "../progress-line.ts";
import { LineReader } from "./line-reader.ts";
import { PromptLine } from "./prompt-line.ts";

interface ChatFlags extends ModelFlags, GenerationFlags {
  readonly system?: string;
  readonly quiet?: boolean;
  readonly report?: boolean;
}

const HELP = `  /system TEXT   sets the system message and starts over
  /reset         starts over
  /save FILE     writes the conversation as JSON
  /memory        what is held, and how fast it went
  /exit          leaves (so does Ctrl-D, or Ctrl-C twice)`;

export function addChat(program: Command, io: Io): void {
  const command = program
    .command("chat")
    .description("have a conversation")
    .addHelpText(
      "after",
      `\nIn the conversation:\n${HELP}\n\nCtrl-C stops an answer, or clears what is being typed. What is pasted is one message.\n`,
    );
  addGenerationOptions(addModelOptions(command))
    .option("--system <text>", "system message")
    .option("--report", "end with memory by tier, speed and what streamed, in full")
    .option("--quiet", "no progress, no banner, no report")
    .action((model: string, flags: ChatFlags) => chat(io, model, flags));
}

async function chat(io: Io, dir: string, flags: ChatFlags): Promise<void> {
  const options = await engineOptions(flags);
  const generation = generationOptions(flags);
  await checkModel(dir, { chat: true, adapter: options.adapter });
  const { AutoModelForCausalLM } = await import("../../generate/causal-lm.ts");
  const progress = flags.quiet ? undefined : new ProgressLine(io);
  const recorder = new RunRecorder();
  try {
    const model = await AutoModelForCausalLM.from_pretrained(dir, {
      ...options,
      signal: io.signal,
      warning_callback: (warning) => warn(io, [warning]),
      ...(progress && { progress_callback: progress.update }),
    });
    try {
      recorder.loaded();
      const conversation = new Conversation(io, model, flags, generation, recorder);
      await conversation.run();
      const report = recorder.finish(model);
      const { warnings } = model;
      if (flags.json) await writeJson(io, { messages: conversation.messages, warnings, report });
      else if (flags.report) for (const line of ["", ...reportLines(report)]) note(io, line);
      else if (!flags.quiet && conversation.messages.length > 0) note(io, summaryLine(report));
    } finally {
      await model.dispose();
    }
  } finally {
    progress?.end();
    recorder.abandon();
  }
}

class Conversation {
  messages: ChatMessage[] = [];
  readonly #io: Io;
  readonly #model: CausalLM;
  readonly #flags: ChatFlags;
  readonly #generation: GenerationOptions;
  readonly #recorder: RunRecorder;
  readonly #lines: LineReader;
  readonly #reading: PromptLine;
  /** The answer being given. */
  #answer: AbortController | undefined;
  #left = false;
  /** It was Ctrl-C, twice in a row, by which the user left. */
  #interrupted = false;

  constructor(
    io: Io,
    model: CausalLM,
    flags: ChatFlags,
    generation: GenerationOptions,
    recorder: RunRecorder,
  ) {
    this.#generation = generation;
    this.#io = io;
    this.#model = model;
    this.#flags = flags;
    this.#recorder = recorder;
    this.#reading = new PromptLine(io);
    this.#lines = new LineReader(io, "> ", (how) => this.#interrupt(how));
    this.#reset(flags.system);
  }

  /** Until the input ends or the user leaves. */
  async run(): Promise<void> {
    if (this.#lines.interactive && !this.#flags.quiet)
      note(this.#io, "Type a message; /help lists what else there is.");
    try {
      while (!this.#left) {
        const line = await this.#lines.next();
        throwIfAborted(this.#io.signal);
        if (line === undefined) break;
        if (line.trim() === "") continue;
        if (line.startsWith("/")) await this.#command(line);
        else await this.#turn(line);
      }
    } finally {
      this.#lines.close();
    }
    if (this.#interrupted) throw new AbortError(new Interruption("SIGINT"));
  }

  #interrupt({ cleared, again }: { cleared: boolean; again: boolean }): void {
    if (this.#answer && !this.#answer.signal.aborted) {
      this.#answer.abort();
    } else if (again && !cleared) {
      this.#left = true;
      this.#interrupted = true;
      this.#lines.close();
    } else if (this.#answer === undefined) {
      note(this.#io, cleared ? "" : "\n(Ctrl-C again leaves)");
      this.#lines.refresh();
    }
  }

  async #turn(content: string): Promise<void> {
    const { messages } = this;
    const asked = messages.length;
    messages.push({ role: "user", content });
    this.#answer = new AbortController();
    const { signal, unlink } = linkSignals(this.#io.signal, this.#answer.signal);
    const before = promptTokens(this.#model);
    let tokens = 0;
    let text = "";
    let finish: FinishReason | undefined;
    try {
      this.#recorder.prompt();
      if (!this.#flags.quiet) this.#reading.begin();
      const options = { ...this.#generation, signal, prompt_callback: this.#reading.update };
      for await (const piece of this.#model.stream(messages, options)) {
        this.#reading.end();
        if (piece.token !== undefined) {
          tokens++;
          this.#recorder.token(this.#model);
        }
        finish = piece.finish_reason;
        text += piece.text;
        if (!this.#flags.json && piece.text !== "") {
          await writeOut(this.#io, forTerminal(piece.text, this.#io.stdout));
        }
      }
    } catch (error) {
      this.#reading.end();
      if (error instanceof AbortError && !this.#io.signal.aborted) {
        note(this.#io, styled(this.#io.stderr, "dim", " (stopped)"));
      } else {
        messages.length = asked; // an unanswered message would spoil every turn after it
        // At a terminal one can go on after a message that is too long; a script must learn of it.
        if (!this.#lines.interactive || !(error instanceof ConfigError || error instanceof BudgetError))
          throw error;
        note(this.#io, `${styled(this.#io.stderr, "red", "error:")} ${error.message}; /reset starts over`);
        return;
      }
    } finally {
      unlink();
      this.#answer = undefined;
    }
    if (!this.#flags.json && !text.endsWith("\n")) await writeOut(this.#io, "\n");
    messages.push({ role: "assistant", content: text });
    if (finish === "context") {
      const prompt = promptTokens(this.#model) - before;
      note(this.#io, `${await contextNote(this.#model, prompt + tokens)}; /reset starts over`);
    }
  }

  async #command(line: string): Promise<void> {
    const [name, rest = ""] = splitOnce(line.slice(1));
    const commands: Record<string, () => void | Promise<void>> = {
      exit: () => {
        this.#left = true;
      },
      reset: () => this.#reset(this.#system),
      system: () => this.#reset(rest === "" ? undefined : rest),
      save: () => this.#save(rest),
      memory: () => {
        for (const row of reportLines(this.#recorder.report(this.#model))) note(this.#io, row);
      },
      help: () => note(this.#io, HELP),
    };
    const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
    if (command) return command();
    const message = `there is no /${name}; to say it, put a space before it. Commands:\n${HELP}`;
    if (!this.#lines.interactive) throw new ConfigError(message);
    note(this.#io, message);
  }

  get #system(): string | undefined {
    const first = this.messages[0];
    return first?.role === "system" ? String(first.content) : undefined;
  }

  #reset(system: string | undefined): void {
    this.messages = system === undefined ? [] : [{ role: "system", content: system }];
  }

  async #save(path: string): Promise<void> {
    if (path === "") return note(this.#io, "write /save FILE");
    try {
      await writeFile(path, `${JSON.stringify(this.messages, null, 2)}\n`, { flag: "wx" });
      note(this.#io, `saved ${this.messages.length} messages in ${path}`);
    } catch (error) {
      const exists = error instanceof Error && "code" in error && error.code === "EEXIST";
      const reason = error instanceof Error ? error.message : String(error);
      const message = exists
        ? "exists already and is kept; choose another name"
        : `could not be written (${reason})`;
      if (!this.#lines.interactive) throw new IoError(message, path, { cause: error });
      note(this.#io, `${path}: ${message}`);
    }
  }
}

function splitOnce(text: string): [string, string?] {
  const at = text.search(/\s/);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at).trim()];
}

/** Tokens of all prompts so far, read or there already. */
function promptTokens(model: CausalLM): number {
  const { prefillTokens, reusedTokens } = model.statistics();
  return prefillTokens + reusedTokens;
}
