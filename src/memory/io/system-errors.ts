// What the system answers to reads and writes of whole files: which answers mean "ask again", and how the others become
// errors that say what to do.

import { IoError, SpillwayError } from "../../base/errors.ts";
import { systemCode } from "../../base/files/system-code.ts";

/** Largest transfer asked of the system at once: Linux stops at 2 GiB - 4 KiB, Node at 2 GiB. Bytes. */
export const MAX_TRANSFER = 2 ** 30;

/** How often in a row a transfer that made no progress is tried again. */
export const ATTEMPTS = 8;

/** Errors that mean "ask again". */
export const TRANSIENT: ReadonlySet<string> = new Set(["EINTR", "EAGAIN"]);

/** What the system's error codes mean, and what to do. */
export type Hints = Readonly<Record<string, string>>;

/** For somebody whose training state is written. */
export const WRITE_HINTS: Hints = {
  ENOSPC: "the disk is full; free some of it or name another folder",
  EDQUOT: "this user's quota is used up; free some of it or name another folder",
  EIO: "the disk or its connection failed; see the system's log",
  EROFS: "the file system can only be read; name another folder",
  EACCES: "this user may not write there; name another folder",
  EPERM: "this user may not write there; name another folder",
  ENOTDIR: "that is not a folder",
  EMFILE: "this process has too many files open; raise `ulimit -n`",
};

/** The system's code of an error, or of the one an {@link IoError} was made from. */
export function causingCode(error: unknown): string | undefined {
  return error instanceof IoError ? causingCode(error.cause) : systemCode(error);
}

/** An error as an {@link IoError} with its hint; ours stay as they are. `doing`: "opening it". */
export function ioFailure(error: unknown, path: string, doing: string, hints: Hints): SpillwayError {
  if (error instanceof SpillwayError) return error;
  const hint = hints[systemCode(error) ?? ""];
  const detail = error instanceof Error ? error.message : String(error);
  return new IoError(`${doing} failed (${detail})${hint ? `: ${hint}` : ""}`, path, { cause: error });
}
