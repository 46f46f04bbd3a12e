// Opens a saved training state and brings its tensors back into regions, on whatever tier those are now. All is compared
// before the first byte moves.
import { resolve } from "node:path";
import { crc32 } from "node:zlib";
import type { BufferType } from "../../backend/ggml/buffer.ts";
import { CheckpointError, IoError, throwIfAborted } from "../../base/errors.ts";
import { statIfPresent } from "../../formats/files/files.ts";
import { readSafetensors } from "../../formats/safetensors/safetensors.ts";
import type { Checkpoint, CheckpointFile, TensorEntry } from "../../formats/types.ts";
import type { BeforeRead } from "../../memory/io/direct-io.ts";
import type { Ledger } from "../../memory/ledger.ts";
import { SourceFiles } from "../../runtime/weights/sources.ts";
import { latestCheckpoint } from "./list.ts";
import { RECORD_FILE, readRecord } from "./record.ts";
import { PIECE, Staging } from "./staging.ts";
import { checkStateTensors, type StateTensor } from "./tensors.ts";

/** A whole checkpoint, its headers read and no file held open. */
export interface OpenedCheckpoint {
  /** Absolute, of its folder. */
  readonly path: string;
  readonly step: number;
  readonly eval_loss: number | undefined;
  readonly meta: Readonly<Record<string, unknown>>;
  readonly tensors: Checkpoint;
  /** CRC-32 of each tensor's bytes, by its name. */
  readonly checksums: Readonly<Record<string, number>>;
}

export interface RestoreOptions {
  /** Two pieces of 4 MiB are entered here, on cpu. */
  readonly ledger: Ledger;
  /** Host memory. */
  readonly memory: BufferType;
  readonly signal?: AbortSignal | undefined;
  /** Called before the first region changes. */
  readonly onBegun?: (() => void) | undefined;
  /** For fault injection. */
  readonly beforeRead?: BeforeRead | undefined;
}

/**
 * Opens the checkpoint in the folder `path`, one of those that listCheckpoints names. Throws CheckpointError naming the
 * file (and tensor) for anything missing, cut short or malformed, UnsupportedError for a later version, IoError.
 */
export async function openTrainingCheckpoint(path: string): Promise<OpenedCheckpoint> {
  const folder = resolve(path);
  const {
    step,
    eval_loss,
    meta,
    checksums,
    files: named,
  } = await readRecord(folder).catch((error: unknown) => hinted(error, folder));
  const files: CheckpointFile[] = [];
  const tensors = new Map<string, TensorEntry>();
  for (const [file, { name }] of named.entries()) {
    const read = await readSafetensors(resolve(folder, name));
    files.push(read.file);
    for (const entry of read.tensors) {
      const other = tensors.get(entry.name);
      if (other) {
        const problem = `is also in ${named[other.file]?.name}: the files are of different checkpoints`;
        throw new CheckpointError(problem, { file: read.file.path, tensor: entry.name });
      }
      tensors.set(entry.name, { ...entry, file });
    }
  }
  const checkpoint: Checkpoint = { path: folder, format: "safetensors", files, tensors, metadata: {} };
  return { path: folder, step, eval_loss, meta, tensors: checkpoint, checksums };
}

/** The folder above is easily given instead of the checkpoint itself. */
async function hinted(error: unknown, folder: string): Promise<never> {
  if (!(error instanceof CheckpointError)) throw error;
  const stats = await statIfPresent(folder);
  if (stats === undefined) throw new CheckpointError("does not exist", { file: folder });
  const inside = stats.isDirectory() ? await latestCheckpoint(folder) : undefined;
  if (!inside) throw error;
  throw new CheckpointError(
    `holds no ${RECORD_FILE}, but checkpoints: give one of them, such as ${inside.path}`,
    {
      file: folder,
    },
  );
}

/**
 * Reads every tensor of `opened` into its region. `tensors` must be exactly those of the checkpoint, with the same dtypes
 * and shapes; where they are not, CheckpointError names the tensor and the file, and no region has changed.
 *
 * Throws CheckpointError for a tensor whose bytes are not those that were saved, IoError where a file or a region fails or a file changed since it was opened, BudgetError, AbortError. Regions
 * that had been begun are then marked torn where the tensor fills them, so that a mixture of two states is never trained on;
 * restoring again mends them. Nothing else may use the regions meanwhile.
 */
export async function restoreTensors(
  opened: OpenedCheckpoint,
  tensors: readonly StateTensor[],
  options: RestoreOptions,
): Promise<void> {
  const { ledger, memory, signal, beforeRead, onBegun } = options;
  throwIfAborted(signal);
  const pairs = matched(opened, tensors);
  const begun = new Set<StateTensor>();
  await using staging = new Staging(ledger, memory);
  const files = await SourceFiles.open(opened.tensors);
  try {
    for (const { tensor, entry } of pairs) {
      const { region, offset = 0 } = tensor;
      let sum = 0;
      for (let done = 0; done < entry.bytes; ) {
        throwIfAborted(signal);
        const start = done;
        // After the first piece of a tensor, every one begins at a block of the file.
        const { shift } = files.piece(entry, start, 0);
        const {
          file,
          offset: from,
          length,
          bytes,
        } = files.piece(entry, start, Math.min(entry.bytes - start, PIECE - shift));
        await file.read(staging.current.view(0, length), 0, from, length, { signal, beforeRead });
        sum = crc32(new Uint8Array(staging.current.view(shift, bytes)), sum);
        if (begun.size === 0) onBegun?.();
        begun.add(tensor);
        await staging.submit((piece) =>
          region.write(piece, shift, offset + start, bytes, signal).catch((error: unknown) => {
            if (!(error instanceof IoError)) throw error;
            throw new IoError(`tensor ${tensor.name}: ${error.message}`, error.path, { cause: error });
          }),
        );
        done += bytes;
      }
      if (sum !== opened.checksums[tensor.name]) {
        const problem =
          "does not have the checksum it was saved with: the checkpoint is damaged; resume from another";
        throw new CheckpointError(problem, {
          file: opened.tensors.files[entry.file]?.path,
          tensor: tensor.name,
        });
      }
    }
    await staging.drain();
  } catch (error) {
    await staging.drain().catch(() => {});
    for (const { region, offset = 0, bytes } of begun) {
      if (offset === 0 && bytes === region.bytes)
        region.markTorn(`restoring ${opened.path} did not complete`);
    }
    throw error;
  } finally {
    await files.close();
  }
}

interface Pair {
  readonly tensor: StateTensor;
  readonly entry: TensorEntry;
}

/** In the order of the files. */
function matched({ path, tensors: checkpoint }: OpenedCheckpoint, tensors: readonly StateTensor[]): Pair[] {
  checkStateTensors(path, tensors);
  const pairs = tensors.map((tensor): Pair => {
    const { name, dtype, shape } = tensor;
    const entry = checkpoint.tensors.get(name);
    if (!entry) {
      const problem = `is not among the ${checkpoint.tensors.size} tensors of the checkpoint, which is of other training`;
      throw new CheckpointError(problem, { file: path, tensor: name });
    }
    const file = checkpoint.files[entry.file]?.path ?? path;
    const same = shape.length === entry.shape.length && shape.every((n, i) => n === entry.shape[i]);
    if (dtype !== entry.dtype || !same) {
      throw new CheckpointError(
        `was saved as ${entry.dtype} [${entry.shape}], is wanted as ${dtype} [${shape}]: resume with the options it was saved with`,
        { file, tensor: name },
      );
    }
    return { tensor, entry };
  });
  const wanted = new Set(tensors.map(({ name }) => name));
  for (const { name, file } of checkpoint.tensors.values()) {
    if (wanted.has(name)) continue;
    throw new CheckpointError(
      `was saved, but this training has no place for it (${tensors.length} tensors wanted, ${checkpoint.tensors.size} saved): ` +
        "resume with the options it was saved with",
      { file: checkpoint.files[file]?.path ?? path, tensor: name },
    );
  }
  return pairs.sort((a, b) => a.entry.file - b.entry.file || a.entry.offset - b.entry.offset);
}
