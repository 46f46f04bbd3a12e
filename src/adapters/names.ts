// Names of tensors in adapters' files: what PEFT writes, and what is in files that were written from a model's whole
// state dict instead. One canonical name each, which the rest of the folder goes by.

import { CheckpointError } from "../base/errors.ts";
import type { Checkpoint, TensorEntry } from "../formats/types.ts";

/** In front of every name in an adapter's file. */
export const PREFIX = "base_model.model.";

/** Between a module that is wrapped for an adapter and what it was: `q_proj.base_layer.bias`. */
const BASE_LAYER = ".base_layer.";

/** Name in an adapter's file of a parameter that it keeps whole. */
export function savedName(parameter: string): string {
  return `${PREFIX}${parameter}`;
}

/** Name of the copy of a base's parameter that PEFT puts beside what an adapter does to it. */
export function copyNameOf(parameter: string): string {
  const at = parameter.lastIndexOf(".");
  return `${PREFIX}${parameter.slice(0, at)}${BASE_LAYER}${parameter.slice(at + 1)}`;
}

/**
 * PEFT leaves the adapter's own name ("default") out when it saves; files written from a state dict have it, and the
 * wrapper's names too. A bias that is trained beside a low-rank update is saved under `base_layer`.
 */
function canonicalName(stored: string): string {
  return stored
    .replace(/\.(lora_[AB])\.[^.]+\.weight$/, ".$1.weight")
    .replace(/\.modules_to_save\.(?:default\.)?/, ".")
    .replace(".original_module.", BASE_LAYER)
    .replace(/\.base_layer\.bias$/, ".bias");
}

/** The checkpoint with its tensors under canonical names. Throws CheckpointError where two adapters are in one file. */
export function withCanonicalNames(checkpoint: Checkpoint, path: string): Checkpoint {
  const tensors = new Map<string, TensorEntry>();
  for (const entry of checkpoint.tensors.values()) {
    const name = canonicalName(entry.name);
    const other = tensors.get(name);
    // PEFT with save_embedding_layers writes a module of modules_to_save twice, once under the wrapper's name.
    if (other && name.includes(".lora_"))
      throw new CheckpointError(`holds ${other.name} and ${entry.name}: save one adapter to a folder`, {
        file: path,
      });
    if (!other || entry.name === name) tensors.set(name, { ...entry, name });
  }
  return { ...checkpoint, tensors };
}
