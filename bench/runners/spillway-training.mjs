// Trains a safetensors checkpoint with Spillway and prints one line of JSON: the time and the bytes of each step.
//   node bench/runners/spillway-training.mjs --model DIR --batches FILE [--optimizer disk] [--weights disk] [--gradients disk]
//     [--activations disk] [--keep-activations none] [--folder DIR] [--budget-mib N] [--device cuda:0] [--save DIR] [--resume DIR]
//     [options of lib/training-runner.mjs]
// With --max-grad-norm 0 gradients that are not finite are an error, so that updates overlap backward.
import { readFile } from "node:fs/promises";
import { residentMemory } from "../lib/runner.mjs";
import { StepWatch, timedSteps, trainingRunnerOptions } from "../lib/training-runner.mjs";

const { settings, own } = trainingRunnerOptions({
  optimizer: { type: "string", default: "auto" },
  weights: { type: "string", default: "auto" },
  gradients: { type: "string", default: "auto" },
  activations: { type: "string", default: "auto" },
  "keep-activations": { type: "string", default: "auto" },
  folder: { type: "string" }, // of state on disk
  "budget-mib": { type: "string" },
  device: { type: "string", default: "cpu" },
  save: { type: "string" }, // after the steps; one more step follows
  resume: { type: "string" }, // before the steps
});

const { AutoModelForCausalLM, Trainer } = await import("../../dist/index.js");
/** @param {string | URL} file */
const json = async (file) => JSON.parse(await readFile(file, "utf8"));
const { version } = await json(new URL("../../package.json", import.meta.url));
/** @type {number[][][]} */
const batches = await json(settings.batches);
const [{ length: sequences, 0: { length } = [] } = []] = batches;

const watch = new StepWatch();
const model = await AutoModelForCausalLM.from_pretrained(settings.model, {
  device: own.device,
  context_length: Math.min(256, length),
  ...(settings.threads !== undefined && { threads: settings.threads }),
  ...(own["budget-mib"] && { max_memory: { cpu: `${own["budget-mib"]}MiB` } }),
});
/** @typedef {import("../../src/train/open/options.ts").TrainerOptions} TrainerOptions */
const trainer = await Trainer.create(model, {
  learning_rate: 1e-4,
  weight_decay: 0.1,
  no_decay: [], // as torch's AdamW
  betas: [0.9, 0.95],
  max_grad_norm: settings.maxGradNorm,
  non_finite: settings.maxGradNorm > 0 ? "skip" : "error",
  precision: /** @type {TrainerOptions["precision"]} */ (settings.precision),
  keep_activations: /** @type {TrainerOptions["keep_activations"]} */ (own["keep-activations"]),
  micro_batch_size: sequences,
  max_length: length,
  offload: /** @type {TrainerOptions["offload"]} */ ({
    optimizer: own.optimizer,
    weights: own.weights,
    gradients: own.gradients,
    activations: own.activations,
  }),
  ...(own.folder && { offload_folder: own.folder }),
});
const { seconds: create_s } = watch.lap();
if (own.resume) await trainer.resume(own.resume);
const { seconds: resume_s } = watch.lap();

/** @param {number[][]} ids */
const step = (ids) => trainer.step({ input_ids: ids, labels: ids });
const { steps, warmupSteps } = settings;
const run = await timedSteps({ step }, batches, { steps, warmupSteps, done: trainer.steps });

/** @type {{ save_s?: number, loss_after_save?: number }} */
const saved = {};
if (own.save) {
  watch.lap();
  await trainer.save(own.save);
  saved.save_s = watch.lap().seconds;
  saved.loss_after_save = (await step(batches[trainer.steps % batches.length] ?? [])).loss;
}
const { homes, disk_per_step, flops_per_step, kept_activations, parameters } = trainer.plan();
const planned_bytes = model.plan.bytes;
await trainer.dispose(); // once the last updates are made, which may be where the peak is
console.log(
  JSON.stringify({
    ...{ engine: "spillway", version, create_s, parameters, tokens: sequences * length },
    ...run,
    ...(own.resume && { resume_s }),
    ...saved,
    ...residentMemory(),
    plan: { homes, disk_per_step, flops_per_step, kept_activations, planned_bytes },
    memory: model.memory(),
    threads: model.statistics().threads,
  }),
);
await model.dispose();
