// Reads one whole tensor into memory, for tools and tests. Weights of a running model come through the streamer instead.
import { CheckpointError } from "../../base/errors.ts";
import { readExactly, withFile } from "../files/files.ts";
import type { Checkpoint, TensorEntry } from "../types.ts";

/**
 * The bytes of tensor `name`, row-major and little-endian as they are in the file.
 * Throws CheckpointError if there is no such tensor or if its file changed since the checkpoint was opened, IoError if
 * the file ends early.
 */
export async function readTensor(checkpoint: Checkpoint, name: string): Promise<Uint8Array> {
  const entry = checkpoint.tensors.get(name);
  if (entry === undefined) {
    throw new CheckpointError(`is not among the ${checkpoint.tensors.size} tensors of the checkpoint`, {
      file: checkpoint.path,
      tensor: name,
    });
  }
  const opened = checkpoint.files[entry.file];
  if (opened === undefined) {
    throw new CheckpointError(
      `has file index ${entry.file}, the checkpoint has ${checkpoint.files.length} files`,
      {
        file: checkpoint.path,
        tensor: name,
      },
    );
  }
  return withFile(opened.path, async (handle, { size, mtimeMs }) => {
    if (size !== opened.size || mtimeMs !== opened.mtimeMs) {
      throw new CheckpointError(
        `the file changed since the checkpoint was opened (${opened.size} bytes then, ${size} now): open it again`,
        { file: opened.path, tensor: name },
      );
    }
    const bytes = new Uint8Array(entry.bytes);
    await readExactly(handle, bytes, entry.offset, opened.path);
    return bytes;
  });
}

/** Bytes of a tensor, a block at a time; each is valid until the next is asked for. Throws as {@link readTensor}. */
export async function* tensorBlocks(
  checkpoint: Checkpoint,
  { file, offset, bytes }: TensorEntry,
  blockBytes = 2 ** 20,
): AsyncGenerator<Uint8Array> {
  const { path } = checkpoint.files[file] as Checkpoint["files"][number];
  const block = new Uint8Array(Math.min(blockBytes, bytes));
  for (let at = 0; at < bytes; at += block.length) {
    const part = block.subarray(0, bytes - at);
    await withFile(path, (handle) => readExactly(handle, part, offset + at, path));
    yield part;
  }
}
