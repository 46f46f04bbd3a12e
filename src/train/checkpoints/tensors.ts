// The tensors of a training state as regions, and how they are laid out in safetensors files whose data is aligned for
// direct I/O. Moves no bytes.
import { join } from "node:path";
import type { DType } from "../../backend/ggml/dtypes.ts";
import { CheckpointError, ConfigError } from "../../base/errors.ts";
import { inGroups } from "../../base/groups.ts";
import { checkTensors, type Laid, type Layout, layOut } from "../../formats/layout.ts";
import { LENGTH_FIELD, MAX_HEADER } from "../../formats/safetensors/safetensors.ts";
import { ALIGNMENT, wholeBlocks } from "../../memory/io/direct-io.ts";
import type { Region } from "../../memory/store.ts";
import { tensorFileName } from "./record.ts";

/** One tensor of a training state: its bytes lie in a region from `offset` on. */
export interface StateTensor {
  readonly name: string;
  /** "i8" with shape [bytes] for bytes that only their owner understands: 8-bit moments. */
  readonly dtype: DType;
  /** Dimensions, slowest-varying first. */
  readonly shape: readonly number[];
  readonly region: Region;
  /** Bytes; 0 if absent. */
  readonly offset?: number | undefined;
  readonly bytes: number;
}

export interface StateFileLayout extends Layout<StateTensor> {
  readonly name: string;
}

/** Most bytes of tensors in a file; a larger tensor has one of its own. */
const MAX_SHARD = 4 * 2 ** 30;

/**
 * The files that `tensors` are written to, in order. Throws CheckpointError or ConfigError naming the tensor for repeated
 * names, dtypes and shapes that safetensors does not hold, and bytes that are not the shape's or not in the region.
 */
export function layOutState(
  folder: string,
  tensors: readonly StateTensor[],
  limit: number = MAX_SHARD,
): StateFileLayout[] {
  if (!(limit > 0)) throw new ConfigError(`max_shard_bytes is ${limit}, it must be above 0`);
  const checked = checkStateTensors(folder, tensors);
  // Tensors of whole blocks come first and by themselves: each then begins at a block, in the region and in the file, and
  // moves without a detour. The few of odd sizes follow in files of their own.
  const whole = checked.filter(({ bytes }) => bytes % ALIGNMENT === 0);
  const odd = checked.filter(({ bytes }) => bytes % ALIGNMENT !== 0);
  const groups = [...split(whole, limit), ...split(odd, limit)];
  return groups.map((group, i) => {
    const name = tensorFileName(i, groups.length);
    return { name, ...alignData(layOut(join(folder, name), group, undefined)) };
  });
}

/** Throws as {@link layOutState} for a tensor that is not what it says. */
export function checkStateTensors(folder: string, tensors: readonly StateTensor[]): Laid<StateTensor>[] {
  const laid = checkTensors(folder, tensors);
  for (const { tensor, bytes } of laid) {
    const { name, dtype, shape, region, offset = 0 } = tensor;
    const bad = (problem: string) => new CheckpointError(problem, { file: folder, tensor: name });
    if (tensor.bytes !== bytes) {
      throw bad(`is given with ${tensor.bytes} bytes, shape [${shape}] of ${dtype} needs ${bytes}`);
    }
    if (!Number.isSafeInteger(offset) || offset < 0 || offset + bytes > region.bytes) {
      throw bad(
        `${bytes} bytes at ${offset} are outside its region, ${region.what} on ${region.tier} of ${region.bytes} bytes`,
      );
    }
  }
  return laid;
}

/** Consecutive groups of at most `limit` bytes, or of one tensor. */
function split(tensors: readonly Laid<StateTensor>[], limit: number): StateTensor[][] {
  return inGroups(tensors, limit, ({ bytes }) => bytes).map((group) => group.map(({ tensor }) => tensor));
}

/** Brings the data to a multiple of the block size by further spaces at the end of the header, as the format allows. */
function alignData(layout: Layout<StateTensor>): Layout<StateTensor> {
  const length = wholeBlocks(layout.header.length);
  if (length - LENGTH_FIELD > MAX_HEADER) return layout;
  const header = new Uint8Array(length).fill(0x20);
  header.set(layout.header);
  new DataView(header.buffer).setBigUint64(0, BigInt(length - LENGTH_FIELD), true);
  return { ...layout, header, bytes: layout.bytes - layout.header.length + length };
}
