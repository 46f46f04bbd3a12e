// Signals that many listen to at once: Node takes more than ten listeners for a leak, and reads in flight are more.
import { setMaxListeners } from "node:events";

/** A signal that fires with the first of others. */
export interface LinkedSignal {
  /** For any number of listeners; undefined where there was nothing to link. */
  readonly signal: AbortSignal | undefined;
  /** Takes the listeners off the others, which may live much longer. To be called when nothing listens any more. */
  unlink(): void;
}

/**
 * Links signals for as long as one piece of work takes. AbortSignal.any would do without an end, but leaves something
 * behind in every signal it was given, and there is one piece of work for every token.
 */
export function linkSignals(
  first: AbortSignal,
  ...more: (AbortSignal | undefined)[]
): LinkedSignal & { readonly signal: AbortSignal };
export function linkSignals(...signals: (AbortSignal | undefined)[]): LinkedSignal;
export function linkSignals(...signals: (AbortSignal | undefined)[]): LinkedSignal {
  const given = signals.filter((signal) => signal !== undefined);
  if (given.length === 0) return { signal: undefined, unlink() {} };
  const own = new AbortController();
  setMaxListeners(0, own.signal);
  const fired = given.find((signal) => signal.aborted);
  if (fired) {
    own.abort(fired.reason);
    return { signal: own.signal, unlink() {} };
  }
  const links = given.map((signal) => {
    const onAbort = () => own.abort(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    return () => signal.removeEventListener("abort", onAbort);
  });
  return {
    signal: own.signal,
    unlink() {
      for (const undo of links) undo();
    },
  };
}

/** Runs work under a signal that fires with the first of others, and unlinks it when the work has settled. */
export async function withLinked<T>(
  signals: readonly (AbortSignal | undefined)[],
  work: (signal: AbortSignal | undefined) => Promise<T>,
): Promise<T> {
  const { signal, unlink } = linkSignals(...signals);
  try {
    return await work(signal);
  } finally {
    unlink();
  }
}
