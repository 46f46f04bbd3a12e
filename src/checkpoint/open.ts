// From a path to a Checkpoint: finds out which of the layouts we read is there, and reads its headers.
import { dirname, join, resolve } from "node:path";
import { CheckpointError, throwIfAborted } from "../errors.ts";
import { listFolder, statIfPresent } from "./files.ts";
import { type ReadHeaderOptions, readSafetensors, type SafetensorsFile } from "./safetensors.ts";
import { readShards } from "./shards.ts";
import type { Checkpoint, TensorEntry } from "./types.ts";

/** The file of a checkpoint that is not split. */
export const SINGLE_FILE = "model.safetensors";
/** The file that lists the shards of a checkpoint that is. */
export const INDEX_FILE = "model.safetensors.index.json";
const FORMATS_READ = `${SINGLE_FILE}, or ${INDEX_FILE} with its shards`;

/** File names that look like weights, in whatever format. */
export const WEIGHT_FILES = /\.(safetensors|bin|gguf|pt|pth|ckpt|h5|msgpack|onnx|npz)$|\.index\.json$/;

export interface OpenOptions extends ReadHeaderOptions {}

/**
 * Opens the checkpoint at `path`: a folder with `model.safetensors` or with `model.safetensors.index.json`, one
 * `.safetensors` file, or an index file. Reads headers only, so the time does not depend on the size of the weights; keeps no file open.
 *
 * `ignore` leaves tensors out by name, whatever their dtype (the boolean masks that some old checkpoints carry).
 * Throws CheckpointError naming file and tensor when anything is missing or malformed, IoError when the system refuses
 * a read, AbortError when `signal` fires.
 */
export async function openCheckpoint(path: string, options: OpenOptions = {}): Promise<Checkpoint> {
  throwIfAborted(options.signal);
  const absolute = resolve(path);
  const stats = await statIfPresent(absolute);
  if (stats === undefined) {
    throw new CheckpointError("does not exist: give a checkpoint's folder or a .safetensors file", {
      file: absolute,
    });
  }
  if (stats.isDirectory()) return assemble(absolute, await readFolder(absolute, options));
  if (absolute.endsWith(".safetensors.index.json")) {
    return assemble(absolute, await readShards(dirname(absolute), absolute, options));
  }
  if (!absolute.endsWith(".safetensors")) {
    throw new CheckpointError(
      `is not a format this opens: give a .safetensors file or a folder with ${FORMATS_READ}`,
      {
        file: absolute,
      },
    );
  }
  return assemble(absolute, [await readSafetensors(absolute, options)]);
}

async function readFolder(dir: string, options: OpenOptions): Promise<SafetensorsFile[]> {
  const single = join(dir, SINGLE_FILE);
  const index = join(dir, INDEX_FILE);
  // Where both exist the single file counts, as in transformers.
  if (await statIfPresent(single)) return [await readSafetensors(single, options)];
  if (await statIfPresent(index)) return readShards(dir, index, options);
  const names = await listFolder(dir);
  const weights = names.filter((name) => WEIGHT_FILES.test(name));
  const shown = (weights.length > 0 ? weights : names).slice(0, 8);
  const more = (weights.length > 0 ? weights : names).length - shown.length;
  const found =
    shown.length > 0 ? `found only ${shown.join(", ")}${more > 0 ? ` and ${more} more` : ""}` : "it is empty";
  throw new CheckpointError(`holds no checkpoint this opens: ${found}; what is read is ${FORMATS_READ}`, {
    file: dir,
  });
}

function assemble(path: string, read: readonly SafetensorsFile[]): Checkpoint {
  const tensors = new Map<string, TensorEntry>();
  const metadata = new Map<string, string>();
  for (const [file, { tensors: entries, metadata: strings }] of read.entries()) {
    for (const entry of entries) tensors.set(entry.name, { ...entry, file });
    for (const [key, value] of Object.entries(strings)) if (!metadata.has(key)) metadata.set(key, value);
  }
  return {
    path,
    format: "safetensors",
    files: read.map(({ file }) => file),
    tensors,
    metadata: Object.fromEntries(metadata),
  };
}
