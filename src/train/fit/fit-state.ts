// Where a run is, as JSON in its checkpoints, and which checkpoint a run begins from.
import { ConfigError } from "../../base/errors.ts";
import { latestCheckpoint, openTrainingCheckpoint, resumableCheckpoint } from "../checkpoints/index.ts";
import { infoOf } from "../checkpoints/list.ts";
import { checkpointIn, runOf } from "../resume/resume-point.ts";
import { identityOf, type RunIdentity } from "../resume/run-identity.ts";
import type { FitSettings } from "./fit-options.ts";

/** Everything the loop needs to go on, beside what the trainer keeps. */
export interface FitState {
  /** Batches trained on. One more than updates for each step that was skipped. */
  readonly step: number;
  /** Trained on so far. */
  readonly tokens: number;
  /** Of the last step; null where it was not finite or there was none. */
  readonly loss: number | null;
  /** The lowest loss on held-out data. */
  readonly best_eval: { readonly step: number; readonly loss: number } | null;
  /** Of the data; checked by the loader. */
  readonly cursor: unknown;
}

export const START: FitState = { step: 0, tokens: 0, loss: null, best_eval: null, cursor: undefined };

/** The name under which a checkpoint's meta holds a {@link FitState}. */
const KEY = "fit";
const VERSION = 1;

/** What a checkpoint's meta gets. */
export function metaOf(state: FitState): Record<string, unknown> {
  return { [KEY]: { version: VERSION, ...state } };
}

/** The state in the meta of the checkpoint at `path`. Throws ConfigError. */
export function stateIn(meta: Readonly<Record<string, unknown>>, path: string): FitState {
  const saved = objectOf(meta[KEY]);
  if (!saved)
    throw new ConfigError(
      `${path} does not say where it was in its data, because fit did not save it: resume from another checkpoint`,
    );
  const bad = (name: string) =>
    new ConfigError(`${path}: ${name} is ${JSON.stringify(saved[name])}: resume from another checkpoint`);
  if (saved.version !== VERSION) throw bad("version");
  const { step, tokens, loss, cursor } = saved;
  if (!isCount(step)) throw bad("step");
  if (!isCount(tokens)) throw bad("tokens");
  if (loss !== null && typeof loss !== "number") throw bad("loss");
  const best = saved.best_eval === null ? null : objectOf(saved.best_eval);
  if (best === undefined) throw bad("best_eval");
  if (best === null) return { step, tokens, loss, cursor, best_eval: null };
  if (!isCount(best.step) || typeof best.loss !== "number") throw bad("best_eval");
  return { step, tokens, loss, cursor, best_eval: { step: best.step, loss: best.loss } };
}

/** What a checkpoint says of the run that saved it. */
export interface SavedRun {
  readonly path: string;
  readonly state: FitState;
  readonly identity: RunIdentity | undefined;
  readonly run: string | undefined;
  /** As the trainer saved them; anything where another program did. */
  readonly rates: unknown;
}

/** Reads it. Throws CheckpointError, ConfigError, UnsupportedError, IoError. */
export async function readFitState(path: string): Promise<SavedRun> {
  const { meta } = await openTrainingCheckpoint(path);
  const user = objectOf(meta.user) ?? {};
  return {
    path,
    state: stateIn(user, path),
    identity: identityOf(user),
    run: runOf(meta),
    rates: meta.rates,
  };
}

/**
 * The checkpoint to go on from, or undefined to start anew. Throws ConfigError rather than mix two runs in one folder:
 * where a new one would be among checkpoints of an earlier one, or where later checkpoints than the one given are there;
 * CheckpointError where the latest is damaged.
 */
export async function startingPoint({
  checkpoints,
  resume,
}: Pick<FitSettings, "checkpoints" | "resume">): Promise<string | undefined> {
  if (resume === true) return (await resumableCheckpoint(checkpoints))?.path;
  if (resume === false) {
    const latest = await resumableCheckpoint(checkpoints);
    if (!latest) return undefined;
    throw new ConfigError(
      `${checkpoints} holds an earlier run, up to step ${latest.step}: resume it, or give another output_dir`,
    );
  }
  const latest = await latestCheckpoint(checkpoints);
  const given = await checkpointIn(resume);
  const step = (await infoOf(given))?.step; // what is not a checkpoint is told by whoever opens it
  if (step !== undefined && latest && latest.step > step) {
    throw new ConfigError(
      `${checkpoints} holds checkpoints up to step ${latest.step}, later than ${given}, and both cannot go on in one ` +
        "folder: resume from the latest, or give another output_dir",
    );
  }
  return given;
}

function objectOf(value: unknown): Record<string, unknown> | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : undefined;
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
