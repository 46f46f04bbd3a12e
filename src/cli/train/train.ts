// spillway train: fine-tunes a model, or an adapter over it, under budgets; or, with --plan, says what that would take.
import { mkdir, rmdir } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import type { Command } from "commander";
import { AbortError, BudgetError, IoError, type NumericsError } from "../../base/errors.ts";
import type { CausalLM, ModelStatistics } from "../../generate/causal-lm.ts";
import type { FileLock } from "../../memory/locks/file-lock.ts";
import type { TrainingMemoryRow } from "../../report/training-report.ts";
import { type FitOptions, outputPaths } from "../../train/fit/fit-options.ts";
import type { FitResult, ResumeInfo } from "../../train/fit/fit-result.ts";
import type { Trainer } from "../../train/trainer.ts";
import type { TrainingPlanSummary } from "../../train/trainer-face.ts";
import { ToldInJson } from "../exit-codes.ts";
import { shortPath, version } from "../installation.ts";
import { type Io, note, warn, writeJson, writeLines } from "../io.ts";
import { ProgressLine } from "../progress-line.ts";
import { commandOf, settingsOf } from "./train-command.ts";
import { readTrainConfig } from "./train-config.ts";
import { addTrainOptions, flagsGiven, type TrainConfig } from "./train-options.ts";
import { homesOf, type Measured, planReport, trainingPlanLines } from "./train-plan.ts";
import { TrainingLine } from "./train-progress.ts";
import type { TrainSetup } from "./train-setup.ts";

interface TrainFlags {
  readonly config?: string;
  readonly plan?: boolean;
  readonly quiet?: boolean;
  readonly json?: boolean;
}

/** JSON leaves out what is undefined; programs want to see that there is nothing. */
type Nullable<T> = {
  readonly [K in keyof T]: undefined extends T[K] ? Exclude<T[K], undefined> | null : T[K];
};

/** What `train --json` prints. */
interface TrainResult extends Nullable<FitResult> {
  readonly output: string;
  /** Where the result is. */
  readonly exported: string | null;
  readonly log: string;
  readonly memory: readonly TrainingMemoryRow[];
  /** Threads of the CPU that computed each kind of work. */
  readonly threads: ModelStatistics["threads"];
  readonly warnings: readonly string[];
}

const EXAMPLES = `
The config file is a JSON object of the same options, with _ for -: {"model": "./Llama-3.2-1B", "learning_rate": 1e-4,
"lora_r": 8, "cpu": "4GiB"}; options on the command line count before it. Paths are taken from the working directory.

Ctrl-C finishes the step, saves, and exits with 130; the same command with --resume goes on as if nothing had been.

Examples:
  spillway train ./Llama-3.2-1B --data chats.jsonl --output ./run --lora-r 8 --cpu 4GiB --gpu 2GiB
  spillway train ./Llama-3.2-1B --data text.jsonl --output ./run --precision bfloat16 --offload-optimizer disk --plan
  spillway train --config run.json --resume
`;

export function addTrain(program: Command, io: Io): void {
  const command = program
    .command("train")
    .description("fine-tune a model, or an adapter over it")
    .argument("[model]", "directory of a checkpoint in the Hub's layout; may be in the config file instead")
    .option("--config <file>", "options in a JSON file")
    .option("--plan", "say what it would take in memory, disk and time, and train nothing");
  addTrainOptions(command)
    .option("--quiet", "no progress and no report")
    .option("--json", "one JSON document on stdout")
    .addHelpText("after", EXAMPLES)
    .action(async (model: string | undefined, flags: TrainFlags, self: Command) => {
      const file = flags.config === undefined ? undefined : await readTrainConfig(flags.config);
      const config: TrainConfig = { ...file?.config, ...flagsGiven(self) };
      await train(io, model ?? file?.model, config, flags);
    });
}

async function train(
  io: Io,
  named: string | undefined,
  config: TrainConfig,
  flags: TrainFlags,
): Promise<void> {
  const { refuseWithin, trainSetup } = await import("./train-setup.ts");
  if (named !== undefined && config.output !== undefined)
    await refuseWithin(resolve(config.output), [named, config.adapter ?? named], "--output"); // before it is made
  await using lock = flags.plan || config.output === undefined ? undefined : await lockOutput(config.output);
  const setup = await trainSetup(io, named, config, flags).catch(async (error: unknown) => {
    await lock?.release();
    if (config.output !== undefined) await removeIfEmpty(config.output);
    throw error;
  });
  if (!flags.quiet) warn(io, setup.warnings);
  const report = config.report === undefined || flags.plan ? undefined : resolve(config.report);
  if (report !== undefined) {
    // Found out now, not after a night of training.
    await mkdir(dirname(report), { recursive: true }).catch((error: unknown) => {
      throw new IoError("the folder for the report could not be made", report, { cause: error });
    });
  }
  const { AutoModelForCausalLM, engineOf } = await import("../../generate/causal-lm.ts");
  const loading = flags.quiet ? undefined : new ProgressLine(io);
  try {
    const model = await AutoModelForCausalLM.from_pretrained(setup.model, {
      ...setup.engine,
      signal: io.signal,
      warning_callback: (warning) => warn(io, [warning]),
    }).catch((error: unknown) => refuse(setup, error));
    const threads = engineOf(model).prepared.cpu.threads;
    let plan: TrainingPlanSummary | undefined;
    try {
      const { Trainer } = await import("../../train/trainer.ts");
      const trainer = await Trainer.create(model, {
        ...setup.trainer,
        signal: io.signal,
        ...(loading && { progress_callback: loading.update }),
      });
      loading?.end();
      try {
        plan = trainer.plan(setup.micro_batches);
        if (!flags.plan) return await run(io, model, trainer, setup, config, { ...flags, report, lock });
      } finally {
        await trainer.dispose();
      }
    } finally {
      await model.dispose();
    }
    // Only now, with the model gone: what measuring takes must not come on top of the budget.
    const told = planReport(plan, setup, await measured(io, setup, config, plan, threads));
    if (flags.json) await writeJson(io, told);
    else await writeLines(io, trainingPlanLines(told));
  } finally {
    loading?.end();
    await lock?.release();
    await removeIfEmpty(setup.offload_folder, setup.output);
  }
}

/** Two runs in one folder would mix their checkpoints and logs. */
async function lockOutput(output: string): Promise<FileLock> {
  const { lockFolder } = await import("../../memory/locks/file-lock.ts");
  return lockFolder(output, "the output folder");
}

/** Room that is needed beside checkpoints and logs. Bytes. */
const REPORT_ROOM = 2 * 2 ** 20;

/** Where the model does not fit, neither does training it: the figure for training at once, not for one and then the other. */
async function refuse(setup: TrainSetup, error: unknown): Promise<never> {
  if (!(error instanceof BudgetError)) throw error;
  const { trainingRefusal } = await import("../../train/open/least-budget.ts");
  throw (await trainingRefusal(setup.model, setup.engine, setup.trainer, error)) ?? error;
}

async function run(
  io: Io,
  model: CausalLM,
  trainer: Trainer,
  setup: TrainSetup,
  config: TrainConfig,
  flags: TrainFlags & { readonly report: string | undefined; readonly lock: FileLock | undefined },
): Promise<void> {
  const { fitChecked } = await import("../../train/fit/fit.ts");
  if (!setup.fit) throw new TypeError("training without data");
  const plan = trainer.plan(setup.micro_batches);
  const line = flags.quiet ? undefined : new TrainingLine(io, config.logging_steps);
  const { NothingTrainedError } = await import("../../train/fit/skips.ts");
  const say = (text: string) => (line ? line.note(text) : note(io, text));
  let result: FitResult;
  let failed: Error | undefined;
  let exported: string | null = null;
  try {
    const options: FitOptions = {
      ...setup.fit,
      signal: io.signal,
      lock: flags.lock,
      room_beside: [
        ...(setup.export === undefined
          ? []
          : [{ path: setup.export, bytes: await trainer.exportBytes(), what: "the result" }]),
        ...(flags.report === undefined
          ? []
          : [{ path: flags.report, bytes: REPORT_ROOM, what: "the report" }]),
      ],
      warning_callback: (warning) => say(`warning: ${warning}`),
      on_resume: (info) => say(resumeLine(info)),
      on_save_failed: (error, { step, last }) => {
        if (!last)
          say(
            `warning: step ${step} was not saved: ${error.message}; the run goes on and saves when it is time again`,
          );
        return undefined;
      },
      ...(line && {
        on_step: line.step,
        on_save: (path: string) => line.note(`saved ${shortPath(path)}`),
      }),
    };
    result = await fitChecked(trainer, options, setup.checked).catch((error: unknown) => {
      if (!(error instanceof NothingTrainedError)) throw error;
      failed = error;
      return error.result;
    });
    line?.end();
    if (!failed && !result.interrupted && setup.export !== undefined) {
      const { chat_template } = setup.fit;
      // A name of one of the model's templates is there already.
      const own = chat_template?.includes("{") ? { chat_template } : {};
      await trainer.export(setup.export, { ...own, signal: io.signal });
      exported = setup.export;
    }
  } finally {
    line?.end();
  }
  const { log } = outputPaths(setup.output);
  const memory = memoryRows(model, plan);
  const { threads } = model.statistics();
  const told: TrainResult = {
    threads,
    ...result,
    loss: result.loss ?? null,
    best_eval: result.best_eval ?? null,
    checkpoint: result.checkpoint ?? null,
    resumed_from: result.resumed_from ?? null,
    ...{ output: setup.output, exported, log, memory, warnings: model.warnings },
  };
  await tellReport(io, setup, config, plan, told, flags);
  if (failed) {
    const { code } = failed as NumericsError;
    if (flags.json) await writeJson(io, { ...told, error: { code, message: failed.message } });
    throw flags.json ? new ToldInJson(failed.message, { cause: failed }) : failed;
  }
  if (flags.json) await writeJson(io, told);
  if (!result.interrupted) return;
  if (!flags.quiet)
    note(io, `step ${result.steps} is saved; the same command with --resume goes on from there`);
  const interrupted = new AbortError(io.signal.reason);
  throw flags.json ? new ToldInJson(interrupted.message, { cause: interrupted }) : interrupted;
}

/** "resuming at step 21 of 40 from run/checkpoints/checkpoint-20" */
function resumeLine({ step, total, checkpoint, changes }: ResumeInfo): string {
  const rest = changes.length > 0 ? `; changed: ${changes.join(", ")}` : "";
  if (checkpoint === undefined) return `nothing to resume: the run begins anew, at step 1 of ${total}`;
  const from = shortPath(checkpoint);
  return step >= total
    ? `${from} has all ${total} steps of this run${rest}`
    : `resuming at step ${step + 1} of ${total}, from ${from}${rest}`;
}

/** The end of the run in words, and the page. */
async function tellReport(
  io: Io,
  setup: TrainSetup,
  config: TrainConfig,
  plan: TrainingPlanSummary,
  { log, memory, threads, exported, checkpoint }: TrainResult,
  flags: { readonly quiet?: boolean; readonly report: string | undefined },
): Promise<void> {
  if (flags.quiet && flags.report === undefined) return;
  const { readTrainingLog } = await import("../../report/training-log.ts");
  const { trainingReportHtml, trainingReportText } = await import("../../report/training-report.ts");
  const records = await readTrainingLog(log);
  if (flags.report !== undefined) {
    const { replaceFile } = await import("../../formats/files/staged-file.ts");
    const page = Buffer.from(
      trainingReportHtml(records, {
        title: `Training ${shortPath(setup.model)}`,
        model: shortPath(setup.model),
        parameters: plan.parameters,
        plan: homesOf(plan).map(([what, value]) => ({ what, value })),
        ...{ data: (config.data ?? []).map(shortPath), settings: settingsOf(config) },
        ...{ command: commandOf(setup.model, config), date: new Date() },
        versions: `spillway ${version()}, Node ${process.versions.node}, ${process.platform} ${process.arch}`,
        memory,
      }),
    );
    await replaceFile(flags.report, page.length, (sink) => sink.append(page));
  }
  if (flags.quiet) return;
  for (const text of ["", ...trainingReportText(records, { memory }), ""]) note(io, text);
  const { threadsLine } = await import("../../report/text-report.ts");
  note(io, `${"threads".padEnd(10)}  ${threadsLine(threads)}`);
  for (const [what, path] of Object.entries({ checkpoint, result: exported, report: flags.report })) {
    if (path) note(io, `${what.padEnd(10)}  ${shortPath(path)}`);
  }
}

function memoryRows(model: CausalLM, plan: TrainingPlanSummary): TrainingMemoryRow[] {
  const { budget, peak } = model.memory();
  return (["gpu", "cpu", "disk"] as const)
    .map((tier) => ({
      tier,
      budget: Number.isFinite(budget[tier]) ? budget[tier] : null,
      planned: plan.bytes[tier],
      peak: peak[tier],
    }))
    .filter((row) => row.planned > 0 || row.peak > 0 || (row.budget ?? 0) > 0);
}

/** The device's rate, and that of the disk a step uses: under the state, or under the model where only weights are read. */
async function measured(
  io: Io,
  setup: TrainSetup,
  config: TrainConfig,
  plan: TrainingPlanSummary,
  threads: number,
): Promise<Measured> {
  const { measureMatmulRate } = await import("./train-rate.ts");
  const adapts = config.lora_r !== undefined || config.adapter !== undefined;
  const dtype = config.precision === "bfloat16" && !adapts ? "bf16" : "f32";
  const flops_per_second = await measureMatmulRate(plan.device, { dtype, threads, signal: io.signal });
  const { read, written } = plan.disk_per_step;
  if (read + written === 0) return { flops_per_second, disk_bandwidth: null };
  const { diskSpeed } = await import("../disk-speed.ts");
  const { openCheckpoint } = await import("../../formats/index.ts");
  const { files } = await openCheckpoint(setup.model, { ignore: [/./] });
  const under = written > 0 ? setup.offload_folder : files.map((file) => file.path);
  const { bytesPerSecond } = await diskSpeed(under, io.signal);
  return { flops_per_second, disk_bandwidth: bytesPerSecond };
}

/** Folders that were made for state which is gone by now. One that has anything in it stays. */
async function removeIfEmpty(...folders: readonly string[]): Promise<void> {
  for (const folder of folders) await rmdir(folder).catch(() => {});
}
