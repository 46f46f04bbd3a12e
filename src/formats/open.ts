// From a path to a Checkpoint: finds out which of the layouts we read is there, and reads its headers.
import { dirname, join, resolve } from "node:path";
import { CheckpointError, throwIfAborted } from "../base/errors.ts";
import { listed } from "../base/notes.ts";
import { listFolder, statIfPresent } from "./files/files.ts";
import { type ReadHeaderOptions, readSafetensors } from "./safetensors/safetensors.ts";
import { readShards, type Shards } from "./shards.ts";
import type { Checkpoint, ForeignTensor, TensorEntry } from "./types.ts";

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
  return assemble(absolute, await oneFile(absolute, options));
}

/** What a path led to. */
interface Found extends Shards {
  readonly notes?: readonly string[];
}

async function oneFile(path: string, options: OpenOptions): Promise<Found> {
  return { files: [await readSafetensors(path, options)], disputed: new Map() };
}

async function readFolder(dir: string, options: OpenOptions): Promise<Found> {
  const single = join(dir, SINGLE_FILE);
  const index = join(dir, INDEX_FILE);
  // Where both exist the single file counts, as in transformers.
  const isSingle = (await statIfPresent(single)) !== undefined;
  if (!isSingle && (await statIfPresent(index)) === undefined) return refuseFolder(dir);
  const found = isSingle ? await oneFile(single, options) : await readShards(dir, index, options);
  return options.tolerant ? { ...found, notes: await unreadFiles(dir, found, isSingle) } : found;
}

/** Files in the folder that look like parts of its checkpoint and are not: other variants, leftovers of another split. */
async function unreadFiles(dir: string, { files }: Found, isSingle: boolean): Promise<string[]> {
  const read = new Set(files.map(({ file }) => file.path));
  const others = (await listFolder(dir)).filter((name) => {
    if (name === INDEX_FILE) return isSingle;
    return /^model.*\.safetensors$/.test(name) && !read.has(join(dir, name));
  });
  if (others.length === 0) return [];
  const reason = isSingle
    ? `${SINGLE_FILE} counts`
    : `${INDEX_FILE} does not name ${others.length === 1 ? "it" : "them"}`;
  return [`${dir}: ${listed(others)} ${others.length === 1 ? "is" : "are"} not read: ${reason}`];
}

async function refuseFolder(dir: string): Promise<never> {
  const names = await listFolder(dir);
  const weights = names.filter((name) => WEIGHT_FILES.test(name));
  const found =
    names.length > 0 ? `found only ${listed(weights.length > 0 ? weights : names, 8)}` : "it is empty";
  const shard = weights.find((name) => /-\d{5}-of-\d{5}\.safetensors$/.test(name));
  const variant = weights.find((name) => /^model\.[\w-]+\.safetensors$/.test(name));
  const advice = shard
    ? `; ${shard} is one of several shards: get ${INDEX_FILE} from where they came from, it says what each holds`
    : variant
      ? `; to use ${variant}, rename it to ${SINGLE_FILE}`
      : "";
  throw new CheckpointError(
    `holds no checkpoint this opens: ${found}; what is read is ${FORMATS_READ}${advice}`,
    { file: dir },
  );
}

function assemble(path: string, { files, disputed, notes }: Found): Checkpoint {
  const tensors = new Map<string, TensorEntry>();
  const foreign = new Map<string, ForeignTensor>();
  const metadata = new Map<string, string>();
  for (const [file, { tensors: entries, foreign: others, metadata: strings }] of files.entries()) {
    for (const entry of entries) tensors.set(entry.name, { ...entry, file });
    for (const other of others) foreign.set(other.name, { ...other, file });
    for (const [key, value] of Object.entries(strings)) if (!metadata.has(key)) metadata.set(key, value);
  }
  return {
    path,
    format: "safetensors",
    files: files.map(({ file }) => file),
    tensors,
    metadata: Object.fromEntries(metadata),
    ...(foreign.size > 0 && { foreign }),
    ...(disputed.size > 0 && { disputed }),
    ...(notes && notes.length > 0 && { notes }),
  };
}
