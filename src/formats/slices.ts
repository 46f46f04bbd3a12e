// Parts of a tensor as tensors of their own: where their bytes are, not the bytes. A part of whole rows, or one of several
// tensors that are stacked in one, lies in one piece.
import { CheckpointError } from "../base/errors.ts";
import type { TensorEntry } from "./types.ts";

/**
 * Rows `first` to `first + count` along the first dimension of a tensor [rows, ...]: [count, ...]. The name stays the whole
 * tensor's. Throws CheckpointError for rows it does not have.
 */
export function rowsOf(entry: TensorEntry, first: number, count: number): TensorEntry {
  const [rows = 1, ...rest] = entry.shape;
  const inside = Number.isInteger(first) && Number.isInteger(count) && first >= 0 && count >= 1;
  if (!inside || first + count > rows)
    throw new CheckpointError(
      `[${entry.shape.join(", ")}] has ${rows} rows; ${count} from row ${first} on were asked for`,
      { tensor: entry.name },
    );
  const row = entry.bytes / rows;
  return { ...entry, shape: [count, ...rest], offset: entry.offset + first * row, bytes: count * row };
}

/** Tensor `index` of those stacked in one, [tensors, ...]: [...]. Throws as {@link rowsOf}. */
export function stackedOf(entry: TensorEntry, index: number): TensorEntry {
  const one = rowsOf(entry, index, 1);
  return { ...one, shape: one.shape.slice(1) };
}
