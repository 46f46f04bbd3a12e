// One optimizer step, from the batches it is given to the updates that follow from them. The parts it calls: passes.ts
// (forward and backward of a micro-batch), step-updates.ts (which parameters are stepped when), update-queue.ts (the stepping).
import type { Device } from "../../backend/ggml/device.ts";
import { ConfigError, NumericsError } from "../../base/errors.ts";
import type { Ledger } from "../../memory/ledger.ts";
import type { ModelSpec } from "../../models/spec.ts";
import { writeWorkingCopies } from "../checkpoints/state-tensors.ts";
import type { TrainerSettings } from "../open/options.ts";
import type { Parameters } from "../open/parameters.ts";
import type { TrainedStates } from "../open/trained-weights.ts";
import type { StepResult } from "../trainer-face.ts";
import { microBatch, type TrainingBatch } from "./batch.ts";
import type { Gradients, OpenGradients } from "./gradient-store.ts";
import type { Passes } from "./passes.ts";
import { StepUpdates } from "./step-updates.ts";
import type { UpdateQueue } from "./update-queue.ts";

/** What a step works on: an open session. */
export interface StepParts {
  readonly settings: TrainerSettings;
  readonly spec: ModelSpec;
  readonly parameters: Parameters;
  readonly trained: TrainedStates;
  readonly passes: Passes;
  readonly gradients: Gradients;
  readonly updates: UpdateQueue;
  readonly cpu: Device;
  readonly ledger: Ledger;
  /** A step of so many micro-batches begins: reads of its weights may go ahead. Throws the error of an update that failed. */
  begin(micro: number): Promise<void>;
  /** All its updates have been asked for: the next one's weights may be read as they are made. */
  end(): void;
  /** After an error: nothing is under way any more. */
  abandon(): Promise<void>;
  /** Throws where a file changed that weights are read from. */
  checkUnchanged(): Promise<void>;
}

/** How far training has come. */
export interface StepsMade {
  /** Updates made. */
  steps: number;
  /** The last step was clipped or skipped: the next one may well be, and is not updated ahead. */
  held: boolean;
}

/**
 * Makes a step: gradients of all micro-batches are added up, the loss is the mean over all their targets. Resolves when the
 * gradients are known; the weights change afterwards, and whatever needs them waits. Errors are those of `Trainer.step`.
 */
export async function trainingStep(
  parts: StepParts,
  progress: StepsMade,
  batches: readonly TrainingBatch[],
  signal?: AbortSignal,
): Promise<Omit<StepResult, "seconds" | "stalled" | "read_bytes" | "written_bytes">> {
  const { settings, spec, parameters, passes, gradients, cpu, ledger } = parts;
  const { micro, targets } = withTargets(batches, spec);
  const learning_rate = settings.schedule(progress.steps);

  await parts.begin(micro.length);
  gradients.restart();
  const updates = new StepUpdates({
    ...{ settings, parameters, updates: parts.updates, cpu, ledger },
    ...{ steps: progress.steps, mayBeAhead: !progress.held },
    drop: () => takeBack(parts, progress.steps + 1),
  });
  let loss = 0;
  let grad_norm = 0;
  let skipped = false;
  try {
    for (const [i, batch] of micro.entries()) {
      loss += await passes.train(microBatch(batch, spec), {
        gradScale: 1 / targets,
        seed: [settings.seed, progress.steps, i],
        signal,
        // Gradients are final once the last micro-batch has added to them.
        ...(i === micro.length - 1 && {
          onFinal: (opened: OpenGradients) => updates.final(opened),
          onReady: (parameters) => updates.ready(parameters),
        }),
      });
    }
    await parts.checkUnchanged(); // no update is made of weights that changed underneath

    grad_norm = updates.gradNorm;
    skipped = !Number.isFinite(loss) || !Number.isFinite(grad_norm);
    if (skipped && settings.non_finite === "error")
      throw new NumericsError(
        `step ${progress.steps + 1}: loss ${loss / targets}, gradient norm ${grad_norm}; lower learning_rate ` +
          `(${learning_rate}), or set non_finite to "skip"`,
      );
    const scale = clipping(grad_norm, settings.max_grad_norm);
    progress.held = skipped || scale < 1;

    if (skipped) await updates.drop();
    else updates.make(scale);
  } catch (error) {
    await parts.abandon();
    await updates.drop();
    // Updates made as backward went along cannot be taken back.
    if (updates.begun) parts.updates.fail(error, `step ${progress.steps + 1}`);
    throw error;
  }
  if (!skipped) progress.steps++;
  parts.end();
  return {
    ...{ step: progress.steps, loss: loss / targets, grad_norm, learning_rate, skipped },
    tokens: batches.reduce((sum, b) => sum + b.input_ids.reduce((n, row) => n + row.length, 0), 0),
    target_tokens: targets,
  };
}

/**
 * The micro-batches that have targets, and how many they have in all. All are checked before the first is used; then each is
 * made again when its turn comes, so that one is held at a time. Throws ConfigError.
 */
function withTargets(batches: readonly TrainingBatch[], spec: ModelSpec) {
  const counts = batches.map((batch) => microBatch(batch, spec).predicting.length);
  const targets = counts.reduce((a, b) => a + b, 0);
  if (targets === 0) throw new ConfigError("labels: no token has a target; -100 is ignored");
  return { micro: batches.filter((_, i) => (counts[i] as number) > 0), targets };
}

/** What gradients are multiplied by, as torch.nn.utils.clip_grad_norm_ does it; a limit of 0 is none. */
function clipping(norm: number, limit: number): number {
  return limit > 0 ? Math.min(1, limit / (norm + 1e-6)) : 1;
}

/** Takes back what was updated ahead: master copies and moments are what they were, and copies that compute are made anew. */
async function takeBack({ updates, trained, cpu, ledger }: StepParts, step: number): Promise<void> {
  try {
    const begun = await updates.drop();
    await writeWorkingCopies({ all: begun }, trained.states, { cpu, ledger });
  } catch (error) {
    updates.fail(error, `taking back what was updated ahead in step ${step}`);
    throw error;
  }
}
