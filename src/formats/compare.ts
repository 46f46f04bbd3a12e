// Whether two tensors hold the same bytes: read in blocks from the start of both, up to the first that differs.
// For copies of a weight; weights that are different matrices differ in their first block.
import { throwIfAborted } from "../base/errors.ts";
import { readExactly, withFile } from "./files/files.ts";
import type { Checkpoint, TensorEntry } from "./types.ts";

/** Bytes of each side that are compared at a time; two blocks of each are held. */
const BLOCK = 2 ** 20;

export interface TensorOf {
  readonly checkpoint: Checkpoint;
  readonly entry: TensorEntry;
}

/** Results of earlier comparisons of unchanged files: a model is opened more than once (inspect, plan, training). */
const known = new Map<string, boolean>();
const MOST_KNOWN = 64;

/** Whether type, shape and bytes are the same. Throws CheckpointError, IoError, AbortError. */
export async function sameTensor(a: TensorOf, b: TensorOf, signal?: AbortSignal): Promise<boolean> {
  if (a.entry.dtype !== b.entry.dtype || a.entry.shape.join() !== b.entry.shape.join()) return false;
  const key = `${placeOf(a)} ${placeOf(b)}`;
  const before = known.get(key);
  if (before !== undefined) return before;
  const same = await sameBytes(a, b, signal);
  if (known.size >= MOST_KNOWN) known.clear();
  known.set(key, same);
  return same;
}

function fileOf({ checkpoint, entry }: TensorOf) {
  return checkpoint.files[entry.file] ?? { path: "", size: 0, mtimeMs: 0 };
}

function placeOf(tensor: TensorOf): string {
  const { path, size, mtimeMs } = fileOf(tensor);
  return JSON.stringify([path, size, mtimeMs, tensor.entry.offset, tensor.entry.bytes]);
}

function sameBytes(a: TensorOf, b: TensorOf, signal: AbortSignal | undefined): Promise<boolean> {
  const [left, right] = [fileOf(a).path, fileOf(b).path];
  const { bytes } = a.entry;
  return withFile(left, (l) =>
    withFile(right, async (r) => {
      const size = Math.min(BLOCK, bytes);
      const slots = Array.from({ length: 2 }, () => [Buffer.alloc(size), Buffer.alloc(size)] as const);
      // The next blocks are on their way while these are compared.
      const read = async (at: number) => {
        const [x, y] = slots[(at / BLOCK) % 2]!.map((block) => block.subarray(0, bytes - at)) as [
          Buffer,
          Buffer,
        ];
        await Promise.all([
          readExactly(l, x, a.entry.offset + at, left),
          readExactly(r, y, b.entry.offset + at, right),
        ]);
        return [x, y] as const;
      };
      let next = bytes > 0 ? read(0) : undefined;
      for (let at = 0; next; at += BLOCK) {
        const [x, y] = await next;
        throwIfAborted(signal);
        next = at + BLOCK < bytes ? read(at + BLOCK) : undefined;
        if (x.equals(y)) continue;
        await next?.catch(() => undefined); // the files are not closed under a read
        return false;
      }
      return true;
    }),
  );
}
