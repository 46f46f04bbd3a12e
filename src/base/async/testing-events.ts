// For tests: what has to happen before something else is waited for, never for a time. Not for the program.
import { TestRunner } from "vitest";

/** Lets everything go on that can. */
export const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** Something that is waited for until it is opened. */
export function latch() {
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { open, opened };
}

/** Waits until a condition holds, which other work of the event loop brings about. */
export async function until(condition: () => boolean): Promise<void> {
  const signal = TestRunner.getCurrentTest()?.context.signal; // a test that has run out of time waits no longer
  while (!condition()) {
    signal?.throwIfAborted();
    await turn();
  }
}
