// A model folder as everything that uses one begins with it: config.json, the headers of its weights, and the ties of the
// two decided. Reads no weights but copies of a tied one; takes no memory.
import { join } from "node:path";
import { joinNotes } from "../base/notes.ts";
import { readConfigJson } from "../formats/files/json-files.ts";
import { openCheckpoint } from "../formats/open.ts";
import type { Checkpoint } from "../formats/types.ts";
import { modelSpec } from "./families.ts";
import type { ModelSpec } from "./spec.ts";
import { settleTies } from "./ties.ts";

export interface BaseModel {
  readonly config: Readonly<Record<string, unknown>>;
  /** With the ties that the checkpoint's own tensors allow. */
  readonly spec: ModelSpec;
  readonly checkpoint: Checkpoint;
  /** Names that config.json calls another weight and that the files hold as one of their own. */
  readonly apart: readonly string[];
  /** What the files say and hold that is not used: see base/notes.ts. */
  readonly notes: readonly string[];
}

/** Throws CheckpointError, ConfigError, UnsupportedError, IoError, AbortError. */
export async function openBaseModel(dir: string, signal?: AbortSignal): Promise<BaseModel> {
  const config = await readConfigJson(dir);
  const named = modelSpec(config, join(dir, "config.json"));
  const checkpoint = await openCheckpoint(dir, {
    ignore: named.ignored,
    tolerant: true, // modelUnits judges what is odd about tensors that may not be needed
    ...(signal && { signal }),
  });
  const { spec, apart, notes } = await settleTies(named, checkpoint, signal);
  return { config, spec, checkpoint, apart, notes: joinNotes(spec.notes, checkpoint.notes, notes) };
}
