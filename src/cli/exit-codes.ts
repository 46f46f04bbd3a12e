// What the shell is told: which error means which exit code. Those of signals are in io.ts, where signals come in.
import { CommanderError } from "commander";
import { AbortError, BudgetError, ConfigError, SpillwayError } from "../base/errors.ts";
import { Interruption, ReaderLeft } from "./io.ts";

export const EXIT = {
  done: 0,
  failed: 1,
  /** A command, option or setting that cannot be used. */
  usage: 2,
  /** Does not fit in the budget. */
  budget: 3,
} as const;

/** A failure as it is told: to the shell, to people, and to programs that asked for JSON. */
export interface Failure {
  readonly exitCode: number;
  readonly message: string;
  readonly code: string;
  /** The user has been told already, or need not be. */
  readonly said?: boolean;
}

/** A failure whose JSON document has been printed already; `cause` is what failed. */
export class ToldInJson extends Error {}

/** The user asked for something that makes no sense; `message` says what to write instead. */
export class UsageError extends Error {}

/** What an error means. Errors nobody threw on purpose say so, because they are defects. */
export function exitOf(error: unknown, signal: AbortSignal): Failure {
  if (error instanceof ToldInJson) return exitOf(error.cause, signal);
  if (error instanceof ReaderLeft)
    return { exitCode: EXIT.done, message: error.message, code: "closed", said: true };
  if (isAbort(error)) {
    const reason: unknown = signal.aborted ? signal.reason : error.cause;
    if (reason instanceof Interruption)
      return { exitCode: reason.exitCode, message: "interrupted", code: "aborted" };
  }
  if (error instanceof UsageError) return { exitCode: EXIT.usage, message: error.message, code: "usage" };
  if (error instanceof CommanderError) {
    // Help and version end parsing by an error too.
    const exitCode = error.exitCode === 0 ? EXIT.done : EXIT.usage;
    return { exitCode, message: error.message.replace(/^error: /, ""), code: "usage", said: true };
  }
  if (error instanceof SpillwayError) {
    const exitCode =
      error instanceof BudgetError ? EXIT.budget : error instanceof ConfigError ? EXIT.usage : EXIT.failed;
    return { exitCode, message: error.message, code: error.code };
  }
  const message = error instanceof Error ? error.message : String(error);
  return {
    exitCode: EXIT.failed,
    message: `unexpected: ${message} (SPILLWAY_DEBUG=1 shows where)`,
    code: "unexpected",
  };
}

function isAbort(error: unknown): error is Error {
  return error instanceof AbortError || (error instanceof Error && error.name === "AbortError");
}
