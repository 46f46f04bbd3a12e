// A step whose stages are computed again in backward, against one that keeps their results: run one after the other, within a
// budget of RAM or without one. No disk of known speed is needed: what streams is read from the machine's own.
import path from "node:path";
import { WORK } from "./cases.mjs";
import { median, mib, round, spread, table, withRange } from "./results.mjs";
import * as training from "./training-case.mjs";

/** What keep_activations may be, the first of a bench being what the others are compared with. */
const KEEP = ["none", "auto", "all"];

/** @param {string} text */
export function keepChoices(text) {
  const choices = text.split(",");
  const odd = choices.find((one) => !KEEP.includes(one));
  if (odd !== undefined) throw new Error(`--keep-activations is ${KEEP.join(", ")}, not ${odd}`);
  return choices;
}

/** @param {training.TrainingRun} run */
const stepSeconds = (run) => median(run.steps.map((step) => step.seconds));

/**
 * @param {{ keep: string[], tokens: number[], budgets: number[], repeats: number, steps: number, precision: string, device: string, threads?: string | undefined }} settings
 *   budgets in MiB; 0 is none
 * @param {training.TrainingModel} model
 */
export async function compareKept({ keep, tokens, budgets, repeats, ...settings }, model) {
  const found = [];
  for (const count of tokens) {
    const batches = await training.batchFile(training.batchShape(count), model.config.vocab_size);
    for (const budget of budgets) {
      /** @type {training.TrainingRun[][]} by choice */
      const runs = keep.map(() => []);
      for (let repeat = 0; repeat < repeats; repeat++) {
        for (const [i, choice] of keep.entries()) {
          console.error(
            `repeat ${repeat + 1} of ${repeats}: ${count} tokens, ${budget || "no"} MiB, ${choice}`,
          );
          const run = await training.trainSpillway({
            ...{ model: model.checkpoint, batches, folder: path.join(WORK, "kept-state"), ...settings },
            ...{ "keep-activations": choice, ...(budget > 0 && { "budget-mib": budget }) },
          });
          runs[i]?.push(run);
        }
      }
      const base = /** @type {training.TrainingRun[]} */ (runs[0]);
      for (const [i, choice] of keep.entries()) {
        const own = /** @type {training.TrainingRun[]} */ (runs[i]);
        const [one] = own;
        found.push({
          ...{ tokens: count, budget_mib: budget, keep: choice },
          step_s: spread(own.map(stepSeconds)),
          ratio: spread(
            own.map((run, n) => stepSeconds(/** @type {typeof run} */ (base[n])) / stepSeconds(run)),
          ),
          kept: one?.plan?.kept_activations,
          read_bytes: median(own.flatMap((run) => run.steps.map((step) => step.read_bytes))),
          peak: one?.memory?.peak.cpu,
          sameLosses: own.every((run) => run.losses.join() === base[0]?.losses.join()),
        });
      }
    }
  }
  return found;
}

/** @param {Awaited<ReturnType<typeof compareKept>>} found */
export function printKept(found) {
  console.log(
    table(
      found.map((one) => ({
        tokens: one.tokens,
        "budget MiB": one.budget_mib || "none",
        keep: one.keep,
        stages: one.kept ? `${one.kept.stages} of ${one.kept.of}` : "",
        "MiB kept": mib(one.kept?.bytes ?? 0),
        "% spared": round(100 * (one.kept?.spared ?? 0)),
        "s per step": withRange(one.step_s),
        "first / this": withRange(one.ratio),
        "MiB read": mib(one.read_bytes),
        "peak MiB": mib(one.peak ?? 0),
        losses: one.sameLosses ? "the same" : "DIFFER",
      })),
    ),
  );
}
