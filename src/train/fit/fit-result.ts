// What a run tells its caller: where it goes on from, and what came of it.

/** Where a run goes on from. */
export interface ResumeInfo {
  /** Steps made before; 0 where there was nothing to resume. */
  readonly step: number;
  /** Steps of the whole run. */
  readonly total: number;
  /** undefined where there was none: the run begins anew. */
  readonly checkpoint: string | undefined;
  /** What is given otherwise than before, and may be: a line each. */
  readonly changes: readonly string[];
}

export interface FitResult {
  /** Steps made in all, those of earlier runs and skipped ones included. */
  readonly steps: number;
  /** Of the last step; undefined where it was not finite or no step was made. */
  readonly loss: number | undefined;
  /** The lowest loss on held-out data, and the step after which it was measured. */
  readonly best_eval: { readonly step: number; readonly loss: number } | undefined;
  /** Trained on in all. */
  readonly tokens: number;
  /** Of this run. */
  readonly seconds: number;
  /** Folder of the last checkpoint; undefined only where no step was made at all. */
  readonly checkpoint: string | undefined;
  /** The step this run went on from. */
  readonly resumed_from: number | undefined;
  /** The signal ended the run before its last step. */
  readonly interrupted: boolean;
  /** Steps of this run that updated the weights, and that were skipped because a gradient was not finite. */
  readonly updates: number;
  readonly skipped: number;
}
