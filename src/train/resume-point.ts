// Which training checkpoint a run goes on from, and whether it is one of this training.
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { ConfigError, IoError } from "../errors.ts";
import { latestCheckpoint } from "./checkpoints/index.ts";

/** The checkpoint at a path, or the latest one in the folder at that path. */
export async function checkpointIn(path: string): Promise<string> {
  const own = await stat(join(path, "training_state.json")).catch(() => undefined);
  if (own) return path;
  const latest = await latestCheckpoint(path);
  if (!latest) throw new IoError("there is no whole training checkpoint in this folder", path);
  return latest.path;
}

export function checkIdentity(saved: unknown, now: Readonly<Record<string, unknown>>, path: string): void {
  const before = (typeof saved === "object" && saved !== null ? saved : {}) as Record<string, unknown>;
  const differences = Object.keys(now)
    .filter((key) => before[key] !== now[key])
    .map((key) => `${key} was ${JSON.stringify(before[key])} and is ${JSON.stringify(now[key])}`);
  if (differences.length === 0) return;
  throw new ConfigError(
    `${path} was saved with other settings: ${differences.join(", ")}; give what was given before`,
  );
}
