// Giving back what was taken: every step is run, whatever becomes of the others, and what failed is one error. Knows
// nothing of what is given back.
import { CleanupError } from "../errors.ts";

/** Gives something back. May be called when nothing is left to give back. */
export type CleanupStep = () => unknown;

/** What holds memory, handles or threads until it is disposed of; absent where it was never taken. */
type Held = { dispose(): unknown } | undefined;

/**
 * Runs steps one after another, waiting for each, also those after one that fails. Throws the error of the one that failed;
 * of several, a {@link CleanupError} that names the first and counts the others.
 */
export async function runAll(steps: Iterable<CleanupStep>): Promise<void> {
  const failures: unknown[] = [];
  for (const step of steps) {
    try {
      await step();
    } catch (error) {
      failures.push(error);
    }
  }
  throwThem(failures);
}

/** As {@link runAll}, for steps that give nothing to wait for. */
export function runAllNow(steps: Iterable<() => void>): void {
  const failures: unknown[] = [];
  for (const step of steps) {
    try {
      step();
    } catch (error) {
      failures.push(error);
    }
  }
  throwThem(failures);
}

/** Disposes of each in order, also of those after one that fails: see {@link runAllNow}. */
export function disposeAll(held: Iterable<{ dispose(): void } | undefined>): void {
  runAllNow(Array.from(held, (one) => () => one?.dispose()));
}

/** As {@link disposeAll}, waiting for each: see {@link runAll}. */
export function disposeInTurn(held: Iterable<Held>): Promise<void> {
  return runAll(Array.from(held, (one) => () => one?.dispose()));
}

/**
 * Runs steps after `error`, and throws it again: it is what the caller has to know. What fails while giving back becomes its
 * cause, unless it has one.
 */
export async function undoAfter(error: unknown, steps: Iterable<CleanupStep>): Promise<never> {
  try {
    await runAll(steps);
  } catch (failure) {
    noteCause(error, failure);
  }
  throw error;
}

/** As {@link undoAfter}, for steps that give nothing to wait for. */
export function undoNowAfter(error: unknown, steps: Iterable<() => void>): never {
  try {
    runAllNow(steps);
  } catch (failure) {
    noteCause(error, failure);
  }
  throw error;
}

/** Steps that undo what was done, run once, last first. */
export class Cleanup {
  readonly #steps: CleanupStep[] = [];

  add(step: CleanupStep): void {
    this.#steps.push(step);
  }

  /** Runs every step, last first: see {@link runAll}. A second call has nothing to do. */
  run(): Promise<void> {
    return runAll(this.#steps.splice(0).reverse());
  }

  /** Runs every step after `error`, and throws it: see {@link undoAfter}. */
  runAfter(error: unknown): Promise<never> {
    return undoAfter(error, this.#steps.splice(0).reverse());
  }
}

function throwThem(failures: readonly unknown[]): void {
  if (failures.length === 0) return;
  throw failures.length === 1 ? failures[0] : new CleanupError(failures);
}

function noteCause(error: unknown, failure: unknown): void {
  if (error instanceof Error && error.cause === undefined && Object.isExtensible(error))
    error.cause = failure;
}
