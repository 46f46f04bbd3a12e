// spillway demo: one model, placed in several ways, must say the same. Shows what each placement takes.
import type { Command } from "commander";
import { SpillwayError } from "../base/errors.ts";
import { formatBytes, formatCount } from "../memory/sizes.ts";
import { RunRecorder, type RunReport } from "../report/run-report.ts";
import { comparisonLines } from "../report/text-report.ts";
import { checkModel } from "./check-model.ts";
import type { Placement } from "./demo-placements.ts";
import { ToldInJson, UsageError } from "./exit-codes.ts";
import { bundledCheckpoint, shortPath } from "./installation.ts";
import { type Io, styled, writeJson, writeOut } from "./io.ts";
import { wholeNumber } from "./model-options.ts";

interface DemoFlags {
  readonly prompt: string;
  readonly maxNewTokens: number;
  readonly threads?: number;
  readonly json?: boolean;
}

interface DemoRun extends Placement {
  readonly text: string;
  readonly tokens: readonly number[];
  readonly report: RunReport;
}

export function addDemo(program: Command, io: Io): void {
  program
    .command("demo")
    .description("run one model under several budgets and compare text and memory")
    .argument("[model]", "a checkpoint; the repository brings a small one that tells stories")
    .option("--prompt <text>", "what to continue", "Once upon a time")
    .option("--max-new-tokens <n>", "tokens per run", wholeNumber, 64)
    .option("--threads <n>", "CPU threads, always as many (default: what is fastest)", wholeNumber)
    .option("--json", "one JSON document on stdout")
    .action((model: string | undefined, flags: DemoFlags) => demo(io, model, flags));
}

async function demo(io: Io, given: string | undefined, flags: DemoFlags): Promise<void> {
  const dir = given ?? bundledCheckpoint();
  if (dir === undefined) {
    throw new UsageError(
      "the story model comes with the repository, not with the package; name a checkpoint: spillway demo ./my-model",
    );
  }
  const say = async (text: string) => {
    if (!flags.json) await writeOut(io, `${text}\n`);
  };
  await checkModel(dir, { chat: false });
  const { AutoTokenizer } = await import("../generate/text/tokenizer.ts");
  const tokenizer = await AutoTokenizer.from_pretrained(dir);
  const prompt = (await tokenizer.encode_async(flags.prompt)).length;
  const { demoPlacements } = await import("./demo-placements.ts");
  const placements = await demoPlacements(dir, prompt + flags.maxNewTokens, flags.threads);
  await say(`Checkpoint: ${shortPath(dir)}`);
  if (given === undefined) {
    await say(
      "A small model that tells stories, trained with Spillway. What counts is that it tells the same one every time:\n" +
        "where weights live must not change the result.",
    );
  }
  const runs: DemoRun[] = [];
  for (const [i, placement] of placements.entries()) {
    await say(`\n${styled(io.stdout, "bold", `${i + 1}. ${placement.title}`)}\n   ${budgets(placement)}`);
    const run = await generate(io, dir, placement, flags);
    runs.push(run);
    if (i === 0) await say(`   ${formatCount(run.report.parameters)} parameters`);
    await say(`   ${JSON.stringify(flags.prompt)} -> ${JSON.stringify(run.text)}`);
  }
  const different = differences(runs);
  if (flags.json) {
    await writeJson(io, {
      checkpoint: dir,
      prompt: flags.prompt,
      same: different.length === 0,
      differences: different,
      runs,
    });
  } else {
    await say(`\n${comparisonLines(runs).join("\n")}\n`);
    await say(
      different.length === 0
        ? styled(io.stdout, "green", sameness(runs))
        : styled(io.stdout, "red", different.join("\n")),
    );
    if (!runs.some((run) => run.device !== "cpu"))
      await say("No GPU was found, so only RAM and disk were tried; `spillway doctor` says what is missing.");
  }
  if (different.length > 0) {
    const error = new SpillwayError("graph", different.join("; "));
    throw new ToldInJson(error.message, { cause: error });
  }
}

async function generate(io: Io, dir: string, placement: Placement, flags: DemoFlags): Promise<DemoRun> {
  const { AutoModelForCausalLM } = await import("../generate/causal-lm.ts");
  const { device, max_memory, context_length } = placement;
  const recorder = new RunRecorder();
  try {
    const model = await AutoModelForCausalLM.from_pretrained(dir, {
      device,
      max_memory,
      context_length,
      signal: io.signal,
      ...(flags.threads !== undefined && { threads: flags.threads }),
    });
    try {
      recorder.loaded();
      const tokens: number[] = [];
      let text = "";
      const options = {
        max_new_tokens: flags.maxNewTokens,
        ignore_eos: true,
        do_sample: false,
        signal: io.signal,
      };
      for await (const piece of model.stream(flags.prompt, options)) {
        if (piece.token !== undefined) {
          tokens.push(piece.token);
          recorder.token(model);
        }
        text += piece.text;
      }
      return { ...placement, text, tokens, report: recorder.finish(model) };
    } finally {
      await model.dispose();
    }
  } finally {
    recorder.abandon();
  }
}

function sameness(runs: readonly DemoRun[]): string {
  const tokens = runs[0]?.tokens ?? [];
  const all = runs.every((run) => run.tokens.join() === tokens.join());
  return `Same ${tokens.length} tokens ${all ? `in all ${runs.length} runs` : "in all runs on a device"}.`;
}

/** Runs that said something else than the first one on their device. Two devices may round in different places. */
function differences(runs: readonly DemoRun[]): string[] {
  return runs.flatMap((run) => {
    const first = runs.find((other) => other.device === run.device) as DemoRun;
    const at = run.tokens.findIndex((token, i) => token !== first.tokens[i]);
    if (at < 0 && run.tokens.length === first.tokens.length) return [];
    return [`DIFFERENT: "${run.title}" leaves the text of "${first.title}" at token ${at + 1}`];
  });
}

function budgets({ device, max_memory }: Placement): string {
  const limits = Object.entries(max_memory).map(([tier, bytes]) => `${tier} ${formatBytes(bytes)}`);
  return `computes on ${device}, budget ${limits.length > 0 ? limits.join(", ") : "what is free"}`;
}
