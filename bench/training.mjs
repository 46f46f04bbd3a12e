// A training step with its states in RAM, on disk, and with everything on disk, held against what the machine allows:
// the longer of computing (the step with everything in RAM) and of moving the step's bytes at the disk's speed.
//   node bench/training.mjs [--tokens 64,256,1024] [--rates 400,800,1600] [--repeats 3] [--steps 3] [--layers N]
//     [--clipping unreached,reached,off] [--precision float32] [--shape llama-88m] [--checkpoint DIR] [--device cpu]
//     [--disk known|own]
// With --keep-activations none,auto [--budgets 0,1500] it holds steps that keep results of forward for backward against steps
// that compute them again instead, in budgets of so many MiB (0: none), without a disk of known speed and without root.
// Clipping: a limit that no gradient reaches, so that updates made ahead are kept; one that each reaches, so that they
// begin when the norm is known; or none, and updates made at once.
// The known disk is in RAM, so these cores copy its bytes; "own" is the machine's, with the same caps, which must be below
// what it can do (`dd if=FILE of=/dev/null bs=8M iflag=direct` says what that is).
// Needs root, blkio cgroup v1, and RAM for the disk (4 GiB) and the runs; one such run at a time. Within a repeat every
// case runs once, in a process of its own, and is held against the runs in RAM of the same repeat.
import { cp, mkdir } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";
import { WORK } from "./lib/cases.mjs";
import { compareKept, keepChoices, printKept } from "./lib/kept-case.mjs";
import { OwnDisk, onKnownDisk, whyNoKnownDisk, whyNoLimits } from "./lib/known-disk.mjs";
import { median, mib, round, spread, table, withRange, writeResult } from "./lib/results.mjs";
import { count, counts } from "./lib/runner.mjs";
import { runUnless } from "./lib/skip.mjs";
import * as training from "./lib/training-case.mjs";

const MIB = 2 ** 20;
const GIB = 2 ** 30;

/** @typedef {import("./lib/training-case.mjs").TrainingRun} TrainingRun */
/** @typedef {{ clipping: string, tokens: number, rate?: number, placement: string, run: TrainingRun }} Made */

const CLIPPING = /** @type {const} */ ([
  { name: "unreached", options: { "max-grad-norm": 1e9 } },
  { name: "reached", options: { "max-grad-norm": 1e-3 } },
  { name: "off", options: { "max-grad-norm": 0 } },
]);

/** Where training lives in each case, on a device that computes. @param {string} device */
function placements(device) {
  const own = device === "cpu" ? "cpu" : "gpu";
  return {
    resident: { optimizer: own, gradients: "cpu", activations: own, weights: own },
    "states in RAM": { optimizer: "cpu", gradients: "cpu", activations: own, weights: own },
    "optimizer on disk": { optimizer: "disk", gradients: "cpu", activations: own, weights: own },
    "all on disk": { optimizer: "disk", gradients: "disk", activations: "disk", weights: "disk" },
  };
}
const ON_DISK = /** @type {const} */ (["optimizer on disk", "all on disk"]);

/** @param {TrainingRun} run */
const stepSeconds = (run) => median(run.steps.map((step) => step.seconds));

/** Processor time of a step outside of its process, in seconds. @param {TrainingRun[]} runs */
const othersCpu = (runs) =>
  runs.reduce((sum, { steps }) => sum + median(steps.map((step) => step.others_cpu_s)), 0) / runs.length;

/**
 * A run against those in RAM of its repeat: where they are of the same placement, their mean.
 * @param {TrainingRun} run @param {TrainingRun[]} inRam @param {number} mib_per_s
 */
function against(run, inRam, mib_per_s) {
  // The mean, not the median: an update may go on into the next step, and what one step lacks another has.
  const of = (
    /** @type {"read_bytes" | "written_bytes" | "kernel_read_bytes" | "kernel_written_bytes"} */ key,
  ) => run.steps.reduce((sum, step) => sum + step[key], 0) / run.steps.length;
  const step_s = stepSeconds(run);
  const compute_s = inRam.reduce((sum, one) => sum + stepSeconds(one), 0) / inRam.length;
  const [read_bytes, written_bytes] = [of("read_bytes"), of("written_bytes")];
  const best = training.bound({ compute_s, read_bytes, written_bytes, mib_per_s });
  return {
    ...{ step_s, compute_s, read_bytes, written_bytes },
    kernel_read_bytes: of("kernel_read_bytes"),
    kernel_written_bytes: of("kernel_written_bytes"),
    // what the disk itself takes, which the runs in RAM do not need
    disk_cpu_s: othersCpu([run]) - othersCpu(inRam),
    planned_bytes: (run.plan?.disk_per_step.read ?? 0) + (run.plan?.disk_per_step.written ?? 0),
    stalled_disk: median(run.steps.map((step) => step.stalled.disk)),
    stalled_optimizer: median(run.steps.map((step) => step.stalled.optimizer)),
    ...best,
    ratio: step_s / best.bound_s,
    ratio_each_way: step_s / best.each_way_s,
  };
}

/** All repeats of one case on disk. @param {ReturnType<typeof against>[]} repeats */
function summary(repeats) {
  const of = (/** @type {(one: ReturnType<typeof against>) => number} */ value) => spread(repeats.map(value));
  const bytes = (/** @type {(one: ReturnType<typeof against>) => number} */ value) =>
    median(repeats.map(value));
  return {
    step_s: of((r) => r.step_s),
    compute_s: of((r) => r.compute_s),
    disk_s: of((r) => r.disk_s),
    ratio: of((r) => r.ratio),
    ratio_each_way: of((r) => r.ratio_each_way),
    bound_by: repeats[Math.floor(repeats.length / 2)]?.bound_by,
    read_bytes: bytes((r) => r.read_bytes),
    written_bytes: bytes((r) => r.written_bytes),
    /** the kernel's account over the engine's own */
    kernel_share: bytes(
      (r) => (r.kernel_read_bytes + r.kernel_written_bytes) / (r.read_bytes + r.written_bytes),
    ),
    /** the engine's own account over its plan */
    plan_share: bytes((r) => (r.read_bytes + r.written_bytes) / r.planned_bytes),
    disk_cpu_s: of((r) => r.disk_cpu_s),
    stalled_disk: bytes((r) => r.stalled_disk),
    stalled_optimizer: bytes((r) => r.stalled_optimizer),
  };
}

/**
 * Every run of every repeat.
 * @param {{ tokens: number[], rates: number[], repeats: number, steps: number, clipping: readonly typeof CLIPPING[number][], precision: string, device: string, threads?: string | undefined }} settings
 * @param {import("./lib/known-disk.mjs").KnownDisk | OwnDisk} disk
 * @param {training.TrainingModel} model on that disk
 */
async function measure({ tokens, rates, repeats, clipping: ways, ...settings }, disk, model) {
  const homes = placements(settings.device);
  /** @type {Made[][]} */
  const all = [];
  for (let repeat = 0; repeat < repeats; repeat++) {
    /** @type {Made[]} */
    const made = [];
    all.push(made);
    for (const count of tokens) {
      const batches = await training.batchFile(training.batchShape(count), model.config.vocab_size);
      const common = { model: model.checkpoint, batches, folder: disk.dir, ...settings };
      /** @param {keyof typeof homes} placement @param {typeof CLIPPING[number]} clipping @param {number} [rate] */
      const one = async (placement, { name: clipping, options }, rate) => {
        const at = rate ? `, ${rate} MiB/s` : "";
        const what = `${count} tokens, ${placement}${at}, clipping ${clipping}`;
        console.error(`repeat ${repeat + 1} of ${repeats}: ${what}`);
        const run = await training.trainSpillway({ ...common, ...options, ...homes[placement] }, (command) =>
          disk.within(command),
        );
        made.push({ clipping, tokens: count, placement, run, ...(rate && { rate }) });
      };
      for (const clipping of ways) {
        await one("states in RAM", clipping);
        await one("resident", clipping);
      }
      for (const rate of rates) {
        disk.rate(rate);
        for (const placement of ON_DISK) for (const clipping of ways) await one(placement, clipping, rate);
      }
    }
  }
  return all;
}

/** Every case over its repeats. @param {Made[][]} all @param {number[]} tokens @param {number[]} rates @param {readonly typeof CLIPPING[number][]} clipping */
function cases(all, tokens, rates, clipping) {
  /** @param {Partial<Made>} wanted @returns {TrainingRun[]} one of each repeat */
  const runs = (wanted) =>
    all.map((made) => {
      const is = (/** @type {any} */ m) => Object.entries(wanted).every(([key, value]) => m[key] === value);
      return /** @type {Made} */ (made.find(is)).run;
    });
  const settings = tokens.flatMap((count) => clipping.map(({ name }) => ({ tokens: count, clipping: name })));
  const inRam = settings.map((one) => {
    const states = runs({ ...one, placement: "states in RAM" });
    const resident = runs({ ...one, placement: "resident" });
    const pairs = states.map((run, i) => [
      stepSeconds(run),
      stepSeconds(/** @type {TrainingRun} */ (resident[i])),
    ]);
    return {
      ...one,
      states_s: spread(pairs.map(([a]) => a ?? Number.NaN)),
      resident_s: spread(pairs.map(([, b]) => b ?? Number.NaN)),
      ratio: spread(pairs.map(([a = Number.NaN, b = Number.NaN]) => a / b)),
    };
  });
  const onDisk = settings.flatMap((one) => {
    const states = runs({ ...one, placement: "states in RAM" });
    const resident = runs({ ...one, placement: "resident" });
    const compute = states.map((run, i) => {
      const other = /** @type {TrainingRun} */ (resident[i]);
      return JSON.stringify(run.plan?.homes) === JSON.stringify(other.plan?.homes) ? [run, other] : [run];
    });
    return rates.flatMap((rate) =>
      ON_DISK.map((placement) => {
        const of = runs({ ...one, placement, rate });
        const held = of.map((run, i) => against(run, compute[i] ?? [], rate));
        return { ...one, rate, placement, ...summary(held) };
      }),
    );
  });
  // Placement never changes the result, on one device: the same losses wherever everything lives.
  const sameLosses = settings.every((one) => {
    const losses = all.flat().filter((m) => m.tokens === one.tokens && m.clipping === one.clipping);
    return new Set(losses.map(({ run }) => run.losses.join())).size === 1;
  });
  return { inRam, onDisk, sameLosses };
}

const percent = (/** @type {number} */ share) => round(100 * share);

/** @param {ReturnType<typeof cases>} result */
function print({ inRam, onDisk, sameLosses }) {
  console.log("states in RAM against everything on the device that computes:");
  console.log(
    table(
      inRam.map((one) => ({
        tokens: one.tokens,
        clipping: one.clipping,
        "resident s": withRange(one.resident_s),
        "states in RAM s": withRange(one.states_s),
        ratio: withRange(one.ratio),
      })),
    ),
  );
  console.log("\non disk, against the longer of computing and moving the bytes:");
  console.log(
    table(
      onDisk.map((one) => ({
        tokens: one.tokens,
        "disk MiB/s": one.rate,
        case: one.placement,
        clipping: one.clipping,
        "s per step": withRange(one.step_s),
        "compute s": round(one.compute_s.median),
        "disk s": round(one.disk_s.median),
        "disk's CPU s": round(one.disk_cpu_s.median),
        "bound by": one.bound_by,
        ratio: withRange(one.ratio),
        "each way": withRange(one.ratio_each_way),
        "MiB read": mib(one.read_bytes),
        "MiB written": mib(one.written_bytes),
        "kernel %": percent(one.kernel_share),
        "plan %": percent(one.plan_share),
      })),
    ),
  );
  console.log(sameLosses ? "\nthe same losses in every placement" : "\nTHE LOSSES DIFFER");
}

/** State goes here where the disk is the machine's own, on which the checkpoint is made as well. */
const OWN_STATE = path.join(WORK, "own-state");

const { values } = parseArgs({
  options: {
    ...training.TRAINING_MODEL_OPTIONS,
    shape: { type: "string", default: "llama-88m" },
    tokens: { type: "string", default: "64,256,1024" },
    rates: { type: "string", default: "400,800,1600" },
    repeats: { type: "string", default: "3" },
    steps: { type: "string", default: "3" },
    precision: { type: "string", default: "float32" },
    device: { type: "string", default: "cpu" },
    clipping: { type: "string", default: "unreached,reached,off" },
    threads: { type: "string" },
    disk: { type: "string", default: "known" },
    "keep-activations": { type: "string" },
    budgets: { type: "string", default: "0" },
  },
});

async function main() {
  const [tokens, rates] = [counts(values, "tokens"), counts(values, "rates")];
  const [repeats, steps] = [count(values, "repeats", 1), count(values, "steps", 1)];
  const { precision, device, threads, disk: kind } = values;
  const clipping = CLIPPING.filter(({ name }) => values.clipping.split(",").includes(name));
  if (clipping.length === 0)
    throw new Error(`--clipping is unreached, reached or off, not ${values.clipping}`);
  if (!["known", "own"].includes(kind)) throw new Error(`--disk is known or own, not ${kind}`);
  const settings = { tokens, rates, repeats, steps, clipping, precision, device, threads };
  const model = await training.prepareTrainingModel(values);
  /** @param {import("./lib/known-disk.mjs").KnownDisk | OwnDisk} disk @param {string} checkpoint on it */
  const run = async (disk, checkpoint) => {
    const all = await measure(settings, disk, { ...model, checkpoint });
    const result = cases(all, tokens, rates, clipping);
    print(result);
    const { name, parameters } = model;
    const names = clipping.map((one) => one.name);
    const file = [
      "training",
      ...(names.includes("unreached") ? [] : ["clipping", ...names]),
      ...(kind === "own" ? ["own-disk"] : []),
    ];
    const used = { ...settings, disk: kind };
    await writeResult(file.join("-"), { model: name, parameters, settings: used, ...result, runs: all });
    if (!result.sameLosses) process.exitCode = 1;
  };
  if (kind === "own") {
    await mkdir(OWN_STATE, { recursive: true });
    return run(new OwnDisk(OWN_STATE), model.checkpoint);
  }
  // the checkpoint; weights, moments and second places for them, gradients; the inputs of stages; 5 % of file system
  const { hidden_size, num_hidden_layers } = model.config;
  const kept = 2 * num_hidden_layers * hidden_size * Math.max(...tokens) * 4;
  const sizeGib = Math.ceil(((model.weightBytes + 32 * model.parameters + kept) * 1.05 + 64 * MIB) / GIB);
  const ramBytes = 32 * model.parameters + 2 * GIB;
  return onKnownDisk({ sizeGib, ramBytes, mibPerSecond: rates[0] ?? 0 }, async (disk) => {
    const checkpoint = path.join(disk.dir, "checkpoint");
    await cp(model.checkpoint, checkpoint, { recursive: true });
    await run(disk, checkpoint);
  });
}

/** @param {string} choices */
async function mainKept(choices) {
  const { precision, device, threads } = values;
  const settings = {
    ...{ keep: keepChoices(choices), tokens: counts(values, "tokens"), precision, device, threads },
    budgets: values.budgets.split(",").map((text) => count({ budgets: text }, "budgets", 0)),
    ...{ repeats: count(values, "repeats", 1), steps: count(values, "steps", 1) },
  };
  const model = await training.prepareTrainingModel(values);
  const found = await compareKept(settings, model);
  printKept(found);
  const { name, parameters } = model;
  await writeResult("training-kept", { model: name, parameters, settings, found });
  if (found.some((one) => !one.sameLosses)) process.exitCode = 1;
}

const keep = values["keep-activations"];
const reason = values.disk === "own" ? whyNoLimits() : whyNoKnownDisk();
if (keep !== undefined) await mainKept(keep);
else await runUnless(reason && `a disk of known speed ${reason}`, main);
