// Places for reads and writes in the process's pool of threads, so that whoever computes there never waits for a disk, and
// so that what is needed soon goes before what can wait. It knows nothing of files.
import { ConfigError } from "../../base/errors.ts";

/** Nothing goes on without the bytes; they are needed soon; or they are moved beside the work that goes on. */
export type Urgency = "now" | "soon" | "beside";

/** Threads of libuv's pool, which does all file reads and foreign calls of this process. */
export function poolThreads(env: NodeJS.ProcessEnv = process.env): number {
  const threads = Number.parseInt(env.UV_THREADPOOL_SIZE ?? "4", 10);
  // libuv itself takes 0 and rubbish for 1, and stops at 1024.
  return Number.isNaN(threads) ? 1 : Math.min(Math.max(threads, 1), 1024);
}

/** Reads that may be in flight: every thread of the pool but one, which is left for compute. */
export function defaultDepth(env: NodeJS.ProcessEnv = process.env): number {
  return Math.max(1, poolThreads(env) - 1);
}

export class IoTurns {
  readonly places: number;
  #taken = 0;
  readonly #waiting: Record<Urgency, (() => void)[]> = { now: [], soon: [], beside: [] };

  /** Throws ConfigError for what is not a number of places. */
  constructor(places: number) {
    if (!Number.isSafeInteger(places) || places < 1) {
      throw new ConfigError(`${places} reads and writes at once: it must be a whole number of at least 1`);
    }
    this.places = places;
  }

  /** Takes a place, which {@link leave} gives back: at once, or when the promise that is returned resolves. */
  enter(urgency: Urgency): Promise<void> | undefined {
    if (this.#taken < this.places) {
      this.#taken++;
      return undefined;
    }
    return new Promise<void>((resolve) => this.#waiting[urgency].push(resolve));
  }

  /** The place goes to what is needed soonest, and there to whoever has waited longest. */
  leave(): void {
    const { now, soon, beside } = this.#waiting;
    const next = now.shift() ?? soon.shift() ?? beside.shift();
    if (next) next();
    else this.#taken--;
  }
}

let shared: IoTurns | undefined;

/** The places that all queues of the process share. */
export function processTurns(): IoTurns {
  shared ??= new IoTurns(defaultDepth());
  return shared;
}
