// For tests: what has to happen before something else is waited for, never for a time. Not for the program.

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
  while (!condition()) await turn();
}
