// Long work in JavaScript that lets timers, signals and other requests through.
import { setImmediate } from "node:timers/promises";

/** Milliseconds of work between two turns of the event loop. */
const SLICE_MS = 20;

/** To be awaited in every round of a long loop: gives the event loop a turn when the last one is {@link SLICE_MS} ago. */
export class Slices {
  #since = performance.now();

  async next(): Promise<void> {
    if (performance.now() - this.#since < SLICE_MS) return;
    await setImmediate();
    this.#since = performance.now();
  }
}
