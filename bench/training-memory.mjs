// Training whose state (weights, gradients and two moments in f32: 16 bytes per parameter) is four times the limit of
// memory or more, inside a memory control group of the budget plus 256 MiB: what the kernel counts at peak, how the ledger
// keeps to the plan; then the same for a fresh process that goes on from the saved checkpoint.
//   node bench/training-memory.mjs [--budget 512] [--tokens 128] [--steps 3] [--layers N] [--threads N] [--shape llama-214m]
//     [--checkpoint DIR]
// Needs root, memory cgroup v1, and 7 GiB of disk for the state and the checkpoints.
import { mkdir, rm } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";
import { WORK } from "./lib/cases.mjs";
import { dropCaches, OwnDisk, whyNoLimits } from "./lib/known-disk.mjs";
import { median, mib, round, table, writeResult } from "./lib/results.mjs";
import { count } from "./lib/runner.mjs";
import { runUnless } from "./lib/skip.mjs";
import * as training from "./lib/training-case.mjs";

const MIB = 2 ** 20;
/** MiB the process may take beside its budget. */
const BESIDE = 256;
const STATE_BYTES = 16;
const TIMES = 4;
/** How far the ledger's peak may be from the plan. */
const OFF_PLAN = 0.05;

/** @typedef {import("./lib/training-case.mjs").TrainingRun} TrainingRun */

/** What one process needed. @param {string} name @param {TrainingRun} run */
function needs(name, run) {
  const planned = run.plan?.planned_bytes.cpu ?? Number.NaN;
  const ledger = run.memory?.peak.cpu ?? Number.NaN;
  return {
    name,
    steps: run.losses.length + (run.loss_after_save === undefined ? 0 : 1),
    homes: run.plan?.homes,
    memory_cgroup_peak_bytes: run.memory_cgroup_peak_bytes ?? Number.NaN,
    memory_cgroup_limit_hits: run.memory_cgroup_limit_hits,
    peak_rss_bytes: run.peak_rss_bytes,
    planned_bytes: planned,
    ledger_peak_bytes: ledger,
    ledger_over_plan: ledger / planned,
    step_s: median(run.steps.map(({ seconds }) => seconds)),
    moved_bytes: median(run.steps.map(({ read_bytes, written_bytes }) => read_bytes + written_bytes)),
    save_s: run.save_s,
    resume_s: run.resume_s,
  };
}

async function main() {
  const { values } = parseArgs({
    options: {
      ...training.TRAINING_MODEL_OPTIONS,
      shape: { type: "string", default: "llama-214m" },
      budget: { type: "string", default: "512" }, // MiB
      tokens: { type: "string", default: "128" },
      steps: { type: "string", default: "3" },
      threads: { type: "string" },
    },
  });
  const budgetMib = count(values, "budget", 1);
  const limitMib = budgetMib + BESIDE;
  const steps = count(values, "steps", 1);
  const model = await training.prepareTrainingModel(values);
  const stateBytes = STATE_BYTES * model.parameters;
  if (stateBytes < TIMES * limitMib * MIB)
    throw new Error(
      `the state of ${model.name} is ${mib(stateBytes)} MiB, less than ${TIMES} times the limit of ${limitMib} MiB: ` +
        "give a lower --budget or more --layers",
    );
  const batches = await training.batchFile(
    training.batchShape(count(values, "tokens", 2)),
    model.config.vocab_size,
  );
  const folder = path.join(WORK, `training-memory-${process.pid}`);
  await mkdir(folder, { recursive: true });
  const disk = new OwnDisk(folder);
  /** @param {Record<string, string | number>} own A process that the kernel kills prints no result, which ends the bench. */
  const limited = (own) => {
    dropCaches();
    return training.trainSpillway(
      {
        ...{ model: model.checkpoint, batches, "budget-mib": budgetMib, "warmup-steps": 0 },
        ...{ folder, threads: values.threads, ...own },
      },
      (command) => disk.within(command, { memoryMib: limitMib }),
    );
  };
  try {
    const saved = path.join(folder, "saved");
    console.error(
      `budget ${budgetMib} MiB, limit ${limitMib} MiB: ${steps} steps, saving, one step more; then resuming`,
    );
    const trained = await limited({ steps, save: saved });
    const resumed = await limited({ steps: 1, resume: saved });
    const cases = [needs("train, save, one step more", trained), needs("resume, the same step", resumed)];
    const facts = {
      /** The step after saving and the same step in a fresh process gave the same loss, to the bit. */
      same_loss: trained.loss_after_save === resumed.losses[0],
      ledger_keeps_to_plan: cases.every((one) => Math.abs(one.ledger_over_plan - 1) <= OFF_PLAN),
      within_limit: cases.every((one) => one.memory_cgroup_peak_bytes <= limitMib * MIB),
      resuming_needs_no_more:
        resumed.memory?.peak.cpu !== undefined && resumed.memory.peak.cpu <= (trained.memory?.peak.cpu ?? 0),
    };
    console.log(
      table(
        cases.map((one) => ({
          process: one.name,
          steps: one.steps,
          "budget MiB": budgetMib,
          "limit MiB": limitMib,
          "state / limit": round(stateBytes / MIB / limitMib),
          "cgroup peak MiB": mib(one.memory_cgroup_peak_bytes),
          "limit hit": one.memory_cgroup_limit_hits,
          "VmHWM MiB": mib(one.peak_rss_bytes),
          "plan MiB": mib(one.planned_bytes),
          "ledger peak MiB": mib(one.ledger_peak_bytes),
          "ledger / plan %": round(100 * one.ledger_over_plan, 4),
          "s per step": round(one.step_s),
          "MiB per step": mib(one.moved_bytes),
        })),
      ),
    );
    console.log("");
    for (const [fact, holds] of Object.entries(facts))
      console.log(holds ? fact.replaceAll("_", " ") : `NOT: ${fact.replaceAll("_", " ")}`);
    await writeResult("training-memory", {
      ...{ model: model.name, parameters: model.parameters, state_bytes: stateBytes, budgetMib, limitMib },
      ...{ ...facts, cases, runs: [trained, resumed] },
    });
    if (Object.values(facts).includes(false)) process.exitCode = 1;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const reason = whyNoLimits();
await runUnless(reason && `limiting the memory of a run ${reason}`, main);
