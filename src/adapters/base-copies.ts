// Copies of the base's weights in an adapter's file: PEFT writes one for a head that is a target, in case its vocabulary
// was resized (save_embedding_layers); one of another size takes the base's place, which is vocabulary.ts. They are the base's own, or the adapter is for another model; nothing is taken
// from them.
import { readExactly, withFile } from "../checkpoint/files.ts";
import type { Checkpoint, TensorEntry } from "../checkpoint/types.ts";
import { throwIfAborted, UnsupportedError } from "../errors.ts";
import type { ModelSpec, WeightSpec } from "../models/spec.ts";
import { resolveName } from "../plan/units.ts";
import { copyNameOf } from "./names.ts";

/** Bytes of each side that are compared at a time. */
const BLOCK = 2 ** 20;

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
    if (copy.dtype === weight.dtype && (await areEqual(adapter.checkpoint, copy, base, weight, signal)))
      continue;
    const kinds = copy.dtype === weight.dtype ? "" : ` (${copy.dtype}, the base has ${weight.dtype})`;
    throw new UnsupportedError(
      `${adapter.checkpoint.path}: ${copy.name} is not the base's ${weight.name}${kinds}; name the base that the adapter ` +
        "was trained on, or save it with save_embedding_layers=False",
    );
  }
}

function areEqual(
  ofA: Checkpoint,
  a: TensorEntry,
  ofB: Checkpoint,
  b: TensorEntry,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const path = (checkpoint: Checkpoint, { file }: TensorEntry) => checkpoint.files[file]?.path ?? "";
  return withFile(path(ofA, a), (left) =>
    withFile(path(ofB, b), async (right) => {
      const blocks = [
        Buffer.alloc(Math.min(BLOCK, a.bytes)),
        Buffer.alloc(Math.min(BLOCK, a.bytes)),
      ] as const;
      for (let at = 0; at < a.bytes; at += BLOCK) {
        throwIfAborted(signal);
        const [x, y] = blocks.map((block) => block.subarray(0, a.bytes - at)) as [Buffer, Buffer];
        await readExactly(left, x, a.offset + at, path(ofA, a));
        await readExactly(right, y, b.offset + at, path(ofB, b));
        if (!x.equals(y)) return false;
      }
      return true;
    }),
  );
}
