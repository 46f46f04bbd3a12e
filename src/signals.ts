// Signals that many listen to at once: Node takes more than ten listeners for a leak, and reads in flight are more.
import { setMaxListeners } from "node:events";

/** A signal that fires with the first of those given, for any number of listeners; undefined where there are none. */
export function forManyListeners(first: AbortSignal, ...more: (AbortSignal | undefined)[]): AbortSignal;
export function forManyListeners(...signals: (AbortSignal | undefined)[]): AbortSignal | undefined;
export function forManyListeners(...signals: (AbortSignal | undefined)[]): AbortSignal | undefined {
  const given = signals.filter((signal) => signal !== undefined);
  if (given.length === 0) return undefined;
  const own = AbortSignal.any(given);
  setMaxListeners(0, own);
  return own;
}
