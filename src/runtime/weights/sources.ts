// Where the bytes of each matrix are on disk, and the aligned piece of the file that holds them.

import { type NativeBuffer, PAGE } from "../../backend/ggml/buffer.ts";
import { runAll, undoAfter } from "../../base/async/cleanup.ts";
import { IoError } from "../../base/errors.ts";
import type { Checkpoint } from "../../formats/types.ts";
import { DirectFile } from "../../memory/io/direct-io.ts";
import type { ReadQueue } from "../../memory/io/read-queue.ts";
import type { CopyChecksums } from "./copies/checksums.ts";

/** A range of a file widened to whole pages. All in bytes. */
export interface Piece {
  readonly file: DirectFile;
  /** Start in the file, a multiple of {@link PAGE}. */
  readonly offset: number;
  /** A multiple of {@link PAGE}; the last piece of a file may reach beyond its end. */
  readonly length: number;
  /** Where the wanted bytes begin within the piece. */
  readonly shift: number;
  /** The wanted bytes. */
  readonly bytes: number;
}

/** Bytes in one of the files: a tensor's, or its packed form. */
interface FileRange {
  readonly file: number;
  readonly offset: number;
  readonly bytes: number;
}

/** Where something lies that may change places. */
export interface FilePlace {
  readonly file: DirectFile;
  /** Bytes; what lies at an entry's offset begins so much later. */
  readonly offset: number;
}

/** Length of a piece that holds `bytes` bytes, whatever their offset. */
export function pieceBound(bytes: number): number {
  return (Math.ceil(bytes / PAGE) + 1) * PAGE;
}

/** Reads a piece to byte `at` of host memory. Rejects as {@link ReadQueue.submit}. */
export function readPiece(
  queue: ReadQueue,
  { file, offset, length }: Piece,
  target: NativeBuffer,
  at: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { buffer, byteOffset } = target.bytes(at, length);
  const into = { target: buffer as ArrayBuffer, targetOffset: byteOffset };
  return queue.submit({ file, fileOffset: offset, length, ...into }, signal);
}

/** The open files of a checkpoint. */
export class SourceFiles {
  readonly #files: (DirectFile | (() => FilePlace))[] = [];
  readonly #checksums = new Map<number, CopyChecksums>();

  /** Opens every file; a failure closes those already open. */
  static async open(checkpoint: Checkpoint): Promise<SourceFiles> {
    const sources = new SourceFiles();
    try {
      for (const { path, size, mtimeMs } of checkpoint.files) {
        const file = await DirectFile.open(path);
        sources.#files.push(file);
        if (file.size !== size || file.mtimeMs !== mtimeMs) {
          throw new IoError("the file changed while the checkpoint was opened; open it again", path);
        }
      }
      return sources;
    } catch (error) {
      return await undoAfter(error, [() => sources.close()]);
    }
  }

  /** The piece that holds `length` bytes from byte `start` of what lies at `entry`. */
  piece(entry: FileRange, start = 0, length = entry.bytes): Piece {
    const known = this.#files[entry.file] as DirectFile | (() => FilePlace);
    const place = typeof known === "function" ? known() : { file: known, offset: 0 };
    const from = place.offset + entry.offset + start;
    const offset = Math.floor(from / PAGE) * PAGE;
    const end = Math.ceil((from + length) / PAGE) * PAGE;
    return { file: place.file, offset, length: end - offset, shift: from - offset, bytes: length };
  }

  /**
   * Throws IoError that names the first of these files that was changed since it was opened; of all files where none are
   * named. A question to the system for each, some microseconds.
   */
  async checkUnchanged(numbers?: Iterable<number>): Promise<void> {
    const wanted = numbers === undefined ? this.#files : Array.from(numbers, (n) => this.#files[n]);
    for (const one of wanted) if (one instanceof DirectFile) await one.checkUnchanged();
  }

  /** Opens the files of a second checkpoint too; its entries' file numbers begin at the returned one. */
  async add(checkpoint: Checkpoint, checksums?: CopyChecksums): Promise<number> {
    const first = this.#files.length;
    for (const { path } of checkpoint.files) this.#files.push(await DirectFile.open(path));
    if (checksums) this.#checksums.set(first, checksums);
    return first;
  }

  /** What the bytes of a tensor are to be compared with, where it lies in a copy that we made. */
  checksums(entry: { readonly file: number }): CopyChecksums | undefined {
    return this.#checksums.get(entry.file);
  }

  /** Adds a place in a file that somebody else closes: asked for at every read, whose entries' offsets begin there. */
  addPlace(place: () => FilePlace): number {
    return this.#files.push(place) - 1;
  }

  async close(): Promise<void> {
    await runAll(
      this.#files.splice(0).map((one) => () => (typeof one === "function" ? undefined : one.close())),
    );
  }
}
