// Weights that are another weight under a second name, and what they are called in a checkpoint. Whether a tie holds is
// decided here, once, from what the file has; running, adapters, training and export all go by the spec that comes out.
import { sameTensor } from "../formats/compare.ts";
import type { Checkpoint } from "../formats/types.ts";
import type { ModelSpec } from "./spec.ts";

/** The name a weight has in this checkpoint: its own, its other name if tied, or without the family's prefix. */
export function resolveName(spec: ModelSpec, checkpoint: Checkpoint, name: string): string {
  const real = spec.tied[name] ?? name;
  return heldName(spec, checkpoint, real) ?? real;
}

/** The name under which the checkpoint itself has a weight, ties aside; undefined where it does not. */
export function heldName(spec: ModelSpec, checkpoint: Checkpoint, name: string): string | undefined {
  if (checkpoint.tensors.has(name)) return name;
  const bare = name.startsWith(`${spec.prefix}.`) ? name.slice(spec.prefix.length + 1) : name;
  return checkpoint.tensors.has(bare) ? bare : undefined;
}

export interface SettledTies {
  /** With the ties that hold, as a rule from the head to the embedding. */
  readonly spec: ModelSpec;
  /** Names that config.json calls another weight and that the checkpoint holds as one of their own. */
  readonly apart: readonly string[];
  readonly notes: readonly string[];
}

/**
 * Decides each tie as transformers 5.18 does:
 * - only one of the two is in the checkpoint: it is both, whichever name it has;
 * - both are and are equal: they are one;
 * - both are and differ: each is its own, whatever the config says, with a note.
 *
 * Equality takes reading both, which for a large head is time: but taken for equal unread, a model whose head was trained
 * apart would answer wrongly without a word, and taken for different, the head would be held twice. A checkpoint without
 * a second copy, which is what transformers saves, is not read at all.
 */
export async function settleTies(
  spec: ModelSpec,
  checkpoint: Checkpoint,
  signal?: AbortSignal,
): Promise<SettledTies> {
  const tied: Record<string, string> = {};
  const apart: string[] = [];
  const notes: string[] = [];
  for (const [alias, name] of Object.entries(spec.tied)) {
    const [copy, weight] = [heldName(spec, checkpoint, alias), heldName(spec, checkpoint, name)];
    if (copy === undefined) tied[alias] = name;
    else if (weight === undefined) tied[name] = alias;
    else if (await isCopy(checkpoint, copy, weight, signal)) tied[alias] = name;
    else {
      apart.push(alias);
      notes.push(
        `config.json says that ${alias} is ${name}, but the file has two that differ: each is used as it is; ` +
          "tie_word_embeddings: false would say so",
      );
    }
  }
  return { spec: { ...spec, tied }, apart, notes };
}

function isCopy(
  checkpoint: Checkpoint,
  copy: string,
  weight: string,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const [a, b] = [checkpoint.tensors.get(copy), checkpoint.tensors.get(weight)];
  if (!a || !b) return Promise.resolve(false);
  return sameTensor({ checkpoint, entry: a }, { checkpoint, entry: b }, signal);
}
