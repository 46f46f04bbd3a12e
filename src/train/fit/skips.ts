// Steps that were skipped because a gradient was not finite: one is nothing, a row of them is a run that trains nothing.
import { NumericsError } from "../../base/errors.ts";
import type { FitResult } from "./fit-result.ts";

/** So many in a row are said. */
const WARN = 5;
/** So many in a row end the run. */
const GIVE_UP = 50;

/** A run whose updates ended, or never began, because its gradients were not finite. */
export class NothingTrainedError extends NumericsError {
  /** What the run came to. */
  readonly result: FitResult;
  constructor(message: string, result: FitResult) {
    super(message);
    this.result = result;
  }
}

export class Skips {
  /** Of this run. */
  skipped = 0;
  updates = 0;
  #inRow = 0;

  /** Takes note of a step; a sentence where there is something to say now. */
  add(skipped: boolean): string | undefined {
    if (!skipped) {
      this.updates++;
      this.#inRow = 0;
      return undefined;
    }
    this.skipped++;
    this.#inRow++;
    if (this.#inRow !== WARN) return undefined;
    return `${WARN} steps in a row were skipped, because their gradients are not finite: the run ends after ${GIVE_UP}`;
  }

  /** Weights are not to be trusted: they are not saved over those of before. */
  get suspect(): boolean {
    return this.#inRow > 0 && (this.updates === 0 || this.#inRow >= WARN);
  }

  /** Why the run is to end now; undefined where it may go on. */
  get hopeless(): string | undefined {
    return this.#inRow >= GIVE_UP ? this.#problem() : undefined;
  }

  /** Why a run that is over is a failure; undefined where it is none. */
  get verdict(): string | undefined {
    const steps = this.skipped + this.updates;
    const failed = this.suspect || (this.#inRow > 1 && this.#inRow * 2 >= steps);
    return failed ? this.#problem() : undefined;
  }

  #problem(): string {
    const steps = this.skipped + this.updates;
    const how =
      this.updates === 0
        ? `all ${steps} steps were skipped, so nothing was trained`
        : `the last ${this.#inRow} of ${steps} steps were skipped, so the weights are most likely not finite any more`;
    return `${how}: gradients are not finite; look for weights or data that are not, or lower learning_rate`;
  }
}
