// Every error Spillway throws on purpose. The message holds the numbers and the next step; the code is for programs.
import { printable } from "./shown.ts";
import type { Tier } from "./tiers.ts";

export type ErrorCode =
  | "library" // the tensor library is missing, too old, or reported a failure
  | "checkpoint" // a file of the checkpoint is malformed, incomplete or contradicts its config
  | "config" // config.json or an option has a value that cannot be used
  | "unsupported" // well-formed, but not something this version can do
  | "budget" // does not fit in max_memory
  | "io" // the operating system refused a read or a write
  | "numerics" // a loss or a gradient is not a finite number
  | "graph" // an operation was given tensors it does not take
  | "disposed" // use after dispose
  | "cleanup" // several things could not be given back
  | "aborted"; // an AbortSignal fired

/** The name of each kind of error, which is that of its class. */
const NAMES: Readonly<Record<ErrorCode, string>> = {
  library: "LibraryError",
  checkpoint: "CheckpointError",
  config: "ConfigError",
  unsupported: "UnsupportedError",
  budget: "BudgetError",
  io: "IoError",
  numerics: "NumericsError",
  graph: "GraphError",
  disposed: "DisposedError",
  cleanup: "CleanupError",
  aborted: "AbortError",
};

/**
 * Base of all errors thrown on purpose; `code` says which kind. Names and values of files may stand in a message, so
 * whatever a terminal would obey is escaped here, once for all errors, and what is too long is cut.
 */
export class SpillwayError extends Error {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(printable(message), options);
    this.name = new.target === SpillwayError ? "SpillwayError" : NAMES[code]; // bundlers shorten the names of classes
    this.code = code;
  }
}

/** The tensor library could not be found, loaded or used. */
export class LibraryError extends SpillwayError {
  constructor(message: string, options?: ErrorOptions) {
    super("library", message, options);
  }
}

/** A checkpoint is malformed. `file` and `tensor` name the place where that is known. */
export class CheckpointError extends SpillwayError {
  readonly file: string | undefined;
  readonly tensor: string | undefined;
  constructor(message: string, where: { file?: string; tensor?: string } = {}, options?: ErrorOptions) {
    const place = [where.file, where.tensor && `tensor ${where.tensor}`].filter(Boolean).join(": ");
    super("checkpoint", place ? `${place}: ${message}` : message, options);
    this.file = where.file;
    this.tensor = where.tensor;
  }
}

/** A configuration file or an option holds a value that cannot be used. */
export class ConfigError extends SpillwayError {
  constructor(message: string, options?: ErrorOptions) {
    super("config", message, options);
  }
}

/** The input is well-formed, but this version cannot do it. */
export class UnsupportedError extends SpillwayError {
  constructor(message: string, options?: ErrorOptions) {
    super("unsupported", message, options);
  }
}

/** Something does not fit in `max_memory`. All sizes are bytes; `smallest` is a budget that works, where known. */
export class BudgetError extends SpillwayError {
  readonly tier: Tier;
  readonly needed: number;
  readonly budget: number;
  readonly smallest: number | undefined;
  constructor(
    message: string,
    numbers: { tier: Tier; needed: number; budget: number; smallest?: number | undefined },
  ) {
    super("budget", message);
    this.tier = numbers.tier;
    this.needed = numbers.needed;
    this.budget = numbers.budget;
    this.smallest = numbers.smallest;
  }
}

/** The operating system refused a read or a write, or a file ended early. */
export class IoError extends SpillwayError {
  readonly path: string | undefined;
  constructor(message: string, path?: string, options?: ErrorOptions) {
    super("io", path ? `${path}: ${message}` : message, options);
    this.path = path;
  }
}

/** A graph operation was given tensors it does not take. Thrown before the tensor library sees them. */
export class GraphError extends SpillwayError {
  constructor(message: string, options?: ErrorOptions) {
    super("graph", message, options);
  }
}

/** A loss or a gradient is not a finite number. */
export class NumericsError extends SpillwayError {
  constructor(message: string, options?: ErrorOptions) {
    super("numerics", message, options);
  }
}

/** A disposed model, buffer or file was used. */
export class DisposedError extends SpillwayError {
  constructor(what: string) {
    super("disposed", `${what} was used after dispose()`);
  }
}

/** Several steps of giving memory, files or threads back failed. `cause` is an AggregateError of what each threw. */
export class CleanupError extends SpillwayError {
  constructor(failures: readonly unknown[]) {
    const [first] = failures;
    const others = failures.length - 1;
    const why = first instanceof Error ? first.message : String(first);
    super(
      "cleanup",
      `${why}; ${others} more step${others === 1 ? "" : "s"} of giving back what was taken failed`,
      {
        cause: new AggregateError(failures),
      },
    );
  }
}

/** An AbortSignal fired; `cause` is the signal's reason. `name` is "AbortError", as everywhere on the platform. */
export class AbortError extends SpillwayError {
  constructor(reason?: unknown) {
    super("aborted", "the operation was aborted", { cause: reason });
  }
}

/** Throws {@link AbortError} if the signal has fired. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new AbortError(signal.reason);
}
