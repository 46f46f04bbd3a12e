// Reads what a model is, from headers and config.json alone: nothing is allocated, no device opened.
import { joinSaved, openAdapter } from "../../adapters/index.ts";
import { joinNotes } from "../../base/notes.ts";
import { openBaseModel } from "../../models/base-model.ts";
import { parseWeightDType } from "../../plan/options.ts";
import { modelUnits } from "../../plan/units.ts";
import type { Skeleton } from "./prepared.ts";
import type { TrainingHooks } from "./training-hooks.ts";

/** What may differ from the checkpoint as it is. */
export interface SkeletonRequest {
  /** Type of the weights in memory: "auto" keeps the checkpoint's. */
  readonly dtype?: string | undefined;
  /** Folder of a PEFT LoRA adapter. */
  readonly adapter?: string | undefined;
  /** Set when the model is loaded to be trained. */
  readonly training?: TrainingHooks | undefined;
  /** Bytes of the largest unit, for tests with small models: see `UNIT_BYTES`. */
  readonly unitBytes?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Reads headers and config.json, and those of an adapter, and joins them.
 * Throws CheckpointError, ConfigError, UnsupportedError.
 */
export async function readSkeleton(dir: string, request: SkeletonRequest = {}): Promise<Skeleton> {
  const { dtype = "auto", signal, adapter: adapterDir, training, unitBytes } = request;
  const { config, spec: own, checkpoint: base, notes: found } = await openBaseModel(dir, signal);
  const adapter =
    adapterDir === undefined
      ? undefined
      : await openAdapter(adapterDir, own, { base, ...(signal && { signal }) });
  const joined = adapter ? joinSaved(base, own, adapter) : { checkpoint: base, spec: own };
  const { checkpoint, spec } = training ? training.join(joined.checkpoint, joined.spec) : joined;
  const keepLayout = training !== undefined;
  const model = modelUnits(spec, checkpoint, {
    dtype: parseWeightDType(dtype),
    keepLayout,
    ...(unitBytes !== undefined && { unitBytes }),
  });
  const notes = joinNotes(found, model.notes, adapter?.notes);
  return { dir, checkpoint, config, spec, model, adapter, notes };
}
