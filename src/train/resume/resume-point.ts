// Which training checkpoint a run goes on from, and whether it is one of this training.
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { ConfigError, IoError } from "../../base/errors.ts";
import { shown } from "../../base/shown.ts";
import { resumableCheckpoint } from "../checkpoints/index.ts";

/** The checkpoint at a path, or the latest one in the folder at that path. Throws CheckpointError where that is damaged. */
export async function checkpointIn(path: string): Promise<string> {
  const own = await stat(join(path, "training_state.json")).catch(() => undefined);
  if (own) return path;
  const latest = await resumableCheckpoint(path);
  if (!latest) throw new IoError("there is no whole training checkpoint in this folder", path);
  return latest.path;
}

/** Which training saved a checkpoint, through all its resumes. */
export function runOf(meta: Readonly<Record<string, unknown>>): string | undefined {
  return typeof meta.run === "string" ? meta.run : undefined;
}

/** Fingerprints tell people nothing. */
const MODELS: Readonly<Record<string, string>> = {
  base_config: "the config.json of the base model differs",
  base_tensors: "the base model has other tensors",
  base_values: "the weights of the base model are others",
  adapter_values: "the adapter that training began with is another",
};

/** In words, what of a saved training's rates is another now: "learning_rate was 0.001 and is 0.0001". */
export function rateChanges(saved: unknown, now: Readonly<Record<string, unknown>>): string[] {
  if (typeof saved !== "object" || saved === null) return []; // saved by a trainer of another kind
  return differences(saved as Record<string, unknown>, now);
}

export function differences(
  before: Readonly<Record<string, unknown>>,
  now: Readonly<Record<string, unknown>>,
): string[] {
  return Object.keys(now)
    .filter((key) => JSON.stringify(before[key]) !== JSON.stringify(now[key]))
    .map((key) => `${key} was ${shown(before[key])} and is ${shown(now[key])}`);
}

export function checkIdentity(saved: unknown, now: Readonly<Record<string, unknown>>, path: string): void {
  const before = (typeof saved === "object" && saved !== null ? saved : {}) as Record<string, unknown>;
  const differences = Object.keys(now)
    .filter((key) => before[key] !== now[key])
    .map((key) => MODELS[key] ?? `${key} was ${shown(before[key])} and is ${shown(now[key])}`);
  if (differences.length === 0) return;
  throw new ConfigError(
    `${path} was saved with other settings: ${differences.join(", ")}; give what was given before`,
  );
}
