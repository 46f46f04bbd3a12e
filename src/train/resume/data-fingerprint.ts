// What tells the files of a dataset from others: the digest of all their bytes. A file that is, by what the system says of
// it, the one that was read before is not read again.
import { createHash } from "node:crypto";
import { basename } from "node:path";
import { throwIfAborted } from "../../base/errors.ts";
import { withFile } from "../../formats/files/files.ts";

export interface FileFingerprint {
  readonly name: string;
  readonly bytes: number;
  readonly sha256: string;
  /** Device, number, size and times. */
  readonly stamp: string;
}

const PIECE = 2 ** 20;

/** In the order of the paths. `known`: what was found earlier. Throws CheckpointError, IoError, AbortError. */
export async function fileFingerprints(
  paths: readonly string[],
  known: readonly FileFingerprint[] = [],
  signal?: AbortSignal,
): Promise<FileFingerprint[]> {
  const found: FileFingerprint[] = [];
  for (const path of paths) {
    const one = await withFile(path, async (handle, { dev, ino, size, mtimeMs, ctimeMs }) => {
      const stamp = [dev, ino, size, mtimeMs, ctimeMs].join(" ");
      const before = known.find((other) => other.stamp === stamp);
      const name = basename(path);
      if (before) return { ...before, name };
      const hash = createHash("sha256");
      const piece = Buffer.allocUnsafe(PIECE);
      for (let at = 0; ; ) {
        throwIfAborted(signal);
        const { bytesRead } = await handle.read(piece, 0, PIECE, at);
        if (bytesRead === 0) break;
        hash.update(piece.subarray(0, bytesRead));
        at += bytesRead;
      }
      return { name, bytes: size, sha256: hash.digest("hex"), stamp };
    });
    found.push(one);
  }
  return found;
}

/** In words, which files are others than before; undefined where none is. */
export function changedFiles(
  before: readonly FileFingerprint[],
  now: readonly FileFingerprint[],
): string | undefined {
  if (before.length !== now.length) return `${before.length} files were given and ${now.length} are`;
  const changed = now.flatMap((file, i) => {
    const old = before[i] as FileFingerprint;
    if (old.sha256 === file.sha256) return [];
    const elsewhere = before.findIndex(({ sha256 }) => sha256 === file.sha256);
    if (elsewhere !== -1) return [`file ${i + 1} (${file.name}) was file ${elsewhere + 1}`];
    const size =
      old.bytes === file.bytes ? `${file.bytes} bytes as before` : `${old.bytes} bytes, now ${file.bytes}`;
    return [`file ${i + 1} (${file.name}) has other contents (${size})`];
  });
  return changed.length > 0 ? changed.join(", ") : undefined;
}

/** Parsed JSON as fingerprints; an empty list where it is none. */
export function fingerprintsIn(value: unknown): FileFingerprint[] {
  if (!Array.isArray(value)) return [];
  return value.filter((one: unknown): one is FileFingerprint => {
    const { name, bytes, sha256, stamp } = (one ?? {}) as Record<string, unknown>;
    return [name, sha256, stamp].every((text) => typeof text === "string") && typeof bytes === "number";
  });
}
