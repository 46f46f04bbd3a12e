// What training needs, said at once where not even the model fits: nothing is loaded.

import { BudgetError } from "../../base/errors.ts";
import { type EngineOptions, prepare } from "../../runtime/open/prepare.ts";
import { closeDevices } from "../../runtime/open/prepared.ts";
import { readSkeleton } from "../../runtime/open/skeleton.ts";
import { loadingOf } from "../session.ts";
import { type TrainerOptions, trainerSettings } from "./options.ts";

/**
 * The refusal of a training that does not fit in the budgets of `model`, with the smallest budget that works; undefined
 * where it would fit. `opening` is the refusal of the model by itself. Throws what opening either would throw.
 */
export async function trainingRefusal(
  dir: string,
  model: EngineOptions,
  options: TrainerOptions,
  opening: BudgetError,
): Promise<BudgetError | undefined> {
  const skeleton = await readSkeleton(dir, { dtype: model.dtype, signal: options.signal });
  const { context_length: context = skeleton.spec.max_positions } = model;
  const { changes } = await loadingOf({ ...skeleton, context }, model, trainerSettings(options), options);
  try {
    await closeDevices(await prepare(dir, { ...model, ...changes }));
    return undefined;
  } catch (error) {
    if (!(error instanceof BudgetError)) throw error;
    return (error.smallest ?? 0) >= (opening.smallest ?? 0) ? error : opening;
  }
}
