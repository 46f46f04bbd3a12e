// Copies of the base's weights in an adapter's file: PEFT writes one for a head that is a target, in case its vocabulary
// was resized (save_embedding_layers); one of another size takes the base's place, which is vocabulary.ts. They are the
// base's own, or the adapter is for another model; nothing is taken from them.

import { UnsupportedError } from "../base/errors.ts";
import { sameTensor } from "../formats/compare.ts";
import type { Checkpoint } from "../formats/types.ts";
import type { ModelSpec, WeightSpec } from "../models/spec.ts";
import { resolveName } from "../models/ties.ts";
import { copyNameOf } from "./names.ts";

/**
 * Compares the copies in an adapter's file with the weights of `base`, block by block. Throws UnsupportedError for one
 * that differs, CheckpointError, IoError, AbortError.
 */
export async function checkCopies(
  adapter: { readonly copies: readonly WeightSpec[]; readonly checkpoint: Checkpoint },
  base: Checkpoint,
  spec: ModelSpec,
  signal?: AbortSignal,
): Promise<void> {
  for (const { name } of adapter.copies) {
    const copy = adapter.checkpoint.tensors.get(copyNameOf(name));
    const weight = base.tensors.get(resolveName(spec, base, name));
    if (!copy || !weight) continue; // a base without the weight is refused when its units are made
    const ofAdapter = { checkpoint: adapter.checkpoint, entry: copy };
    if (await sameTensor(ofAdapter, { checkpoint: base, entry: weight }, signal)) continue;
    const kinds = copy.dtype === weight.dtype ? "" : ` (${copy.dtype}, the base has ${weight.dtype})`;
    throw new UnsupportedError(
      `${adapter.checkpoint.path}: ${copy.name} is not the base's ${weight.name}${kinds}; name the base that the adapter ` +
        "was trained on, or save it with save_embedding_layers=False",
    );
  }
}
